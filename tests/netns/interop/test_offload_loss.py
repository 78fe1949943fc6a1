"""The loss of an offload during traffic, on real kernels: a device's own, or UDP_SEGMENT.

node a: vxland, compiled                 node b: vxland, compiled
pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b         (lab.py has the addresses)

With the fast path, programs carry superframes out as long as e0 segments tunnels; otherwise the daemon does.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .asking import ask_json
from .lab import FAMILIES, PORT, Lab, Vxland
from .ns import wait_until
from .offloads import both, captured, nothing_dropped, restarted_without_drops, with_offloads
from .traffic import Flow, flowing, send_udp_train

pytestmark = pytest.mark.netns

SO_NO_CHECK = 11
SYS_PIDFD_GETFD = 438
CHANGES = [
    ("a", "e0", "tx"),  # before Linux 6.11 UDP_SEGMENT then fails with EIO
    ("a", "e0", "tx-udp-segmentation"),
    ("a", "e0", "tx-udp_tnl-segmentation"),
    ("a", "e0", "gso"),
    ("a", "flannel.1", "tx"),
    ("a", "flannel.1", "tso"),
    ("a", "flannel.1", "gso"),
    ("b", "e0", "gro"),
    ("b", "e0", "rx"),
    ("b", "flannel.1", "tx"),
    ("b", "flannel.1", "gro"),
    ("b", "pod", "tx"),
]


@pytest.fixture(scope="module", params=["compiled", "fast-path"])
def on(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two nodes with every offload."""
    yield from with_offloads(tmp_path_factory.mktemp("on"), request.param)


@pytest.fixture(scope="module")
def _trains(on: Lab) -> Iterator[None]:
    """The daemon of node a sends superframes, as trains; programs may carry single packets."""
    on.a.ns.run("ethtool", "-K", "e0", "tx-udp_tnl-segmentation", "off")
    if on.vxland.has_fast_path:
        wait_until(lambda: not programs_send_superframes(on.vxland), "the daemon does", on.vxland.said)
    yield
    on.a.ns.run("ethtool", "-K", "e0", "tx-udp_tnl-segmentation", "on")


def programs_send_superframes(vxland: Vxland) -> bool:
    """Return whether vxlandctl says so."""
    does: bool = ask_json(vxland, "status")["planes"][0]["fast_path"]["superframes"]
    return does


@pytest.mark.parametrize(("letter", "device", "feature"), CHANGES)
def test_a_device_loses_an_offload_while_traffic_flows(on: Lab, letter: str, device: str, feature: str) -> None:
    """The stream continues without it and with it again, nothing is corrupt, and a failing UDP_SEGMENT is reported."""
    ns = {"a": on.a.ns, "b": on.b.ns}[letter]
    with flowing(on) as flow:
        for state in ("off", "on"):
            ns.run("ethtool", "-K", device, feature, state)
            flow.pass_on()
    events = on.vxland.events("offload_off")
    assert {(event["offload"], event["error"]) for event in events} <= {("udp_segment", "Input/output error")}
    if events:  # it stays off
        restarted_without_drops(on)


def test_nothing_was_dropped_by_changes(on: Lab) -> None:
    """Not even the current batch."""
    nothing_dropped(on)


def senders(pid: int) -> list[socket.socket]:
    """Return the daemon's own sending sockets, which pidfd_getfd(2) gives to root; options are shared with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    pidfd = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not str(entry.readlink()).startswith("socket:"):
                continue
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(entry.name), 0)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            sock = socket.socket(fileno=fd)
            if sock.family == socket.AF_INET and sock.type == socket.SOCK_DGRAM and sock.getsockname()[1] != PORT:
                found.append(sock)
            else:
                sock.close()
    finally:
        os.close(pidfd)
    return found


def refuse_segments(vxland: Vxland) -> None:
    """Make the kernel refuse the daemon's UDP_SEGMENT with EINVAL: net/ipv4/udp.c requires checksums."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(sock) for sock in senders(vxland.pid)]
        assert sockets
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)


def refusals(vxland: Vxland) -> list[dict[str, Any]]:
    """Return the log events of offloads that were switched off."""
    return vxland.events("offload_off")


def longest_on_the_underlay(lab: Lab, flow: Flow) -> int:
    """Return the longest frame's bytes at node b while the stream flows: a train is one frame over veth."""
    with captured(lab.b.ns, "e0") as frames:
        flow.pass_on()
        return max(map(len, frames()))


@pytest.mark.usefixtures("_trains")
def test_udp_segment_is_refused_while_traffic_flows(on: Lab) -> None:
    """The current train is sent one by one, as is everything later; the log has the reason once; nothing is lost."""
    with flowing(on, 4) as flow, flowing(on, 6) as other:
        assert longest_on_the_underlay(on, flow) > 10 * on.b.mtu
        refuse_segments(on.vxland)
        flow.pass_on()
        other.pass_on()
        wait_until(lambda: refusals(on.vxland), "the log reports it", on.vxland.said)
        assert longest_on_the_underlay(on, flow) == 14 + on.b.mtu + 50
    events = refusals(on.vxland)
    assert {(event["offload"], event["error"]) for event in events} == {("udp_segment", "Invalid argument")}
    assert len(events) <= on.vxland.events("devices_open")[0]["workers"]
    assert refusals(both(on)[1]) == []
    restarted_without_drops(on)


@pytest.mark.usefixtures("_trains")
def test_no_datagram_is_lost_when_udp_segment_is_refused(on: Lab) -> None:
    """UDP does not retransmit: every train arrives, before, during and after the refusal."""
    for i in range(20):
        if i == 10:
            refuse_segments(on.vxland)
        for family in FAMILIES:
            send_udp_train(on.a.pod_ns, on.a.pod[family], on.b.pod_ns, on.b.pod[family], 1200, 40)
    wait_until(lambda: refusals(on.vxland), "the log reports it", on.vxland.said)
    restarted_without_drops(on)


@pytest.mark.usefixtures("_trains")
def test_a_path_with_a_smaller_mtu_while_traffic_flows(on: Lab) -> None:
    """A route's MTU below its device's: the flow continues; every dropped packet causes an ICMP error to its sender.

    Until vxland has read the path MTU, datagrams leave one by one, in fragments: UDP_SEGMENT fails there with EMSGSIZE,
    before Linux 6.14 with EINVAL, which must not switch it off for other peers.
    """
    with flowing(on) as flow:
        assert longest_on_the_underlay(on, flow) > 10 * on.b.mtu
        on.a.ns.ip(f"route add {on.b.vtep}/32 dev e0 mtu 1400")
        try:
            wait_until(lambda: on.vxland.events("path_mtu_changed"), "vxland has asked", on.vxland.said)
            flow.pass_on()
        finally:
            on.a.ns.ip(f"route del {on.b.vtep}/32 dev e0")
        flow.pass_on()
        events = refusals(on.vxland)
        if events:  # the older kernel's error equals that of a refusal
            assert {event["error"] for event in events} == {"Invalid argument"}
        else:
            assert longest_on_the_underlay(on, flow) > 10 * on.b.mtu
    restarted_without_drops(on, "too_big")
