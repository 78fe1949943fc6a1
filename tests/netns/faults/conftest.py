"""Fixtures: the cluster whose node a has the faults, and the report of their effects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.cluster.fake_flanneld import FakeFlanneld
from tests.netns.cluster.lab import Cluster
from tests.netns.cluster.node import Member
from vxland.lab import shell

from .fault_report import FaultReport


@pytest.fixture(scope="package")
def report() -> Iterator[FaultReport]:
    """The report to which each test adds its row; VXLAND_RELIABILITY=1 writes it to the page."""
    found = FaultReport()
    yield found
    print(found.text())  # noqa: T201  (-rP shows it)
    if os.environ.get("VXLAND_RELIABILITY"):
        found.write()


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[tuple[Cluster, FakeFlanneld]]:
    """Node a runs vxland, c the kernel's vxlan as flanneld sets it up; each has a pod."""
    conf: dict[str, object] = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
    made = Cluster(tmp_path_factory.mktemp("faults"), conf, "ac")
    try:
        made.build()
        member = made.member("a")
        member.start()
        member.node.attach_pod(member.subnet_env())
        flanneld = made.flanneld("c")
        subnet = "10.244.200.0" if made.name_of("a") != "10.244.200.0-24" else "10.244.201.0"
        flanneld.start({4: f"{subnet}/24"})
        made.nodes["c"].attach_pod(f"FLANNEL_SUBNET={subnet[:-1]}1/24\nFLANNEL_MTU=1450\n")
        made.agree("at start")
        yield made, flanneld
    finally:
        made.down()


@pytest.fixture
def a(cluster: Cluster) -> Iterator[Member]:
    """Node a, running before and after each test."""
    member = cluster.members["a"]
    yield member
    if not member.running:
        member.start()


@pytest.fixture
def daemon_only(a: Member) -> Iterator[None]:
    """Node a without the fast path: programs send past the firewall, and count nothing that the underlay drops."""
    a.stop()
    a.settings["datapath"]["fast_path"] = "off"
    a.start()
    yield
    a.settings["datapath"]["fast_path"] = "auto"
    a.stop()
    a.start()


@pytest.fixture(scope="package")
def cluster(built: tuple[Cluster, FakeFlanneld]) -> Cluster:
    """The nodes and their store."""
    return built[0]


@pytest.fixture(scope="package")
def c(built: tuple[Cluster, FakeFlanneld]) -> FakeFlanneld:
    """The fake flanneld of node c."""
    return built[1]


@pytest.fixture(scope="session")
def rounds() -> int:
    """The number of times that a process is killed."""
    return int(os.environ.get("VXLAND_ROUNDS", "20"))


@pytest.fixture
def memory_group(a: Member) -> Iterator[Path]:
    """A control group for node a's memory, in either version of the hierarchy; removed at the end."""
    base = Path("/sys/fs/cgroup/memory")
    if not base.is_dir():
        base = Path("/sys/fs/cgroup")
    group = base / f"vxland-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(a.pid))
        yield group
    finally:
        if a.running:
            (base / "cgroup.procs").write_text(str(a.pid))
        group.rmdir()


@pytest.fixture
def small_disk(a: Member, tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB for node a's subnet.env."""
    place, before = tmp_path / "small", a.subnet_file
    place.mkdir()
    shell.run("mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place))
    try:
        a.subnet_file = place / "subnet.env"
        yield place
    finally:
        a.subnet_file = before
        shell.run("umount", "--lazy", str(place))
