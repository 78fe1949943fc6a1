"""Superframes and aggregates on real devices: only there does the kernel change their headers.

pod ── tap ── vxland_encap ── e0 ── peer          peer ── e0 ── vxland_decap ── tap
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from struct import pack

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.damage import streams
from tests.frames import MAC_B, MAC_C, OUTER_A, PORT, TCP
from tests.netns.fastpath.alike import assert_decap_alike, assert_encap_alike
from tests.netns.fastpath.loaded import UNDERLAY, Loaded
from tests.netns.fastpath.packets import MAC_D, MANY, MANY_TABLE, NARROW, PLAIN_HEADER, arriving
from tests.netns.fastpath.wire import INNER_AT, Wire, mac_of, wired
from tests.patience import PATIENCE_S
from tests.stream import GSO_UDP_L4, TCP4, TCP6, UDP4, UDP6, Stream, numbered, reverse
from vxland.datapath.datagram import SEGMENT_MARK
from vxland.model.kernel_state import OuterHeader
from vxland.model.source_check import SourceCheck

pytestmark = pytest.mark.netns

SOL_UDP, UDP_GRO, SO_RCVMARK, SO_MARK = 17, 104, 75, 36
BIGGEST = 65_000


@pytest.fixture(scope="module")
def wire(loaded: Loaded) -> Iterator[Wire]:
    """The programs on their devices."""
    with wired(loaded) as wire:
        yield wire


def judged(loaded: Loaded, wire: Wire, stream: Stream, length: int, mss: int, outer: OuterHeader) -> bool:
    """Return whether the program sends a superframe; it then counted as many segments as the daemon would send."""
    known = loaded.follow(MANY, NARROW)
    loaded.set(outer)
    frame = stream.superframe(numbered(length))
    carried, packet = wire.through(loaded, frame, stream.virtio(mss))
    if not carried:
        assert packet == frame
        assert loaded.counts() == ((0, 0, 0, 0), {})
        return False
    vtep, frames, nbytes = assert_encap_alike(frame, packet, known, outer, gso_size=mss)
    assert loaded.counts() == ((frames, nbytes, 0, 0), {vtep: (frames, nbytes, 0, 0)})
    return True


@settings(max_examples=150)
@given(
    streams(st.integers(0, 0x1FF)),
    st.integers(1, 45),
    st.one_of(st.integers(36, 1500), st.sampled_from([256, 1378, 1398, 1410])),
    st.sampled_from([MAC_B, MAC_B, MAC_C, MAC_D]),
    st.builds(
        OuterHeader,
        st.sampled_from([None, 64, 255]),
        st.sampled_from([None, 0, 46]),
        st.sampled_from(["unset", "set", "inherit"]),
    ),
)
@example(TCP4, 45, 1410, MAC_B, OuterHeader())
@example(UDP6, 45, 700 - 48, MAC_C, OuterHeader(df="set"))
def test_any_superframe_that_is_carried(
    loaded: Loaded,
    wire: Wire,
    stream: Stream,
    segments: int,
    mss: int,
    mac: int,
    outer: OuterHeader,
) -> None:
    """It leaves whole, with headers as the daemon gives them to its segments, if those are not too many or too big."""
    stream = replace(stream, dst_mac=mac, flags=stream.flags & 0xFF)
    length = min(segments * mss - mss // 3, BIGGEST)
    assume(length > mss)
    carried = judged(loaded, wire, stream, length, mss, outer)
    most = {MAC_B: 1450, MAC_C: 700, MAC_D: 1300}[mac]
    plain = not stream.ip_options and not stream.extensions
    assert carried == (plain and mss >= 256 and stream.headers_len - 14 + mss <= most)


def test_a_superframe_that_no_device_takes(loaded: Loaded, wire: Wire) -> None:
    """The kernel cuts it into the segments that the daemon would send. Few frames are so long."""
    loaded.follow(MANY)
    loaded.set()
    for stream in (TCP4, TCP6, UDP4, UDP6):
        payload = numbered(65_535 - 36 - stream.headers_len)
        carried, packet = wire.through(loaded, stream.superframe(payload), stream.virtio(1350))
        assert carried
        at = INNER_AT + stream.l4_at + (16 if stream.proto == TCP else 6)  # of the checksum, which a device finishes
        for number, segment in enumerate(stream.segments(payload, 1350)):
            found = wire.next_segment() if number else packet
            assert found[INNER_AT:at] + found[at + 2 :] == segment[: at - INNER_AT] + segment[at - INNER_AT + 2 :]


def test_a_superframe_beyond_64_kib_is_the_daemons(loaded: Loaded, wire: Wire) -> None:
    """The outer packet would be longer than its length field can say."""
    room = 65_535 - 50 - TCP4.headers_len
    assert judged(loaded, wire, TCP4, room, 1398, OuterHeader())
    assert not judged(loaded, wire, TCP4, room + 15, 1398, OuterHeader())


def receiver() -> socket.socket:
    """Return a socket as the daemon's receiver, with UDP_GRO and packet marks."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(SOL_UDP, UDP_GRO, 1)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVMARK, 1)
    opened.settimeout(PATIENCE_S)
    opened.bind((OUTER_A, PORT))
    return opened


