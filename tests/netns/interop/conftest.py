"""The lab as a fixture; the tests are skipped, with the reason, where there can be none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from vxland.demo import shell

from .lab import Gear, Lab

PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "ping": "iputils-ping",
    "ethtool": "ethtool",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


@pytest.fixture(scope="session")
def _able() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not shell.TUN.exists():
        pytest.skip(f"there is no {shell.TUN}")
    lacking = {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    if lacking:
        pytest.skip(f"apt-get install {' '.join(sorted(lacking))}")


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland in either gear, node b the kernel's vxlan as flannel configures it; for a whole module."""
    gear: Gear = request.param
    yield from running(Lab(tmp_path_factory.mktemp("lab"), gear))


def running(made: Lab) -> Iterator[Lab]:
    """The lab, up, and down again whatever happens."""
    try:
        made.up()
        yield made
    finally:
        made.down()
