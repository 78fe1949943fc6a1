"""Offloads on real kernels: what pods receive with and without them, and the loss of one during traffic.

        node a: vxland                           node b: vxland in the same gear
    pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b         (lab.py has the addresses)

`on` is a lab in the compiled gear, with superframes from TAP to TAP; `off` one in the interpreted gear, which requests
no offload, so that its kernels cut everything themselves.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.judge import checksums_are_right
from tests.stream import numbered

from .conftest import running
from .lab import PORT, Family, Lab, Place, Vxland
from .ns import DEADLINE_S, Ns, wait_until
from .traffic import Flow, flowing, no_checksum_errors, send_tcp, send_udp_train

pytestmark = pytest.mark.netns

ETH_P_ALL, PACKET_OUTGOING = 3, 4
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_RCVBUFFORCE, SO_NO_CHECK = 33, 11
UDP_SEGMENT = 103  # linux/udp.h
SYS_PIDFD_GETFD = 438
TCP, UDP = 6, 17
SPORT, DPORT = 40_000, 50_000

both_ways = pytest.mark.parametrize("there", [True, False], ids=["there", "back"])
both_families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
both_places = pytest.mark.parametrize("place", ["host", "pod"])


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two nodes with every offload."""
    made = Lab(tmp_path_factory.mktemp("on"), "compiled", "compiled")
    for vxland in both(made):
        vxland.settings["datapath"] = {"offloads": {"join_udp": "on"}}
    for lab in running(made):
        for vxland in both(lab):
            (opened,) = vxland.events("devices_open")
            assert (opened["tso"], opened["udp_gro"]) == (True, True)
            assert opened["udp_segment"] in {64, 128}
        yield lab


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two nodes without any offload."""
    for lab in running(Lab(tmp_path_factory.mktemp("off"), "interpreted", "interpreted")):
        for vxland in both(lab):
            (opened,) = vxland.events("devices_open")
            assert [opened[offload] for offload in ("tso", "uso", "udp_segment", "udp_gro")] == [False, False, 1, False]
        yield lab


def both(lab: Lab) -> tuple[Vxland, Vxland]:
    """Return the daemons of a lab of two."""
    assert lab.other is not None
    return lab.vxland, lab.other


def restarted_without_drops(lab: Lab, *but: str) -> None:
    """Assert that neither daemon dropped a frame except multicast and these; then restart both, with every offload."""
    for vxland in both(lab):
        try:
            assert vxland.stop() == 0
            assert vxland.drops("decap") == {}
            assert set(vxland.drops("encap")) <= {"bum", *but}
        finally:
            vxland.start()


# Packets on a device.


@contextmanager
def captured(ns: Ns, device: str) -> Iterator[Callable[[], list[bytes]]]:
    """Yield a function that returns the frames received on a device so far; a superframe is one frame."""
    sock = ns.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    frames: list[bytes] = []

    def read() -> list[bytes]:
        # A fixed number: a stream may bring frames faster than they are read.
        came, lost = struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        for _ in range(came - lost):
            frame, whence = sock.recvfrom(1 << 17)
            if whence[2] != PACKET_OUTGOING:
                frames.append(frame)
        return frames

    with sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 128 << 20)
        sock.bind((device, ETH_P_ALL))
        yield read


@contextmanager
def cut_before_the_pod(lab: Lab) -> Iterator[None]:
    """The device between b's bridge and its pod has no offload: the kernel cuts and sums what it sends there."""
    features = ("tx", "tso", "gso", "tx-udp-segmentation")  # in the order in which they can be switched on again
    lab.b.ns.run("ethtool", "-K", "pod", *(word for feature in features for word in (feature, "off")))
    try:
        yield
    finally:
        for feature in features:
            lab.b.ns.run("ethtool", "-K", "pod", feature, "on")


def l4_of(frame: bytes) -> tuple[int, int]:
    """Return protocol and offset of L4 in a frame of a pod, which has neither options nor extension headers."""
    version = frame[14] >> 4
    return (frame[23], 34) if version == 4 else (frame[20], 54)