def aggregate(frame: bytes, size: int, rest: bytes = b"") -> tuple[bytes, bytes]:
    """Return the virtio header and the packet with a frame, whose UDP payload the kernel takes for pieces of `size`."""
    packet = arriving(frame + rest, check="left", outer_mac=mac_of(UNDERLAY))
    return pack("<BBHHHH", 1, GSO_UDP_L4, 42, size, 34, 6), packet


@pytest.mark.parametrize("tos", [0, 2])
@pytest.mark.parametrize("reads", [True, False])
def test_a_neighbours_superframe(loaded: Loaded, wire: Wire, reads: bool, tos: int) -> None:
    """The daemon gets it with the size of its segments, in a mark. A program carries it if the daemon does not read."""
    loaded.follow(MANY)
    loaded.set()
    frame = reverse(replace(UDP4, tos=tos)).superframe(numbered(5000))
    virtio, packet = aggregate(frame, 1000)
    loaded.forget()
    if reads:
        with receiver() as daemon:
            wire.peer.send(virtio + packet)
            datagram, about, _, _ = daemon.recvmsg(1 << 17, 256)
        assert datagram == PLAIN_HEADER + frame
        marks = [value for _, kind, value in about if kind == SO_MARK]
        assert marks == [pack("=I", SEGMENT_MARK | 1000)]
    else:
        wire.peer.send(virtio + packet)
        found = wire.next_frame()
        assert_decap_alike(bytes(6) + packet[6:], found, MANY_TABLE, SourceCheck.VTEP)


def test_a_daemon_without_cpu_time_gets_no_superframe(loaded: Loaded, wire: Wire) -> None:
    """By the setting `aggregates`, however well it reads."""
    loaded.follow(MANY)
    loaded.set(aggregates=True)
    loaded.forget()
    virtio, packet = aggregate(reverse(UDP4).superframe(numbered(5000)), 1000)
    with receiver():
        wire.peer.send(virtio + packet)
        found = wire.next_frame()
    assert_decap_alike(bytes(6) + packet[6:], found, MANY_TABLE, SourceCheck.VTEP)


@pytest.mark.parametrize("aggregates", [True, False])
def test_a_train_is_always_the_daemons(loaded: Loaded, wire: Wire, aggregates: bool) -> None:
    """Its datagrams have no common headers inside, so a program cannot unpack it."""
    loaded.follow(MANY)
    loaded.set(aggregates=aggregates)
    loaded.forget()
    frames = [reverse(replace(UDP4, sport=sport)).frame(numbered(500)) for sport in (1, 2, 3)]
    rest = b"".join(PLAIN_HEADER + frame for frame in frames[1:])
    size = len(PLAIN_HEADER + frames[0])
    virtio, packet = aggregate(frames[0], size, rest)
    with receiver() as daemon:
        wire.peer.send(virtio + packet)
        datagrams, about, _, _ = daemon.recvmsg(1 << 17, 256)
    assert datagrams == PLAIN_HEADER + frames[0] + rest
    assert (SOL_UDP, UDP_GRO, pack("=i", size)) in about
