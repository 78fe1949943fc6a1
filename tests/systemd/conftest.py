"""Two booted nodes for all tests here: made before the first, removed after the last, on failure and Ctrl-C too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import ROOT
from tests.systemd.node import Node, Service, booted
from tests.systemd.rootfs import SUITES, prepared

SCRATCH = ROOT / "build" / "systemd"
PYTHONS = [f"{major}.{minor}" for major, minor in SUITES]
SUITE_OF = dict(zip(PYTHONS, SUITES.values(), strict=True))


@pytest.fixture(scope="session")
def nodes() -> Iterator[tuple[Node, Node]]:
    """Both nodes, booted and connected, without a running vxland."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with booted(prepared(SCRATCH), f"vxs-{os.getpid()}", SCRATCH) as pair:
        yield pair


@pytest.fixture(scope="session")
def services(nodes: tuple[Node, Node]) -> tuple[Service, Service]:
    """vxland.service of both nodes, with valid files; neither is started yet."""
    pair = Service(nodes[0]), Service(nodes[1])
    for service in pair:
        service.write()
    return pair


@pytest.fixture
def running(services: tuple[Service, Service]) -> tuple[Service, Service]:
    """Both services, started."""
    for service in services:
        service.systemctl("start")
    return services


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file for a ping's output."""
    return tmp_path / "ping"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of this checkout, for each Python of a Debian that is here with its headers."""
    folder = tmp_path_factory.mktemp("wheels")
    wanted = [word for python in PYTHONS for word in ("--python", python)]
    subprocess.run((sys.executable, "-m", "tools.wheels", *wanted, "--dist", folder), check=True, cwd=ROOT)
    return folder


def wheel_for(python: str, wheels: Path) -> Path:
    """Return the wheel for one Python, or skip the test."""
    found = list(wheels.glob(f"*-cp{python.replace('.', '')}-*.whl"))
    if not found:
        pytest.skip(f"Python {python} is not here with its headers")
    return found[0]
