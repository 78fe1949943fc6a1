"""The lab as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .lab import Gear, Lab, Vxland


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland in either gear, node b the kernel's vxlan as flannel configures it; for a whole module."""
    gear: Gear = request.param
    yield from running(Lab(tmp_path_factory.mktemp("lab"), gear))


@pytest.fixture
def lone(tmp_path: Path, _able: None) -> Iterator[Vxland]:
    """A vxland without peers, not started."""
    made = Lab(tmp_path, "compiled")
    try:
        made.build()
        yield made.vxland
    finally:
        made.down()


def running(made: Lab) -> Iterator[Lab]:
    """The lab, up, and down again whatever happens."""
    try:
        made.up()
        yield made
    finally:
        made.down()
