"""Superframes through the real pump: cut into trains over UDP_SEGMENT, and joined again by the other node.

In either gear, though the interpreted daemon requests no offload: both have the same code. A socket pair replaces the
TAP, and loopback the underlay. It delivers a train in one piece, as a network card with the offload does, to a socket
with UDP_GRO, and to others as single datagrams.
"""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from tests.fabric import (
    Lone,
    received_in_all,
    run,
    two_nodes,
    wait_readable,
)
from tests.frames import (
    PLAIN,
    ping,
    vxlan,
)
from tests.stream import MSS, TCP4, TCP6, Stream, each_stream, numbered
from tests.trains import frames_in, sent

# Superframes from the TAP.


@each_stream
@pytest.mark.parametrize("length", [MSS, MSS + 1, 10 * MSS, 10 * MSS - 1])
def test_a_superframe_leaves_as_its_segments(offloading: Lone, stream: Stream, length: int) -> None:
    """A peer without UDP_GRO receives each segment in a datagram of its own, byte for byte as a device cuts them."""
    node, peer = offloading
    payload = numbered(length)
    segments = stream.segments(payload, MSS)
    node.put(stream.superframe(payload), stream.virtio(MSS))
    node.pump.on_tap_readable()
    assert received_in_all(peer, len(segments)) == [vxlan(segment) for segment in segments]
    counters = node.pump.encap_counters
    assert (counters.frames, counters.bytes) == (len(segments), sum(map(len, segments)))
    assert not any(counters.by_reason().values())


@each_stream
def test_a_superframe_is_one_train(gro: Lone, stream: Stream) -> None:
    """One send for all of its segments, the short one last."""
    payload = numbered(10 * MSS + 7)
    trains = sent(gro, [(stream.virtio(MSS), stream.superframe(payload))], 11)
    assert len(trains) == 1
    assert frames_in(trains) == stream.segments(payload, MSS)


@each_stream
def test_64_kib_are_sent_twice(gro: Lone, stream: Stream) -> None:
    """Their datagrams come to more than the 65,507 bytes of one send."""
    payload = numbered(65_535 - stream.headers_len + 14)
    segments = stream.segments(payload, MSS)
    trains = sent(gro, [(stream.virtio(MSS), stream.superframe(payload))], len(segments))
    most = 65_507 // (8 + stream.headers_len + MSS)
    assert [len(train) for train in trains] == [most, len(segments) - most]
    assert frames_in(trains) == segments


def test_many_small_segments_are_sent_as_the_kernel_takes_them(gro: Lone) -> None:
    """No more than what was probed at start."""
    segments = TCP4.segments(numbered(10_800), 36)
    trains = sent(gro, [(TCP4.virtio(36), TCP4.superframe(numbered(10_800)))], len(segments))
    most = gro[0].udp.max_datagrams
    assert [len(train) for train in trains][:-1] == [most] * (len(segments) // most)
    assert frames_in(trains) == segments


def test_a_flows_next_superframe_goes_on_in_the_train(gro: Lone) -> None:
    """Both were whole multiples of the segment size; what does not fit makes the next train."""
    one, two = numbered(30 * MSS), numbered(60 * MSS)[30 * MSS :]
    later = replace(TCP4, seq=TCP4.seq + len(one), ident=TCP4.ident + 30)
    frames = [(TCP4.virtio(MSS), TCP4.superframe(one)), (later.virtio(MSS), later.superframe(two))]
    trains = sent(gro, frames, 60)
    assert [len(train) for train in trains] == [44, 16]
    assert frames_in(trains) == TCP4.segments(one + two, MSS)


def test_long_headers_and_short_ones_go_in_trains_of_their_own(gro: Lone) -> None:
    """Copies of long headers take more room than others' in the memory that both share."""
    long = replace(TCP6, extensions=1, extension_len=1024)
    payload, size = numbered(4 * MSS), long.headers_len + 300
    short_mss, at = size - TCP6.headers_len, 12 * 300
    later = replace(TCP6, seq=TCP6.seq + at)
    frames = [
        (long.virtio(300), long.superframe(payload[:at])),
        (later.virtio(short_mss), later.superframe(payload)),
        (long.virtio(300), long.superframe(payload[:at])),
    ]
    segments = long.segments(payload[:at], 300)
    want = segments + later.segments(payload, short_mss) + segments
    assert frames_in(sent(gro, frames, len(want))) == want


def test_superframes_and_frames_keep_their_order(gro: Lone) -> None:
    """A short segment ends a train; a frame of the segments' size rides behind them; ACKs of the flow stay in place."""
    payload = numbered(2 * MSS + 100)
    ack = TCP4.frame(b"", 0, 0)
    full = TCP4.frame(numbered(MSS), 50_000, 50)
    frames = [
        (PLAIN, ack),
        (TCP4.virtio(MSS), TCP4.superframe(payload)),
        (PLAIN, ack),
        (TCP4.virtio(MSS), TCP4.superframe(payload[: 2 * MSS])),
        (PLAIN, full),
        (PLAIN, ack),
    ]
    trains = sent(gro, frames, 9)
    cut = TCP4.segments(payload, MSS)
    assert frames_in(trains) == [ack, *cut, ack, *TCP4.segments(payload[: 2 * MSS], MSS), full, ack]
    assert [len(train) for train in trains] == [1, 3, 1, 4]


@pytest.mark.parametrize("ecn", range(4))
def test_every_datagram_of_a_train_has_the_inner_ecn(offloading: Lone, ecn: int) -> None:
    """RFC 6040: the field is that of the superframe."""
    node, peer = offloading
    stream = replace(TCP4, tos=ecn)
    node.put(stream.superframe(numbered(5 * MSS)), stream.virtio(MSS))
    node.pump.on_tap_readable()
    fields: list[int] = []
    while len(fields) < 5:
        wait_readable(peer)
        _, control, _, _ = peer.recvmsg(2000, 64)
        fields += [value[0] for level, kind, value in control if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)]
    assert fields == [ecn] * 5


