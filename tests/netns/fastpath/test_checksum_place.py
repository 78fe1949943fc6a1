"""A pod's virtio header says where its frame's checksum is written: never over what the node's firewall has checked.

pod ── tap ── vxland_encap ── e0, which finishes no checksums ── peer
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from struct import pack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.frames import HOST_MAC, ICMP, MAC_B, POD_A, POD_B, TCP, echo, frame_of, ipv4
from tests.judge import checksums_are_right
from tests.netns.fastpath.loaded import UNDERLAY, Loaded
from tests.netns.fastpath.wire import INNER_AT, Wire, wired
from tests.stream import EACH, TCP4, TCP6, UDP4, Stream, each_stream, numbered

pytestmark = pytest.mark.netns

PAYLOAD = numbered(300)
LAST = [replace(UDP4, sport=9, dst_mac=mac).frame(b"this comes last") for mac in (MAC_B, HOST_MAC)]
"""A frame that is carried, and one that is left."""


@pytest.fixture(scope="module")
def wire(loaded: Loaded) -> Iterator[Wire]:
    """The programs on their devices; the kernel writes checksums before frames leave."""
    subprocess.run(["ethtool", "-K", UNDERLAY, "tx", "off"], check=True, capture_output=True)
    with wired(loaded) as wire:
        loaded.set()
        yield wire


def needs(start: int, offset: int) -> bytes:
    """Return the virtio header that requests a checksum."""
    return pack("<BBHHHH", 1, 0, 0, 0, start, offset)


def checksum_at(stream: Stream) -> int:
    """Return the place of the checksum of a flow's packets."""
    return stream.l4_at + (16 if stream.proto == TCP else 6)


@each_stream
def test_a_packets_own_checksum_is_finished(loaded: Loaded, wire: Wire, stream: Stream) -> None:
    """As every pod's stack leaves it to its device."""
    virtio = needs(stream.l4_at, checksum_at(stream) - stream.l4_at)
    carried, packet = wire.through(loaded, stream.superframe(PAYLOAD), virtio)
    assert carried
    assert packet[INNER_AT:] == stream.frame(PAYLOAD)
    assert checksums_are_right(packet[INNER_AT:], stream.l4_at, stream.proto)


@given(st.sampled_from(list(EACH.values())), st.integers(20, 120), st.integers(0, 60))
@example(TCP4, 34, 2)  # the destination port
@example(TCP6, 20, 32)  # the destination address
@example(UDP4, 34, 5)
@example(UDP4, 20, 14)
def test_addresses_and_ports_leave_unchanged(
    loaded: Loaded, wire: Wire, stream: Stream, start: int, offset: int
) -> None:
    """A place before the packet's own checksum took frames to forbidden ports. The daemon refuses it."""
    frame, own = stream.superframe(PAYLOAD), checksum_at(stream)
    carried, packet = wire.through(loaded, frame, needs(start, offset))
    assert carried == (start + offset >= own)
    if carried:
        assert packet[INNER_AT:][:own] == frame[:own]


def identity(stream: Stream, frame: bytes) -> bytes:
    """Return the MACs, addresses and ports of a flow's frame."""
    addresses_at = 14 + (8 if stream.is_v6 else 12)
    return frame[:14] + frame[addresses_at : 14 + (40 if stream.is_v6 else 20)] + frame[stream.l4_at :][:4]


@given(st.sampled_from(list(EACH.values())), st.integers(20, 120), st.integers(0, 60))
@example(TCP4, 34, 16)
@example(UDP4, 34, 6)
def test_so_do_those_of_superframes(loaded: Loaded, wire: Wire, stream: Stream, start: int, offset: int) -> None:
    """Kernels refuse most other places when a superframe is sent, or drop it when it is cut."""
    payload = numbered(3000)
    frame, own = stream.superframe(payload), checksum_at(stream)
    virtio = stream.virtio(1000)[:6] + pack("<HH", start, offset)
    try:
        leaving = wire.leaving(loaded, frame, virtio, *LAST)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        leaving = []
    assert all(identity(stream, packet[INNER_AT:]) == identity(stream, frame) for packet in leaving)
    if start == stream.l4_at and start + offset == own:
        assert len(leaving) == len(stream.segments(payload, 1000))
    if start + offset < own:
        assert not leaving


def test_other_protocols_checksums_are_the_daemons(loaded: Loaded, wire: Wire) -> None:
    """No program knows where they have one."""
    frame = frame_of(ipv4(POD_A, POD_B, ICMP, echo(PAYLOAD)), MAC_B)
    assert wire.through(loaded, frame, needs(34, 2)) == (False, frame)
    assert wire.through(loaded, frame, bytes(10))[0]
