"""Two booted nodes for all tests here: made before the first, removed after the last, on failure and Ctrl-C too."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import ROOT
from tests.systemd.node import Node, Service
from tests.systemd.rootfs import prepared
from vxland.lab import shell

SCRATCH = ROOT / "build" / "systemd"


@pytest.fixture(scope="session")
def nodes() -> Iterator[tuple[Node, Node]]:
    """Both nodes, booted and connected, without a running vxland."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    root = prepared(SCRATCH)
    name = f"vxs-{os.getpid()}"
    lab = SCRATCH / name
    pair = Node(name, 0, root, lab), Node(name, 1, root, lab)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for node in pair:
            node.create()
        shell.run("ip", "-n", pair[0].name, "link", "add", "e0", "type", "veth", "peer", "e0", "netns", pair[1].name)
        for node in pair:
            node.connect()
            node.boot()
        for node in pair:
            node.wait_booted()
        yield pair
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for node in pair:
            node.down()
        shutil.rmtree(lab, ignore_errors=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, before)


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
