"""The pump copies no payload, in either gear (DESIGN decision 4).

A payload of random octets is written to the socket that the pump reads, and wiped where it was made. After the burst,
and before anybody receives what was sent, all private writable memory of the process is searched for five pieces of
it. The kernel put the payload into the arena; had anything copied it, to an object, a C buffer or the stack, freed
or not, its octets would lie there too. The headers must stand right before that one place: together they are what was
sent or written, octet for octet, so the kernel had no other memory to take it from.

A copy that something overwrote completely since would escape; the pieces are apart, and the process does next to
nothing in between. The last test is the control.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fabric import HERE, PLAIN, Lone, received, wait_readable
from tests.frames import MAC_B, MAC_C, OWN_MAC, POD_A, POD_B, UDP, frame_of, packet_of, udp, udp_frame, vxlan
from tests.memory import Memory, octets_at

PIECES = (64, 400, 700, 1000, 1300)
PAYLOAD_LEN = 1400


class Payload:
    """A frame whose payload is random, the pieces of it to look for, and where they lie in the frame."""

    def __init__(self, frame: bytes) -> None:
        self.octets = bytearray(frame)
        start = len(frame) - PAYLOAD_LEN
        with Path("/dev/urandom").open("rb", buffering=0) as random:
            random.readinto(memoryview(self.octets)[start:])  # no second copy, as os.urandom would leave one
        self.pieces = {start + at: bytes(memoryview(self.octets)[start + at :][:32]) for at in PIECES}

    def wipe(self) -> None:
        """Forget the payload, except for its pieces."""
        self.octets[:] = bytes(len(self.octets))


@pytest.fixture
def memory() -> Iterator[Memory]:
    """The memory of this process."""
    gc.collect()
    searched = Memory()
    yield searched
    searched.close()


def only_place(memory: Memory, payload: Payload) -> int:
    """The one address that a frame lies at."""
    found = memory.places(list(payload.pieces.values()))
    starts = [{place - at for place in places} for at, places in zip(payload.pieces, found, strict=True)]
    assert all(len(at) == 1 for at in starts), f"pieces of the payload lie at {starts}"
    assert len(set.union(*starts)) == 1
    return starts[0].pop()


@pytest.mark.parametrize("dst_mac", [MAC_B, MAC_C], ids=["by MAC", "MAC rewritten"])
def test_encap_copies_no_payload(lone: Lone, memory: Memory, dst_mac: int) -> None:
    """From TAP to UDP: one place, with the VXLAN header in the 8 octets before it."""
    node, peer = lone
    payload = Payload(udp_frame(POD_A, POD_B, bytes(PAYLOAD_LEN), dst_mac=dst_mac))
    node.host.sendmsg([PLAIN, payload.octets])
    payload.wipe()
    node.pump.on_tap_readable()
    at = only_place(memory, payload)
    (datagram,) = received(peer)
    assert octets_at(at - 8, len(datagram)) == datagram
    assert datagram[:8] == vxlan(b"")


@pytest.mark.parametrize("partial", [False, True], ids=["plain", "partial checksum"])
def test_decap_copies_no_payload(lone: Lone, memory: Memory, partial: bool) -> None:
    """From UDP to TAP: one place, with the virtio header in the 10 octets before it."""
    node, peer = lone
    l4 = udp(POD_B, POD_A, bytes(PAYLOAD_LEN), partial=partial)
    payload = Payload(frame_of(packet_of(POD_B, POD_A, UDP, l4), OWN_MAC, MAC_B))
    peer.sendmsg([vxlan(b""), payload.octets], [], 0, (HERE, node.udp.port))
    payload.wipe()
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    at = only_place(memory, payload)
    node.read_host()
    assert octets_at(at - 10, len(node.came[0])) == node.came[0]
    assert node.came[0][0] == (1 if partial else 0)


def test_a_copy_would_be_found(memory: Memory) -> None:
    """The control: a copy that was made and freed at once, as a careless slice would be, lies at a second place."""
    payload = Payload(udp_frame(POD_A, POD_B, bytes(PAYLOAD_LEN)))
    bytes(payload.octets)
    assert all(len(places) >= 2 for places in memory.places(list(payload.pieces.values())))
