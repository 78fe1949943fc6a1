"""The pump copies no payload, in either gear (DESIGN decision 4).

A payload of random bytes is written to the socket that the pump reads, and wiped where it was made. After the burst,
and before anybody receives what was sent, all private writable memory of the process is searched for five pieces of
it. The kernel put the payload into the arena; had anything copied it, to an object, a C buffer or the stack, freed
or not, its bytes would lie there too. The headers must stand right before that one place, or in the arena's scratch:
together they are what was sent or written, byte for byte, so the kernel had no other memory to take it from.

A copy that something overwrote completely since would escape; the pieces are apart, and the process does next to
nothing in between. The last test is the control.
"""

from __future__ import annotations

import gc
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fabric import HERE, UDP_SEGMENT, Lone, received, received_in_all, wait_readable
from tests.frames import (
    HEADROOM,
    MAC_B,
    MAC_C,
    PLAIN,
    POD_A,
    POD_B,
    UDP,
    from_b,
    packet_of,
    udp,
    udp_frame,
    vxlan,
)
from tests.memory import TAG, Memory, bytes_at
from tests.stream import TCP4, TCP6, UDP4, Stream, reverse
from vxland.forwarding.pump import COMPILED

PIECES = (64, 400, 700, 1000, 1300)
PAYLOAD_LEN = 1400
MSS, SEGMENTS, FEW_SEGMENTS = 1390, 40, 12
compiled_only = pytest.mark.skipif(not COMPILED, reason="the interpreted gear asks for no offload")


class Payload:
    """A frame whose payload is random, the pieces of it to look for, and where they lie in the frame."""

    def __init__(self, frame: bytes, payload_len: int = PAYLOAD_LEN) -> None:
        self.raw = bytearray(frame)
        start = len(frame) - payload_len
        with Path("/dev/urandom").open("rb", buffering=0) as random:
            random.readinto(memoryview(self.raw)[start:])  # no second copy, as os.urandom would leave one
        for at in PIECES:
            self.raw[start + at : start + at + len(TAG)] = TAG
        self.pieces = {start + at: bytes(memoryview(self.raw)[start + at :][:32]) for at in PIECES}

    def wipe(self) -> None:
        """Forget the payload, except for its pieces."""
        self.raw[:] = bytes(len(self.raw))


@pytest.fixture
def memory() -> Iterator[Memory]:
    """The memory of this process."""
    gc.collect()
    searched = Memory()
    yield searched
    searched.close()


def only_place(memory: Memory, payload: Payload) -> int:
    """The one address that a frame lies at."""
    return only_places(memory, [payload])[0]


def only_places(memory: Memory, payloads: list[Payload]) -> list[int]:
    """The one address that each of some frames lies at."""
    found = memory.places([piece for payload in payloads for piece in payload.pieces.values()])
    out = []
    for i, payload in enumerate(payloads):
        of_pieces = found[i * len(PIECES) : (i + 1) * len(PIECES)]
        starts = [{place - at for place in places} for at, places in zip(payload.pieces, of_pieces, strict=True)]
        assert all(len(at) == 1 for at in starts), f"pieces of the payload lie at {starts}"
        assert len(set.union(*starts)) == 1
        out.append(starts[0].pop())
    return out


@pytest.mark.parametrize("dst_mac", [MAC_B, MAC_C], ids=["by MAC", "MAC rewritten"])
def test_encap_copies_no_payload(lone: Lone, memory: Memory, dst_mac: int) -> None:
    """From TAP to UDP: one place, with the VXLAN header in the 8 bytes before it."""
    node, peer = lone
    payload = Payload(udp_frame(POD_A, POD_B, bytes(PAYLOAD_LEN), dst_mac=dst_mac))
    node.host.sendmsg([PLAIN, payload.raw])
    payload.wipe()
    node.pump.on_tap_readable()
    at = only_place(memory, payload)
    (datagram,) = received(peer)
    assert bytes_at(at - 8, len(datagram)) == datagram
    assert datagram[:8] == vxlan(b"")


