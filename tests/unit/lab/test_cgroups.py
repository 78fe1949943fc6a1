"""Weights and limits of control groups; tests/netns/test_bench.py makes real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from vxland.lab.cgroups import settings


@pytest.mark.parametrize(
    ("request_cpus", "limit", "one", "two"),
    [
        (0.1, 0.1, ("102", "10000"), ("4", "10000 100000")),
        (1.0, None, ("1024", "-1"), ("39", "max 100000")),
    ],
)
def test_settings(
    tmp_path: Path, request_cpus: float, limit: float | None, one: tuple[str, str], two: tuple[str, str]
) -> None:
    """The weights of docs/kubernetes.md for both versions, and the limit of a period of 100 ms."""
    assert settings(tmp_path, request_cpus, limit) == {
        "cpu.shares": one[0],
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": one[1],
    }
    (tmp_path / "cpu.weight").touch()
    assert settings(tmp_path, request_cpus, limit) == {"cpu.weight": two[0], "cpu.max": two[1]}
