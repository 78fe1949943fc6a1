"""Fixtures of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .confinement import open_place
from .daemon import Gear
from .lab import Lab, Vxland


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland in either gear, node b the kernel's vxlan as flannel configures it; one lab per module."""
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
    """Bring the lab up, and always down again."""
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder for a daemon that does not run as root."""
    with open_place() as folder:
        yield folder