def test_a_superframe_that_makes_no_sense_is_dropped(gro: Lone) -> None:
    """Once, as malformed; what waits in the train and what follows it cross."""
    virtio = bytearray(TCP4.virtio(MSS))
    virtio[6] += 1
    frames = [(PLAIN, ping(1)), (bytes(virtio), TCP4.superframe(numbered(5000))), (PLAIN, ping(2))]
    assert frames_in(sent(gro, frames, 2)) == [ping(1), ping(2)]
    assert {k: v for k, v in gro[0].pump.encap_counters.by_reason().items() if v} == {"inner_malformed": 1}


def test_a_segment_that_no_datagram_carries_ends_nothing(gro: Lone) -> None:
    """gso_size 65,535: refused, and the burst goes on."""
    frame = TCP4.superframe(numbered(65_480))
    assert frames_in(sent(gro, [(TCP4.virtio(0xFFFF), frame), (PLAIN, ping())], 1)) == [ping()]
    assert gro[0].pump.encap_counters.by_reason()["inner_malformed"] == 1


def test_superframes_fill_the_arena_and_all_cross(gro: Lone) -> None:
    """Twelve of 60 KB in one burst, more than the arena's 512 KB: none overwrites what a train still refers to."""
    node, peer = gro
    try:
        node.host.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE: a TAP's queue holds as much
        peer.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    except PermissionError:
        pytest.skip("needs root: the socket that stands in for the TAP does not hold so much otherwise")
    payload = numbered(12 * 60_000)
    streams = [replace(TCP4, seq=TCP4.seq + at, ident=at // 1000) for at in range(0, len(payload), 60_000)]
    parts = [payload[at : at + 60_000] for at in range(0, len(payload), 60_000)]
    frames = [(s.virtio(1000), s.superframe(part)) for s, part in zip(streams, parts, strict=True)]
    want = [segment for s, part in zip(streams, parts, strict=True) for segment in s.segments(part, 1000)]
    assert frames_in(sent(gro, frames, 720)) == want


# Both ways.


@each_stream
def test_what_one_node_cuts_the_other_joins(stream: Stream) -> None:
    """Superframes come out of B's TAP as they went into A's, virtio headers and all; and single frames between them."""
    with two_nodes(offload=True) as (a, b):
        payload = numbered(42 * MSS)
        whole = [replace(stream, seq=stream.seq + i * len(payload), ident=i).superframe(payload) for i in range(3)]
        for frame in whole:
            a.put(frame, stream.virtio(MSS))
            a.put(ping())
        run([a, b], lambda: len(b.came) == 6)
    assert b.came[1::2] == [PLAIN + ping()] * 3
    assert b.came[::2] == [stream.virtio(MSS) + frame for frame in whole]
    assert a.pump.encap_counters.frames == b.pump.decap_counters.frames == 3 * 43
