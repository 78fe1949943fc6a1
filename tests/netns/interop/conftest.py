"""Fixtures of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .confinement import PYTHON, open_place, readable_packages
from .lab import Lab, Node, Vxland

every_data_path = pytest.mark.parametrize(
    "lab", ["compiled", "interpreted", "fast-path"], indirect=True, scope="module"
)


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland in either gear, node b the kernel's vxlan as flannel configures it; one lab per module."""
    yield from running(Lab(tmp_path_factory.mktemp("lab"), request.param))


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


@pytest.fixture(scope="session")
def packages(_able: None) -> Iterator[Path]:
    """A site-packages folder with vxland that every user can read; skip the test if none can run Python."""
    if not Path(PYTHON).exists():
        pytest.skip(f"there is no {PYTHON}, which every user can run")
    with readable_packages() as folder:
        yield folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """The namespaces, without flannel.1."""
    lab = Lab(tmp_path_factory.mktemp("lab"), "compiled")
    try:
        lab.build()
        yield lab
    finally:
        lab.down()


@pytest.fixture
def node(bare: Lab) -> Iterator[Node]:
    """Node a, without flannel.1."""
    yield bare.a
    if "flannel.1" in bare.a.ns.links():
        bare.a.ns.ip("link delete flannel.1")


@pytest.fixture
def vxland(node: Node, tmp_path: Path) -> Iterator[Vxland]:
    """A vxland of node a with valid settings, not started."""
    daemon = Vxland(node, tmp_path, "compiled")
    daemon.peers.append({"subnet": ["10.244.1.0/24"], "vtep": "192.168.111.129", "mac": "3a:87:cf:81:6a:ce"})
    try:
        yield daemon
    finally:
        daemon.stop()
