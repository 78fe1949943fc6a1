"""Restarts under a service manager that stores descriptors: queued frames arrive, unusable descriptors are closed.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pinging import Pinging

from .conftest import running
from .daemon import Gear
from .lab import Lab
from .manager import Manager
from .ns import wait_until
from .traffic import ping, send_tcp

pytestmark = pytest.mark.netns

DATAGRAMS = 100  # each way; a TAP queue holds 1000


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """The lab, whose vxland a manager starts."""
    gear: Gear = request.param
    yield from managed(tmp_path_factory.mktemp("managed"), gear)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """The same in the compiled gear, the only one with several workers."""
    yield from managed(tmp_path_factory.mktemp("compiled"), "compiled")


def managed(directory: Path, gear: Gear) -> Iterator[Lab]:
    """Bring the lab up, with a manager."""
    made = Lab(directory, gear)
    made.vxland.settings["datapath"] |= {"workers": 2 if gear == "compiled" else 1}
    made.vxland.manager = manager = Manager(directory, watchdog_s=0.3)
    try:
        yield from running(made)
    finally:
        manager.close()


def manager_of(lab: Lab) -> Manager:
    """Return the manager that starts vxland."""
    assert isinstance(lab.vxland.manager, Manager)
    return lab.vxland.manager


def expected(workers: int, senders: int = 16) -> list[str]:
    """Return the names of the descriptors that a daemon with so many workers stores."""
    queues = [f"{role}/flannel.1/{number}" for role in ("tap", "receive") for number in range(workers)]
    return sorted(queues + [f"send/flannel.1/{number}" for number in range(senders)])


def bound_ports(lab: Lab) -> list[str]:
    """Return the UDP ports of node a, which only vxland uses."""
    return sorted(line.split()[3] for line in lab.a.ns.run("ss", "-Hlun").splitlines())


@contextmanager
def crossing(lab: Lab) -> Iterator[None]:
    """Send datagrams both ways before the body; after it all have arrived, in order."""
    with lab.a.pod_ns.socket(lab.a.pod[4]) as near, lab.b.pod_ns.socket(lab.b.pod[4]) as far:
        content = [bytes([number]) * 1000 for number in range(DATAGRAMS)]
        for source, target in ((near, far), (far, near)):
            target.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
            for each in content:
                source.sendto(each, target.getsockname())
        yield
        for target in (near, far):
            assert [target.recv(2000) for _ in content] == content


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_queued_frames_arrive_after_a_restart(lab: Lab, number: signal.Signals) -> None:
    """Between two daemons, stopped or killed, frames of both directions wait in the kernel, and none is lost."""
    ports = bound_ports(lab)
    lab.vxland.stop(number)
    with crossing(lab):
        lab.vxland.start()
    assert bound_ports(lab) == ports
    assert lab.vxland.stop() == 0
    assert {*lab.vxland.drops("encap"), *lab.vxland.drops("decap")} <= {"bum"}  # IPv6 solicits neighbours
    lab.vxland.start()


def test_pings_over_a_restart(lab: Lab, tmp_path: Path) -> None:
    """A ping every 10 ms while vxland is stopped and started: every one is answered."""
    with Pinging(lab.a.pod_ns.name, lab.b.pod[4], tmp_path / "ping", 0.01) as pinging:
        assert lab.vxland.stop() == 0
        lab.vxland.start()
        pinging.wait()
    assert pinging.lost() == []


def test_nothing_is_stored_twice(lab: Lab) -> None:
    """After any number of starts, the manager has each queue and socket once."""
    workers = 2 if lab.vxland.gear == "compiled" else 1
    before = manager_of(lab).count("FDSTORE")
    lab.vxland.stop()
    lab.vxland.start()
    assert manager_of(lab).names == expected(workers)
    assert manager_of(lab).count("FDSTORE") == before
    assert lab.vxland.events("descriptor_dropped") == []


def test_ready_after_the_routes(lab: Lab) -> None:
    """READY=1 follows the first table and the first pass over the kernel's state."""
    lab.vxland.stop()
    lab.a.ns.ip(f"route flush {lab.b.subnet[4]}")
    heard = manager_of(lab).count("READY")
    lab.vxland.start()
    wait_until(lambda: manager_of(lab).count("READY") > heard, "READY=1", lab.vxland.said)
    repaired = [
        event["timestamp"] for event in lab.vxland.events("drift_repaired") if event["action"] == "replace_route"
    ]
    assert len(repaired) == 1
    assert manager_of(lab).count("STATUS", "forwarding, leases of other nodes: 2")


