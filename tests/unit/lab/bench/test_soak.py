"""Conditions under which memory counts as flat."""

from __future__ import annotations

import pytest

from vxland.lab.bench.soak import SoakSample, growth
from vxland.model.errors import StartError


def samples(rss: list[float], files: list[int]) -> list[SoakSample]:
    """Samples of node 1; node 2 stays constant."""
    return [
        SoakSample(float(at), (mib, 50.0), (count, 20), ({}, {}))
        for at, (mib, count) in enumerate(zip(rss, files, strict=True))
    ]


def test_warming_up_is_no_growth() -> None:
    """The growth of the first third does not count, nor does a single peak."""
    assert growth(samples([40, 50, 60, 60, 61, 60, 60, 75, 60], [18, 20, 20, 20, 20, 20, 20, 20, 20])) == (0.0, 0)


def test_a_leak_is_growth() -> None:
    """The worse node decides."""
    mib, files = growth(samples([50.0 + at for at in range(9)], [20 + at for at in range(9)]))
    assert mib == 3.0
    assert files == 3


def test_too_short_a_run_is_refused() -> None:
    """Two samples cannot be divided into thirds."""
    with pytest.raises(StartError, match="a minute"):
        growth(samples([50, 50], [20, 20]))
