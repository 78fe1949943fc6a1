"""Runs: what joins, what ends one, and what is never held back."""

from __future__ import annotations

from dataclasses import replace
from struct import pack

import pytest

from tests.frames import (
    ARP,
    BROADCAST,
    ETH_LEN,
    ICMP,
    IPV4,
    MAC_B,
    OUTER_B,
    OWN_MAC,
    PLAIN,
    POD_A,
    POD_B,
    VNI,
    arp,
    echo,
    ethernet,
    from_outer,
    ipv4,
    pong,
    vxlan,
)
from tests.runs import HOME, MSS, alone, changed, each_stream, each_tcp, each_udp, superframe
from tests.steps import TABLE, decap_datagram, joined
from tests.stream import ACK, FIN, NOP, PSH, TIMESTAMPS, Stream, numbered
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.verdict import FORWARD

FULL = 1398
"""Bytes of payload in a full segment."""

# What joins.


@each_stream
@pytest.mark.parametrize("length", [2 * MSS, 5 * MSS, MSS + 1, 5 * MSS + 1, 6 * MSS - 1])
def test_a_run_becomes_its_superframe(stream: Stream, length: int) -> None:
    """One write with the virtio header that makes a device cut it into the same segments; a short one ends it."""
    payload = numbered(length)
    assert joined(stream.segments(payload, MSS)) == [superframe(stream, payload)]


@each_stream
def test_a_frame_alone_stays_as_it_came(stream: Stream) -> None:
    """A plain virtio header, and no look at its checksum: the receiving stack has its own."""
    frame = stream.frame(numbered(MSS))
    for lonely in (frame, changed(frame, -1)):
        assert joined([lonely]) == alone([lonely])


@each_tcp
@pytest.mark.parametrize("flags", [PSH, FIN, PSH | FIN])
def test_psh_and_fin_join_as_the_last(stream: Stream, flags: int) -> None:
    """The superframe has them, and the next segment begins a run of its own."""
    first = [stream.frame(numbered(MSS)), stream.frame(numbered(MSS), MSS, 1, ACK | flags)]
    rest = [stream.frame(numbered(MSS), MSS * i, i) for i in (2, 3)]
    assert joined(first + rest) == [
        superframe(stream, numbered(MSS) * 2, flags=ACK | flags),
        superframe(stream, numbered(MSS) * 2, seq=stream.seq + 2 * MSS, ident=stream.ident + 2),
    ]


@each_stream
def test_a_short_segment_is_the_last(stream: Stream) -> None:
    """A device would cut what follows elsewhere: it begins a run of its own."""
    frames = stream.segments(numbered(2 * MSS + 30), MSS) + [
        stream.frame(numbered(MSS), 2 * MSS + 30 + MSS * i, 3 + i) for i in range(2)
    ]
    assert joined(frames) == [
        superframe(stream, numbered(2 * MSS + 30)),
        superframe(stream, numbered(MSS) * 2, seq=stream.seq + 2 * MSS + 30, ident=stream.ident + 3),
    ]


@each_stream
def test_a_longer_segment_begins_its_own_run(stream: Stream) -> None:
    """By one byte: only the last may differ, and only by being shorter."""
    frames = [stream.frame(numbered(MSS)), stream.frame(numbered(MSS + 1), MSS, 1)]
    assert joined(frames) == alone(frames)


@each_stream
def test_a_run_has_64_segments_at_most(stream: Stream) -> None:
    """As the kernel's GRO: the 65th begins the next."""
    frames = stream.segments(numbered(66 * 10), 10)
    assert joined(frames) == [
        superframe(stream, numbered(660)[:640], 10),
        superframe(stream, numbered(660)[640:], 10, seq=stream.seq + 640, ident=stream.ident + 64),
    ]


@each_stream
def test_a_run_has_no_more_bytes_than_an_ip_packet(stream: Stream) -> None:
    """65,535 with its headers; what exceeds them by one byte begins the next."""
    room = 65_535 - (stream.headers_len - 14)
    assert joined(stream.segments(numbered(room), 10_000)) == [superframe(stream, numbered(room), 10_000)]
    writes = joined(stream.segments(numbered(room + 1), 10_000))
    assert writes[0] == superframe(stream, numbered(60_000), 10_000)
    assert writes[1:] == alone(stream.segments(numbered(room + 1), 10_000)[6:])


