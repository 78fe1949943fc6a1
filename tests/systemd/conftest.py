"""Two booted nodes for all tests here: made before the first, removed after the last, on failure and Ctrl-C too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import ROOT
from tests.systemd.node import Node, Service, booted
from tests.systemd.rootfs import prepared

SCRATCH = ROOT / "build" / "systemd"


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
