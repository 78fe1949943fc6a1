"""Offloads on real kernels: what pods receive with and without them.

        node a: vxland                           node b: vxland in the same gear
    pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b         (lab.py has the addresses)

`on` is a lab in the compiled gear, with superframes from TAP to TAP, or from the TAP of one to the daemon of the other
by the fast path; `off` one in the interpreted gear, which requests no offload, so that its kernels cut everything
themselves.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.judge import checksums_are_right
from tests.patience import PATIENCE_S
from tests.stream import numbered

from .lab import Family, Lab, Place
from .offloads import (
    both_families,
    captured,
    cut_before_the_pod,
    nothing_dropped,
    with_offloads,
    without_offloads,
)
from .traffic import no_checksum_errors, send_tcp, send_udp_train

pytestmark = pytest.mark.netns

UDP_SEGMENT = 103  # linux/udp.h
TCP, UDP = 6, 17
SPORT, DPORT = 40_000, 50_000

both_ways = pytest.mark.parametrize("there", [True, False], ids=["there", "back"])
both_places = pytest.mark.parametrize("place", ["host", "pod"])


@pytest.fixture(scope="module", params=["compiled", "fast-path"])
def on(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two nodes with every offload."""
    yield from with_offloads(tmp_path_factory.mktemp("on"), request.param)


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two nodes without any offload."""
    yield from without_offloads(tmp_path_factory.mktemp("off"))


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
        with cut_before_the_pod(lab.b):
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
        digest = receiver.result(PATIENCE_S)
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
        connection.settimeout(PATIENCE_S)
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
        with cut_before_the_pod(lab.b), no_checksum_errors(lab.a.pod_ns, lab.b.pod_ns):
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
    nothing_dropped(on)
    nothing_dropped(off)