@each_stream
def test_numbers_wrap(stream: Stream) -> None:
    """Sequence numbers at 2^32, IPv4 IDs at 2^16."""
    stream = replace(stream, seq=0xFFFF_FFFF - MSS, ident=0xFFFE)
    payload = numbered(5 * MSS)
    assert joined(stream.segments(payload, MSS)) == [superframe(stream, payload)]


@pytest.mark.parametrize("stream", [
    replace(HOME["TCP4"], options=NOP * 40, ip_options=NOP * 40),
    replace(HOME["TCP6"], options=TIMESTAMPS, extensions=2),
    replace(HOME["UDP6"], extensions=8),
    replace(HOME["UDP4"], ip_options=NOP * 8, tos=46 << 2 | 1, fragment=0),
    replace(HOME["TCP4"], flags=ACK, ack=0xFFFFFFFF, window=0),
])  # fmt: skip
def test_equal_options_and_extension_headers_join(stream: Stream) -> None:
    """And any TOS, TTL, acknowledgement and window, as long as all have the same."""
    payload = numbered(5 * MSS)
    assert joined(stream.segments(payload, MSS)) == [superframe(stream, payload)]


@each_stream
def test_padding_is_left_out_of_a_run(stream: Stream) -> None:
    """Ethernet padding is no payload, be it behind the first frame or a later one; alone, a frame keeps it."""
    frames = [frame + bytes(7) for frame in stream.segments(numbered(3 * 10), 10)]
    assert joined(frames) == [superframe(stream, numbered(30), 10)]
    assert joined(frames[:1]) == alone(frames[:1])


@each_stream
@pytest.mark.parametrize("partial", [(True, True, True), (True, False, True), (False, True, False)])
def test_partial_checksums_join_with_whole_ones(stream: Stream, partial: tuple[bool, ...]) -> None:
    """A kernel neighbour's segments whose checksum nobody finished: the superframe's is left to the kernel as well."""
    payload = numbered(3 * MSS)
    frames = [stream.frame(payload[i * MSS :][:MSS], i * MSS, i, partial=left) for i, left in enumerate(partial)]
    assert joined(frames) == [superframe(stream, payload)]


def test_counts_are_of_frames() -> None:
    """Segments, and the bytes of the frames as they came."""
    decap, run = Decap(VNI, OWN_MAC, True), Coalescer(tcp=True, udp=True)
    frames = HOME["TCP4"].segments(numbered(3 * MSS), MSS)
    buf = bytearray(10)
    for frame in frames:
        at = len(buf)
        buf += vxlan(frame)
        assert decap.decap(buf, at, len(frame) + 8, from_outer(OUTER_B), TABLE) == FORWARD
        if run.segments:
            assert run.join(buf, decap)
        else:
            run.start(buf, 0, decap)
    assert (run.segments, run.nbytes, run.ended) == (3, sum(map(len, frames)), False)
    assert run.ranges.count == 4
    run.clear()
    assert run.segments == 0


# What is never held back.


def ended_at_once(frame: bytes) -> bool:
    """Return whether the coalescer must write the frame before it examines the next one."""
    (verdict, decap, placed), run = decap_datagram(vxlan(frame)), Coalescer(tcp=True, udp=True)
    assert verdict == FORWARD
    run.start(placed.buf, 0, decap)
    return run.ended


@each_tcp
@pytest.mark.parametrize("payload", [b"", b"x"])
@pytest.mark.parametrize("flags", [0, ACK, *(ACK | 1 << bit for bit in (0, 1, 2, 3, 5, 6, 7, 8))])
def test_only_plain_segments_with_payload_are_held(stream: Stream, payload: bytes, flags: int) -> None:
    """Pure ACKs, SYN, RST, URG, ECE, CWR, and PSH or FIN that begin and end a run: written at once."""
    assert ended_at_once(replace(stream, flags=flags).frame(payload)) == (payload == b"" or flags != ACK)


@each_udp
def test_an_empty_udp_datagram_is_not_held(stream: Stream) -> None:
    """Nothing could follow it."""
    assert ended_at_once(stream.frame(b""))
    assert not ended_at_once(stream.frame(b"x"))