def test_a_lost_devices_queues_are_replaced_in_the_store(lab: Lab) -> None:
    """The device moves elsewhere: the process makes a new one, and the manager has only the new queues.

    A stored old queue would keep the old device alive. The watchdog is fed all the time: a restart would repair no more
    than the process does. The next start takes over the new queues.
    """
    manager = manager_of(lab)
    names = manager.names
    manager.wait_for("WATCHDOG", more=2)
    stored = manager.count("FDSTORE")
    lab.a.ns.ip(f"link set flannel.1 netns {lab.a.pod_ns.name}")
    lab.vxland.wait_for("device_recreated")
    wait_until(lambda: "flannel.1" not in lab.a.pod_ns.links(), "the old device is gone", lab.vxland.said)
    wait_until(lambda: manager.names == names, "the new queues are kept", lab.vxland.said)
    assert manager.count("FDSTORE") == stored + sum(name.startswith("tap/") for name in names)
    ping(lab.b.pod_ns, lab.a.pod[4])
    manager.wait_for("WATCHDOG", more=2)
    lab.vxland.stop()
    with crossing(lab):
        lab.vxland.start()
    assert lab.vxland.events("descriptor_dropped") == []


def test_other_numbers_of_workers(compiled: Lab) -> None:
    """Surplus queues and sockets are closed, by the manager too, so that no flow ends in one; missing ones are opened.

    A TAP with one queue is replaced by one with several.
    """
    manager = manager_of(compiled)
    compiled.vxland.stop()
    manager.drop_all()
    compiled.a.ns.ip("link delete flannel.1")
    for workers in (1, 3, 2):
        compiled.vxland.stop()
        compiled.vxland.settings["datapath"] |= {"workers": workers}
        compiled.vxland.start()
        compiled.kernel.add_peer(compiled.a, compiled.a.mac())  # a machine without an id makes another MAC
        assert manager.names == expected(workers)
        for _ in range(8):
            send_tcp(compiled.a.pod_ns, compiled.b.pod_ns, compiled.b.pod[4], 50_000)
        compiled.vxland.stop()
        with crossing(compiled):
            compiled.vxland.start()


def test_another_device_on_the_same_port(compiled: Lab) -> None:
    """The sockets of a device that is no longer configured are closed first, so that the port is free."""
    manager = manager_of(compiled)
    compiled.vxland.stop()
    for index, (name, fd) in enumerate(manager.kept):
        manager.kept[index] = (name.replace("flannel.1", "flannel.2"), fd)
    compiled.vxland.start()
    reasons = {event["reason"] for event in compiled.vxland.events("descriptor_dropped")}
    assert reasons == {"the settings have no use for it"}
    assert {name.split("/")[1] for name in manager.names} == {"flannel.1"}
    ping(compiled.a.pod_ns, compiled.b.pod[4])


def test_descriptors_that_do_not_fit(compiled: Lab) -> None:
    """Descriptors that are no TAP queue or socket, are bound elsewhere or doubled, are closed with a reason."""
    manager = manager_of(compiled)
    compiled.vxland.stop()
    for name, fd in manager.kept:
        if name in {"tap/flannel.1/0", "send/flannel.1/0"}:
            with Path("/dev/null").open() as other:
                os.dup2(other.fileno(), fd)
        elif name == "receive/flannel.1/0":
            with compiled.a.ns.socket(compiled.a.vtep) as other:
                os.dup2(other.fileno(), fd)
    manager.keep("send/flannel.1/3", os.open("/dev/null", os.O_RDONLY))
    manager.keep("someone-else", os.open("/dev/null", os.O_RDONLY))
    compiled.vxland.start()
    reasons = {event["name"]: event["reason"] for event in compiled.vxland.events("descriptor_dropped")}
    workers = sum(name.startswith("tap/") for name in manager.names)
    assert manager.names == expected(workers)
    assert set(reasons) >= {"tap/flannel.1/0", "receive/flannel.1/0", "send/flannel.1/0", "send/flannel.1/3"}
    assert "bound to" in reasons["receive/flannel.1/0"]
    assert reasons["send/flannel.1/3"] == "there are several of that name"
    assert reasons["someone-else"] == "the settings have no use for it"
    send_tcp(compiled.a.pod_ns, compiled.b.pod_ns, compiled.b.pod[4], 100_000)


def test_sockets_of_another_namespace(compiled: Lab) -> None:
    """Sockets of another network namespace with the same names and addresses are not used."""
    manager = manager_of(compiled)
    compiled.vxland.stop()
    index, (name, fd) = next((i, each) for i, each in enumerate(manager.kept) if each[0] == "receive/flannel.1/0")
    compiled.a.pod_ns.ip(f"address add {compiled.a.vtep}/32 dev lo")
    try:
        with compiled.a.pod_ns.socket(compiled.a.vtep, port=8472) as elsewhere:
            os.dup2(elsewhere.fileno(), fd)
        manager.kept[index] = (name, fd)
        compiled.vxland.start()
    finally:
        compiled.a.pod_ns.ip(f"address del {compiled.a.vtep}/32 dev lo")
    reasons = {event["name"]: event["reason"] for event in compiled.vxland.events("descriptor_dropped")}
    assert reasons["receive/flannel.1/0"] == "it is in another network namespace"
    ping(compiled.a.pod_ns, compiled.b.pod[4])