def of_flow(frames: list[bytes], proto: int) -> list[bytes]:
    """Return the frames of the test's own flow, after checking their checksums."""
    ports = struct.pack("!HH", SPORT, DPORT)
    found = []
    for frame in frames:
        if frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
            kind, at = l4_of(frame)
            if kind == proto and frame[at : at + 4] == ports:
                assert checksums_are_right(frame, at, proto)
                found.append(frame)
    return found


def without_random_fields(frame: bytes) -> bytes:
    """Return the packet of a frame without the fields that a sender randomizes: IPv4's first ID, IPv6's flow label."""
    packet = frame[14:]
    if packet[0] >> 4 == 4:
        return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]
    return bytes([packet[0], packet[1] & 0xF0]) + bytes(2) + packet[4:]


# What pods receive.


def udp_trains(lab: Lab, family: Family, size: int, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return what pod b's socket, and its device, receive of trains that pod a sends in one call each."""
    content = numbered(size * count + size // 3)
    source, target = lab.a.pod[family], lab.b.pod[family]
    with (
        captured(lab.b.pod_ns, "eth0") as frames,
        lab.a.pod_ns.socket(source, port=SPORT) as near,
        lab.b.pod_ns.socket(target, port=DPORT) as far,
    ):
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        got = []
        for _ in range(3):
            near.sendmsg([content], control, 0, (target, DPORT))
            got += [far.recv(1 << 16) for _ in range(count + 1)]
        assert got == [content[at : at + size] for at in range(0, len(content), size)] * 3
        return got, of_flow(frames(), UDP)


@both_families
@pytest.mark.parametrize(("size", "count"), [(1200, 20), (1200, 50), (17, 60), (3, 40), (1402, 40)])
def test_udp_trains_arrive_alike(on: Lab, off: Lab, family: Family, size: int, count: int) -> None:
    """QUIC sends so, with offloads and without: the same packets on the pod's device, byte for byte."""
    seen = []
    for lab in (on, off):
        with cut_before_the_pod(lab):
            datagrams, frames = udp_trains(lab, family, size, count)
        assert len(frames) == len(datagrams) == 3 * (count + 1)
        seen.append((datagrams, [without_random_fields(frame) for frame in frames]))
    assert seen[0] == seen[1]


def tcp_stream(lab: Lab, family: Family, content: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Return SHA-256 at the receiving socket, and stream and segments on pod b's device, of content from pod a."""
    target = lab.b.pod[family]
    with (
        captured(lab.b.pod_ns, "eth0") as frames,
        lab.b.pod_ns.socket(target, socket.SOCK_STREAM, DPORT) as listener,
        lab.a.pod_ns.socket(lab.a.pod[family], socket.SOCK_STREAM, SPORT) as sender,
        ThreadPoolExecutor(1) as threads,
    ):
        # A reset instead of TIME_WAIT, so that the next test can use the ports.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        listener.listen()
        receiver = threads.submit(digest_of, listener, len(content))
        sender.connect((target, DPORT))
        sender.sendall(content)
        digest = receiver.result(DEADLINE_S)
        segments = of_flow(frames(), TCP)
    first = next(int.from_bytes(s[at + 4 : at + 8], "big") for s in segments for _, at in [l4_of(s)] if s[at + 13] & 2)
    stream = bytearray(len(content))
    for segment in segments:
        at = l4_of(segment)[1]
        ip_end = 14 + (
            int.from_bytes(segment[16:18], "big") if at == 34 else 40 + int.from_bytes(segment[18:20], "big")
        )
        payload = segment[at + (segment[at + 12] >> 4) * 4 : ip_end]
        offset = int.from_bytes(segment[at + 4 : at + 8], "big") - first - 1 & 0xFFFF_FFFF
        if payload:
            stream[offset : offset + len(payload)] = payload
    return digest, bytes(stream), segments


def digest_of(listener: socket.socket, length: int) -> bytes:
    """Return SHA-256 of `length` bytes of one connection."""
    digest = hashlib.sha256()
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(DEADLINE_S)
        while length:
            part = connection.recv(min(length, 1 << 16))
            assert part, "the stream ends early"
            digest.update(part)
            length -= len(part)
    return digest.digest()


@both_families
def test_tcp_streams_arrive_alike(on: Lab, off: Lab, family: Family) -> None:
    """The same bytes at the socket; on the device valid segments of at most the MTU that make them up."""
    content = os.urandom(3_000_000)
    for lab in (on, off):
        with cut_before_the_pod(lab), no_checksum_errors(lab.a.pod_ns, lab.b.pod_ns):
            digest, stream, segments = tcp_stream(lab, family, content)
        assert digest == hashlib.sha256(content).digest()
        assert stream == content
        assert max(map(len, segments)) == 14 + lab.b.mtu


@both_families
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_superframes_reach_the_pod(on: Lab, off: Lab, family: Family, proto: int) -> None:
    """Evidence for the tests above: with offloads a pod's device receives many segments at once, otherwise one."""
    longest = []
    for lab in (on, off):
        with captured(lab.b.pod_ns, "eth0") as frames:
            if proto == TCP:
                send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[family], 3_000_000)
            else:
                send_udp_train(lab.a.pod_ns, lab.a.pod[family], lab.b.pod_ns, lab.b.pod[family], 1200, 40)
            longest.append(max(map(len, frames())))
    assert longest[0] > 10 * on.b.mtu
    assert longest[1] <= 14 + off.b.mtu


# No kernel finds a wrong checksum.


@both_ways
@both_families
@both_places
def test_no_checksum_is_found_wrong(on: Lab, place: Place, family: Family, there: bool) -> None:
    """TCP and UDP trains between compiled nodes: none of the four kernels' counters of checksum errors increases."""
    near, far = (on.a, on.b) if there else (on.b, on.a)
    source, source_address = near.end(place)
    target, target_address = far.end(place)
    with no_checksum_errors(*(ns for node in on.nodes for ns in (node.ns, node.pod_ns))):
        send_tcp(source, target, target_address[family], 10_000_000)
        for size, count in ((1200, 50), (100, 60), (1402, 30), (2, 20)):
            send_udp_train(source, source_address[family], target, target_address[family], size, count)


def test_nothing_was_dropped(on: Lab, off: Lab) -> None:
    """All tests above without one frame dropped except multicast."""
    restarted_without_drops(on)
    restarted_without_drops(off)


# Loss of an offload during traffic.


CHANGES = [
    ("a", "e0", "tx"),  # before Linux 6.11 UDP_SEGMENT then fails with EIO
    ("a", "e0", "tx-udp-segmentation"),
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
    restarted_without_drops(on)


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


@both_families
def test_udp_segment_is_refused_while_traffic_flows(on: Lab, family: Family) -> None:
    """The current train is sent one by one, as is everything later; the log has the reason once; nothing is lost."""
    with flowing(on, family) as flow:
        assert longest_on_the_underlay(on, flow) > 10 * on.b.mtu
        refuse_segments(on.vxland)
        flow.pass_on()
        wait_until(lambda: refusals(on.vxland), "the log reports it", on.vxland.said)
        assert longest_on_the_underlay(on, flow) == 14 + on.b.mtu + 50
    events = refusals(on.vxland)
    assert {(event["offload"], event["error"]) for event in events} == {("udp_segment", "Invalid argument")}
    assert len(events) <= on.vxland.events("devices_open")[0]["workers"]
    assert refusals(both(on)[1]) == []
    restarted_without_drops(on)


@both_families
def test_no_datagram_is_lost_when_udp_segment_is_refused(on: Lab, family: Family) -> None:
    """UDP does not retransmit: every train arrives, before, during and after the refusal."""
    ends = (on.a.pod_ns, on.a.pod[family], on.b.pod_ns, on.b.pod[family])
    for i in range(20):
        if i == 10:
            refuse_segments(on.vxland)
        send_udp_train(*ends, 1200, 40)
    wait_until(lambda: refusals(on.vxland), "the log reports it", on.vxland.said)
    restarted_without_drops(on)


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