@pytest.mark.parametrize("partial", [False, True], ids=["plain", "partial checksum"])
def test_decap_copies_no_payload(lone: Lone, memory: Memory, partial: bool) -> None:
    """From UDP to TAP: one place, behind the headroom of 64 bytes that starts with the virtio header."""
    node, peer = lone
    l4 = udp(POD_B, POD_A, bytes(PAYLOAD_LEN), partial=partial)
    payload = Payload(from_b(packet_of(POD_B, POD_A, UDP, l4)))
    peer.sendmsg([vxlan(b""), payload.raw], [], 0, (HERE, node.udp.port))
    payload.wipe()
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    at = only_place(memory, payload)
    node.read_host()
    assert bytes_at(at - 8 - HEADROOM, 10) + bytes_at(at, len(node.came[0]) - 10) == node.came[0]
    assert node.came[0][0] == (1 if partial else 0)


@compiled_only
@pytest.mark.parametrize("stream", [TCP4, TCP6, UDP4], ids=["TCP4", "TCP6", "UDP4"])
def test_cutting_a_superframe_copies_no_payload(lone: Lone, memory: Memory, stream: Stream) -> None:
    """40 segments leave in trains whose payload lies where the TAP's read put it, all in one place and in order."""
    node, peer = lone
    payload = Payload(stream.superframe(bytes(MSS * SEGMENTS)), MSS * SEGMENTS)
    node.host.sendmsg([stream.virtio(MSS), payload.raw])
    payload.wipe()
    node.pump.on_tap_readable()
    at = only_place(memory, payload)
    datagrams = received_in_all(peer, SEGMENTS)
    assert [len(datagram) for datagram in datagrams] == [8 + stream.headers_len + MSS] * SEGMENTS
    sent = b"".join(datagram[8 + stream.headers_len :] for datagram in datagrams)
    assert bytes_at(at + stream.headers_len, len(sent)) == sent


@compiled_only
def test_grouping_small_frames_copies_no_payload(lone: Lone, memory: Memory) -> None:
    """Frames that leave as one train lie each where its read put it, its VXLAN header right before it."""
    node, peer = lone
    payloads = [Payload(udp_frame(POD_A, POD_B, bytes([i]) * PAYLOAD_LEN)) for i in range(8)]
    for payload in payloads:
        node.host.sendmsg([PLAIN, payload.raw])
        payload.wipe()
    node.pump.on_tap_readable()
    places = only_places(memory, payloads)
    datagrams = received_in_all(peer, len(payloads))
    assert [bytes_at(at - 8, len(datagram)) for at, datagram in zip(places, datagrams, strict=True)] == datagrams


@compiled_only
@pytest.mark.parametrize("stream", [TCP4, TCP6, UDP4], ids=["TCP4", "TCP6", "UDP4"])
def test_joining_a_run_copies_no_payload(lone: Lone, memory: Memory, stream: Stream) -> None:
    """A buffer of UDP_GRO is taken apart and written as one superframe whose every segment lies where it came."""
    node, peer = lone
    home = reverse(stream)
    payloads = [Payload(home.frame(bytes(MSS), MSS * i, i, partial=True), MSS) for i in range(FEW_SEGMENTS)]
    size = 8 + home.headers_len + MSS
    parts = [part for payload in payloads for part in (vxlan(b""), payload.raw)]  # gathered by the kernel
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
    peer.sendmsg(parts, control, 0, (HERE, node.udp.port))
    for payload in payloads:
        payload.wipe()
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    places = only_places(memory, payloads)
    assert places == [places[0] + size * i for i in range(FEW_SEGMENTS)], "one buffer of UDP_GRO"
    node.read_host()
    (came,) = node.came
    first = places[0]
    headers = bytes_at(first - 8 - HEADROOM, 10) + bytes_at(first, home.headers_len)
    assert headers + b"".join(bytes_at(at + home.headers_len, MSS) for at in places) == came


def test_a_copy_would_be_found(memory: Memory) -> None:
    """The control: a copy that was made and freed at once, as a careless slice would be, lies at a second place."""
    payload = Payload(udp_frame(POD_A, POD_B, bytes(PAYLOAD_LEN)))
    bytes(payload.raw)
    assert all(len(places) >= 2 for places in memory.places(list(payload.pieces.values())))