@pytest.mark.parametrize("frame", [
    ethernet(BROADCAST, MAC_B, ARP, arp(1, MAC_B, POD_B, POD_A)),
    ethernet(OWN_MAC, MAC_B, 0x88CC, b"lldp"),
    ethernet(OWN_MAC, MAC_B, 0x8100, pack("!HH", 100, IPV4) + HOME["TCP4"].frame(b"payload")[14:]),
    ethernet(OWN_MAC, MAC_B, IPV4, ipv4(POD_B, POD_A, ICMP, echo(b""))),
    ethernet(OWN_MAC, MAC_B, IPV4, ipv4(POD_B, POD_A, 132, bytes(64))),
    replace(HOME["UDP4"], fragment=0x2000).frame(b"payload"),
    replace(HOME["TCP4"], fragment=9).frame(b"payload"),
])  # fmt: skip
def test_what_is_neither_tcp_nor_udp_passes_at_once(frame: bytes) -> None:
    """ARP, unknown ethertypes, VLAN tags, ICMP, SCTP, fragments: as they came, and two of them never join."""
    assert ended_at_once(frame)
    assert joined([frame, frame]) == alone([frame, frame])


@each_tcp
def test_a_pure_ack_ends_the_run_before_it(stream: Stream) -> None:
    """Its order among the segments is kept."""
    first, ack, rest = stream.segments(numbered(2 * MSS), MSS), stream.frame(b"", 2 * MSS, 2), numbered(MSS)
    after = [stream.frame(rest, 2 * MSS + i * MSS, 3 + i) for i in range(2)]
    assert joined([*first, ack, *after]) == [
        superframe(stream, numbered(2 * MSS)),
        PLAIN + ack,
        superframe(stream, rest * 2, seq=stream.seq + 2 * MSS, ident=stream.ident + 3),
    ]


def test_interleaved_flows_keep_their_order() -> None:
    """One run is open at a time: what another flow interrupts goes on behind it."""
    a, b = HOME["TCP4"].segments(numbered(4 * MSS), MSS), HOME["UDP6"].segments(numbered(4 * MSS), MSS)
    mixed = [a[0], b[0], a[1], a[2], b[1], b[2], b[3], pong(), a[3]]
    writes = joined(mixed)
    assert [len(write) for write in writes] == [
        10 + size
        for size in (
            len(a[0]),
            len(b[0]),
            len(a[1]) + MSS,
            len(b[1]) + 2 * MSS,
            len(pong()),
            len(a[3]),
        )
    ]
    assert (writes[0], writes[1], writes[4], writes[5]) == (PLAIN + a[0], PLAIN + b[0], PLAIN + pong(), PLAIN + a[3])


# Superframes of kernel neighbours: they pass whole, alone.


def safe_mss(stream: Stream) -> int:
    """Bytes of payload in a packet that any path takes: RFC 9293 section 3.7.1, MUST-15."""
    return (1280 if stream.is_v6 else 576) - (stream.headers_len - ETH_LEN)


@each_tcp
def test_frames_that_may_be_superframes_make_a_run_of_safe_segments(stream: Stream) -> None:
    """A kernel neighbour's, none of them cut or summed: how long its sender wanted segments to be is not known."""
    payload = numbered(3 * FULL + 5)
    frames = [
        stream.frame(payload[at : at + FULL], at, number, partial=True)
        for number, at in enumerate(range(0, len(payload), FULL))
    ]
    assert joined(frames) == [stream.virtio(safe_mss(stream)) + stream.superframe(payload)]


@each_tcp
def test_one_frame_that_may_be_a_superframe_makes_the_run_safe(stream: Stream) -> None:
    """First, in the middle or last, among segments whose checksums are complete."""
    payload = numbered(3 * FULL)
    for odd in range(3):
        frames = [stream.frame(payload[i * FULL :][:FULL], i * FULL, i, partial=i == odd) for i in range(3)]
        assert joined(frames) == [stream.virtio(safe_mss(stream)) + stream.superframe(payload)]


