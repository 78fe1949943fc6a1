"""Faults of node a's process, and of its machine.   fault.py, test_network.py: the requirements."""

from __future__ import annotations

import random
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.netns.cluster.lab import GATEWAY, Cluster
from tests.netns.cluster.node import METRICS_PORT, Member
from tests.netns.interop.lab import PORT
from tests.netns.interop.manager import Manager
from tests.patience import PATIENCE_S

from .fault import OFF, faulted
from .fault_report import FaultReport

pytestmark = pytest.mark.netns

PAUSE_S = 10.0
MEMORY = 192 << 20
FLOOD = 100_000
HELD = 4  # datagrams that a killed process may have been processing, at a hundred a second


@pytest.fixture
def kept(a: Member, tmp_path: Path) -> Iterator[Member]:
    """Node a under a service manager that stores its descriptors."""
    manager = Manager(tmp_path)
    a.stop()
    a.manager = manager
    a.start()
    try:
        yield a
    finally:
        a.stop()
        a.manager = None
        manager.close()


def test_it_is_stopped_for_long(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """SIGSTOP for 10 s: the kernel's queues hold all of it, and it arrives late."""
    with faulted(cluster, report, 20, f"SIGSTOP, and SIGCONT after {PAUSE_S:.0f} s") as fault:
        a.send_signal(signal.SIGSTOP)
        fault.lasts(PAUSE_S)
        a.send_signal(signal.SIGCONT)
    assert not fault.lost
    a.wait_ready()


def test_it_is_killed_without_a_manager(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """Programs go on while no process runs."""
    with faulted(cluster, report, 21, "`kill -9` without a service manager, started again at once") as fault:
        a.stop(signal.SIGKILL)
        fault.lasts(0)
        a.start()
    assert not fault.lost


@pytest.mark.usefixtures("daemon_only")
def test_it_is_killed_without_a_manager_and_programs(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """Datagrams are lost while no process runs; device, routes and neighbours stay."""
    with faulted(cluster, report, 22, f"`kill -9` without a service manager, started again at once; {OFF}") as fault:
        a.stop(signal.SIGKILL)
        fault.lasts(0)
        a.start()


def test_it_is_killed_again_and_again(cluster: Cluster, report: FaultReport, kept: Member, rounds: int) -> None:
    """At random moments, also during its start: with the stored queues only the datagrams in processing are lost."""
    moments = random.Random(rounds)  # noqa: S311  (moments, not secrets)
    name = f"`kill -9` at {rounds} random moments, with the descriptor store"
    with faulted(cluster, report, 23, name) as fault:
        for number in range(rounds):
            if number % 2:  # otherwise no process would ever forward the queued datagrams
                kept.wait_ready()
            time.sleep(moments.uniform(0.0, 0.5))
            kept.stop(signal.SIGKILL)
            kept.launch()
        fault.lasts(0)
        kept.wait_ready()
    assert fault.lost <= rounds * HELD


def test_it_has_no_descriptors_left(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """Clients wait, and are served once there are free descriptors; no frame is lost."""
    before = resource.prlimit(a.pid, resource.RLIMIT_NOFILE)
    used = len(list(Path(f"/proc/{a.pid}/fd").iterdir()))
    with faulted(cluster, report, 24, "no file descriptor left for 2 s, the store away") as fault:
        resource.prlimit(a.pid, resource.RLIMIT_NOFILE, (used, before[1]))
        cluster.etcd.stop()
        cluster.etcd.start()
        asking = a.ns.inside(lambda: socket.create_connection(("127.0.0.1", METRICS_PORT), PATIENCE_S))
        fault.lasts(2)
        resource.prlimit(a.pid, resource.RLIMIT_NOFILE, before)
        asking.close()
        a.wait_for("registry_recovered")
    assert not fault.lost
    a.wait_ready()


def test_its_memory_is_limited(cluster: Cluster, report: FaultReport, a: Member, memory_group: Path) -> None:
    """A control group, a flood from an unknown sender and a flood of frames from the pod: memory does not grow."""
    limit = memory_group / "memory.limit_in_bytes"
    (limit if limit.exists() else memory_group / "memory.max").write_text(str(MEMORY))
    pod, peer = a.node.pod_ns, (cluster.nodes["c"].pod[4], 9)
    name = f"{MEMORY >> 20} MiB of memory, floods from a pod and an unknown sender"
    with faulted(cluster, report, 25, name) as fault:
        with pod.socket(a.node.pod[4]) as sender, cluster.net.socket(GATEWAY[4]) as unknown:
            for _ in range(FLOOD):
                sender.sendto(bytes(600), peer)
                unknown.sendto(bytes(600), (a.node.underlay[4], PORT))
        fault.lasts(0)
    a.wait_ready()


def test_the_disk_is_full_at_a_start(cluster: Cluster, report: FaultReport, a: Member, small_disk: Path) -> None:
    """The log names the file that cannot be written; the next start, with space, continues."""
    ballast = small_disk / "ballast"
    with faulted(cluster, report, 26, "disk full at a restart, room again after 2 s") as fault:
        a.stop()
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        a.launch()
        assert a.wait() == 1
        assert f"{a.subnet_file} cannot be written: No space left on device" in a.said()
        fault.lasts(2)
        ballast.unlink()
        a.start()