@each_tcp
def test_a_superframe_is_no_segment_of_a_run_of_shorter_ones(stream: Stream) -> None:
    """It is longer than the segments before it: a write of its own, and order is kept."""
    big = stream.frame(numbered(5000), partial=True)
    before = stream.frame(numbered(MSS), -MSS, -1)
    assert joined([before, big]) == [PLAIN + before, stream.virtio(safe_mss(stream)) + big]


@each_tcp
@pytest.mark.parametrize(("sizes", "declared"), [
    ((FULL, FULL, FULL), FULL),
    ((FULL, 700, FULL), 700),
    ((700, FULL, 1000), 700),
    ((FULL, 3 * FULL, 0xFFFF), FULL),  # the others are one segment each, no longer than the first frame
    ((3 * FULL, 3 * FULL, 900), 900),
])  # fmt: skip
def test_a_run_of_superframes_declares_the_smallest_reported_size(
    stream: Stream, sizes: tuple[int, ...], declared: int
) -> None:
    """The path MTU of their sender may change between two of them."""
    length = 2 * FULL
    payload = numbered(3 * length)
    frames = [stream.frame(payload[i * length :][:length], i * length, i, partial=True) for i in range(3)]
    assert joined(frames, sizes=sizes) == [stream.virtio(declared) + stream.superframe(payload)]


@each_tcp
@pytest.mark.parametrize("odd", range(3))
def test_one_superframe_of_unknown_size_makes_the_run_safe(stream: Stream, odd: int) -> None:
    """First, in the middle or last, among superframes whose sizes are reported."""
    payload = numbered(6 * FULL)
    frames = [stream.frame(payload[i * 2 * FULL :][: 2 * FULL], i * 2 * FULL, i, partial=True) for i in range(3)]
    sizes = [0 if i == odd else FULL for i in range(3)]
    assert joined(frames, sizes=sizes) == [stream.virtio(safe_mss(stream)) + stream.superframe(payload)]


@each_tcp
def test_frames_of_one_reported_segment_are_a_run_of_such_segments(stream: Stream) -> None:
    """As segments whose checksums are complete: the size is the first one's."""
    payload = numbered(3 * FULL)
    frames = [stream.frame(payload[i * FULL :][:FULL], i * FULL, i, partial=True) for i in range(3)]
    assert joined(frames, sizes=[FULL] * 3) == [stream.virtio(FULL) + stream.superframe(payload)]


@each_udp
def test_a_udp_superframe_of_a_kernel_neighbour_is_cut_at_its_own_size(stream: Stream) -> None:
    """UDP_GRO's size is that of its inner segments: the virtio header asks the kernel for them."""
    big = stream.frame(numbered(5000), partial=True)
    assert joined([big], inner_stride=1000) == [stream.virtio(1000) + big]


@each_stream
def test_the_frames_of_a_run_can_be_found_again(stream: Stream) -> None:
    """After the TAP refused the superframe: each has its own headers, the first one no padding."""
    frames = [*stream.segments(numbered(4 * MSS + 3), MSS)]
    buf, run, decap = bytearray(10), Coalescer(tcp=True, udp=True), Decap(VNI, OWN_MAC, True)
    for number, frame in enumerate(frames):
        at, padding = len(buf), bytes(5) if number == 0 else b""
        buf += vxlan(frame) + padding
        assert decap.decap(buf, at, len(buf) - at, from_outer(OUTER_B), TABLE) == FORWARD
        if number == 0:
            run.start(buf, 0, decap)
        else:
            assert run.join(buf, decap)
    run.finish(buf)
    run.take_apart(buf)
    places = [(run.frame_at(number), run.frame_len(number)) for number in range(run.segments)]
    assert [bytes(buf[at : at + length]) for at, length in places] == frames


def test_a_kind_that_is_refused_is_given_up() -> None:
    """Neither joined nor taken whole any more; the other protocol is."""
    for refused, kept in (("TCP4", "UDP6"), ("UDP4", "TCP6")):
        run, payload = Coalescer(tcp=True, udp=True), numbered(2 * MSS)
        joined(HOME[refused].segments(payload, MSS), run)
        assert run.is_taken()
        run.refuse()
        assert not run.is_taken()
        segments = HOME[refused].segments(payload, MSS)
        assert joined(segments, run) == alone(segments)
        assert joined(HOME[kept].segments(payload, MSS), run) == [superframe(HOME[kept], payload)]
