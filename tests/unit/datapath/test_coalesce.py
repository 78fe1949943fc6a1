"""Runs: what joins, what ends one, what never joins, and that nothing corrupt is made good."""

from __future__ import annotations

from dataclasses import replace
from struct import pack, unpack
from typing import Any

import pytest

from tests.frames import (
    ARP,
    BROADCAST,
    ICMP,
    IPV4,
    MAC_B,
    MAC_C,
    OUTER_B,
    OVERLAY_MTU,
    OWN_MAC,
    POD_A,
    POD_B,
    POD_C,
    POD_C6,
    STRANGER,
    STRANGER6,
    TCP,
    VNI,
    arp,
    echo,
    ethernet,
    from_outer,
    ipv4,
    pong,
    vxlan,
)
from tests.stream import (
    ACK,
    AE,
    CWR,
    ECE,
    FIN,
    NOP,
    PSH,
    RST,
    SYN,
    TABLE,
    TCP4,
    TCP6,
    TIMESTAMPS,
    UDP4,
    UDP6,
    URG,
    Stream,
    decap_datagram,
    joined,
    numbered,
    reverse,
)
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.verdict import FORWARD

MSS = 100
PLAIN = bytes(10)
HOME = {
    "TCP4": reverse(replace(TCP4, options=TIMESTAMPS)),
    "TCP6": reverse(TCP6),
    "UDP4": reverse(UDP4),
    "UDP6": reverse(UDP6),
}
each_stream = pytest.mark.parametrize("stream", HOME.values(), ids=HOME)
each_tcp = pytest.mark.parametrize("stream", [HOME["TCP4"], HOME["TCP6"]], ids=["TCP4", "TCP6"])
each_udp = pytest.mark.parametrize("stream", [HOME["UDP4"], HOME["UDP6"]], ids=["UDP4", "UDP6"])
on_v4 = pytest.mark.parametrize("stream", [HOME["TCP4"], HOME["UDP4"]], ids=["TCP4", "UDP4"])


def superframe(stream: Stream, payload: bytes, mss: int = MSS, **fields: int) -> bytes:
    """What the TAP is given for a run."""
    settings: dict[str, Any] = {**fields}
    return stream.virtio(mss) + replace(stream, **settings).superframe(payload)


def alone(frames: list[bytes]) -> list[bytes]:
    """What the TAP is given for frames that do not join."""
    return [PLAIN + frame for frame in frames]


def changed(frame: bytes, at: int, mask: int = 1) -> bytes:
    """The frame with bits of one octet flipped, and no checksum the wiser."""
    return frame[:at] + bytes([frame[at] ^ mask]) + frame[at + 1 :]


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
    """By one octet: only the last may differ, and only by being shorter."""
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
def test_a_run_has_no_more_octets_than_an_ip_packet(stream: Stream) -> None:
    """65,535 with its headers; what exceeds them by one octet begins the next."""
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
    """Segments, and the octets of the frames as they came."""
    decap, run = Decap(VNI, OWN_MAC, OVERLAY_MTU, True), Coalescer(tcp=True, udp=True)
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
    assert (run.segments, run.octets, run.ended) == (3, sum(map(len, frames)), False)
    assert run.ranges.count == 4
    run.clear()
    assert run.segments == 0


# What does not join, one difference at a time. The frame is whole and good in each case.

TCP_DIFFERENCES: dict[str, dict[str, Any]] = {
    "acknowledgement": {"ack": 2001},
    "window": {"window": 502},
    "urgent pointer": {"urgent": 1},
    "source port": {"sport": 40001},
    "ECE": {"flags": ACK | ECE},
    "CWR": {"flags": ACK | CWR},
    "URG": {"flags": ACK | URG},
    "SYN": {"flags": ACK | SYN},
    "RST": {"flags": ACK | RST},
    "AE": {"flags": ACK | AE},
    "a reserved bit": {"flags": ACK | 0x200},
    "no ACK": {"flags": 0},
    "a gap": {"seq": 1001},
    "an overlap": {"seq": 999},
    "a repetition": {"seq": 1000 - MSS},
    "half the numbers away": {"seq": 1000 + (1 << 31)},
}
SHARED_DIFFERENCES: dict[str, dict[str, Any]] = {
    "TTL": {"ttl": 62},
    "DSCP": {"tos": 4},
    "ECT(0)": {"tos": 2},
    "CE": {"tos": 3},
    "destination MAC": {"dst_mac": MAC_C},
    "source MAC": {"src_mac": MAC_C},
}
V4_DIFFERENCES: dict[str, dict[str, Any]] = {
    "the same ID": {"ident": 6},
    "an ID too far": {"ident": 8},
    "DF": {"fragment": 0},
    "the evil bit": {"fragment": 0xC000},
}


def apart(stream: Stream, other: Stream) -> None:
    """The second segment does not join the first, nor the first the second; without the difference it would."""
    first, second = stream.frame(numbered(MSS)), other.frame(numbered(MSS), MSS, 1)
    assert joined([first, second]) == alone([first, second])
    first, second = other.frame(numbered(MSS)), stream.frame(numbered(MSS), MSS, 1)
    assert joined([first, second]) == alone([first, second])
    assert len(joined(stream.segments(numbered(2 * MSS), MSS))) == 1


@each_tcp
@pytest.mark.parametrize("fields", TCP_DIFFERENCES.values(), ids=TCP_DIFFERENCES)
def test_differing_tcp_headers_stay_apart(stream: Stream, fields: dict[str, Any]) -> None:
    """Every field but those that segmentation changes."""
    apart(stream, replace(stream, **fields))


@each_stream
@pytest.mark.parametrize("fields", SHARED_DIFFERENCES.values(), ids=SHARED_DIFFERENCES)
def test_differing_ethernet_and_ip_headers_stay_apart(stream: Stream, fields: dict[str, Any]) -> None:
    """TTL or hop limit, both parts of the traffic class, both MACs."""
    apart(stream, replace(stream, **fields))


@on_v4
@pytest.mark.parametrize("fields", V4_DIFFERENCES.values(), ids=V4_DIFFERENCES)
def test_differing_ipv4_fields_stay_apart(stream: Stream, fields: dict[str, Any]) -> None:
    """IDs follow one another, as a device numbers what it cuts; the flags are equal."""
    apart(stream, replace(stream, **fields))


@each_stream
def test_other_addresses_stay_apart(stream: Stream) -> None:
    """Another source, another destination."""
    apart(stream, replace(stream, src=POD_C6 if stream.is_v6 else POD_C))
    apart(stream, replace(stream, dst=STRANGER6 if stream.is_v6 else STRANGER))


@pytest.mark.parametrize("stream", [HOME["TCP6"], HOME["UDP6"]], ids=["TCP6", "UDP6"])
def test_another_flow_label_stays_apart(stream: Stream) -> None:
    """No checksum covers it."""
    first, second = stream.segments(numbered(2 * MSS), MSS)
    second = changed(second, 17)
    assert joined([first, second]) == alone([first, second])


@each_udp
def test_another_udp_port_stays_apart(stream: Stream) -> None:
    """Other ports, other flow."""
    apart(stream, replace(stream, sport=40001))


@each_tcp
def test_other_options_stay_apart(stream: Stream) -> None:
    """Other timestamps; or as many octets more of options as there are fewer of payload."""
    stream = replace(stream, options=TIMESTAMPS)
    apart(stream, replace(stream, options=TIMESTAMPS[:-1] + b"\xff"))
    apart(stream, replace(stream, options=TIMESTAMPS + NOP * 4))
    apart(stream, replace(stream, options=b""))


@each_stream
def test_other_ip_options_and_extensions_stay_apart(stream: Stream) -> None:
    """More of them, or others of the same length."""
    if stream.is_v6:
        apart(replace(stream, extensions=2), replace(stream, extensions=1))
        first, second = replace(stream, extensions=1).segments(numbered(2 * MSS), MSS)
        second = changed(second, 60)  # padding of the option
        assert joined([first, second]) == alone([first, second])
    else:
        apart(replace(stream, ip_options=NOP * 4), replace(stream, ip_options=NOP * 8))
        apart(replace(stream, ip_options=NOP * 4), replace(stream, ip_options=NOP * 3 + b"\0"))
        apart(replace(stream, ip_options=NOP * 12), replace(stream, options=stream.options + NOP * 12))


def test_other_families_and_protocols_stay_apart() -> None:
    """Whatever else is equal."""
    for one, other in (("TCP4", "TCP6"), ("TCP4", "UDP4"), ("UDP4", "UDP6"), ("TCP6", "UDP6")):
        apart(HOME[one], HOME[other])


@each_stream
def test_what_is_switched_off_stays_apart(stream: Stream) -> None:
    """A TAP that takes no superframes of the kind gets none; the other kind goes on."""
    frames = stream.segments(numbered(3 * MSS), MSS)
    off = Coalescer(tcp=stream.proto != TCP, udp=stream.proto == TCP)
    assert joined(frames, off) == alone(frames)
    only = Coalescer(tcp=stream.proto == TCP, udp=stream.proto != TCP)
    assert len(joined(frames, only)) == 1


# What is never held back.


def ended_at_once(frame: bytes) -> bool:
    """Whether a frame is written before the next one is looked at."""
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


def virtio_type(write: bytes) -> int:
    """The GSO type of a write."""
    return write[1]


@each_tcp
def test_a_superframe_of_a_kernel_neighbour_never_joins(stream: Stream) -> None:
    """Neither as the first nor as a later one; its segments are sized already."""
    big = stream.frame(numbered(5000), partial=True)
    before = stream.frame(numbered(MSS), -MSS, -1)
    after = stream.frame(numbered(MSS), 5000, 4)
    writes = joined([before, big, after])
    assert [virtio_type(write) for write in writes] == [0, 4 if stream.is_v6 else 1, 0]
    assert [write[10:] for write in writes] == [before, big, after]


@each_tcp
def test_a_superframe_does_not_join_a_run_of_segments_as_long(stream: Stream) -> None:
    """A whole packet beyond the overlay MTU may lead a run, but what is to be cut smaller is no segment of it."""
    first, big = stream.frame(numbered(5000)), stream.frame(numbered(5000), 5000, 1, partial=True)
    assert [write[10:] for write in joined([first, big])] == [first, big]


@each_udp
def test_a_udp_superframe_of_a_kernel_neighbour_is_cut_at_the_told_size(stream: Stream) -> None:
    """UDP_GRO's size is that of its inner segments: the virtio header asks the kernel for them."""
    big = stream.frame(numbered(5000), partial=True)
    assert joined([big], inner_stride=1000) == [stream.virtio(1000) + big]


# Nothing corrupt is made good.


def places(stream: Stream) -> list[int]:
    """Octets whose corruption the L4 checksum shows: all of L4, and the addresses."""
    at = stream.l4_at
    header = [at + 2, at + 3] if stream.proto != TCP else [at + 2, at + 3, at + 11, at + 15, at + 16, at + 17]
    checksum = [] if stream.proto == TCP else [at + 6, at + 7]
    return [*header, *checksum, stream.headers_len, stream.headers_len + MSS // 2, stream.headers_len + MSS - 1]


@each_stream
@pytest.mark.parametrize("victim", range(4))
def test_a_corrupt_frame_stays_alone(stream: Stream, victim: int) -> None:
    """First, later or last of a run, wherever the bit flipped: it is written octet for octet, the others may join."""
    frames = stream.segments(numbered(4 * MSS), MSS)
    for at in places(stream):
        damaged = [changed(frame, at, 0x10) if i == victim else frame for i, frame in enumerate(frames)]
        writes = joined(damaged)
        assert PLAIN + damaged[victim] in writes
        good = [write for write in writes if write != PLAIN + damaged[victim]]
        assert octets_of(good, stream) == octets_of([PLAIN + f for i, f in enumerate(frames) if i != victim], stream)


def octets_of(writes: list[bytes], stream: Stream) -> bytes:
    """The payloads of writes, one after the other."""
    return b"".join(write[10 + stream.headers_len :] for write in writes)


@each_stream
def test_all_of_a_run_corrupt_alike_stay_alone(stream: Stream) -> None:
    """No field differs from its neighbour's, and no checksum is right."""
    frames = [changed(frame, stream.headers_len + 5) for frame in stream.segments(numbered(4 * MSS), MSS)]
    assert joined(frames) == alone(frames)


@each_stream
def test_two_corrupt_frames_do_not_vouch_for_each_other(stream: Stream) -> None:
    """The same flip in both cancels out in a sum over both, and must not."""
    first, second = stream.segments(numbered(2 * MSS), MSS)
    frames = [changed(first, -1, 0x40), changed(second, -2, 0x40)]
    assert joined(frames) == alone(frames)


@on_v4
@pytest.mark.parametrize("victim", range(3))
@pytest.mark.parametrize("partial", [False, True])
def test_a_corrupt_ipv4_header_stays_alone(stream: Stream, victim: int, partial: bool) -> None:
    """Its checksum is written anew for a superframe, so it is verified before; whether L4's is partial or not."""
    frames = [stream.frame(numbered(MSS), i * MSS, i, partial=partial) for i in range(3)]
    damaged = [changed(frame, 25, 4) if i == victim else frame for i, frame in enumerate(frames)]
    writes = joined(damaged)
    assert damaged[victim] in [write[10:] for write in writes]
    assert len(writes) == (3 if victim == 1 else 2)


@each_udp
def test_udp_without_checksum_never_joins(stream: Stream) -> None:
    """Zero means none was computed, and the superframe's would vouch for it: as the first, a later one, or all."""
    frames = stream.segments(numbered(3 * MSS), MSS)
    at = stream.l4_at + 6
    bare = [frame[:at] + b"\0\0" + frame[at + 2 :] for frame in frames]
    assert joined(bare) == alone(bare)
    assert joined([bare[0], frames[1]]) == alone([bare[0], frames[1]])
    assert joined([frames[0], bare[1]]) == alone([frames[0], bare[1]])


@each_udp
def test_no_checksum_is_not_one_that_comes_out_zero(stream: Stream) -> None:
    """In one's complement both are zero, so the sum alone would not tell them apart."""
    at, payload = stream.l4_at + 6, bytes(2)
    (off,) = unpack("!H", stream.frame(payload)[at : at + 2])
    frame = stream.frame(pack("!H", off))
    assert frame[at : at + 2] == b"\xff\xff"
    second = stream.frame(pack("!H", off), 2, 1)
    assert len(joined([frame, second])) == 1
    bare = [one[:at] + b"\0\0" + one[at + 2 :] for one in (frame, second)]
    assert joined(bare) == alone(bare)


@each_udp
@pytest.mark.parametrize("victim", [0, 1])
def test_a_udp_length_that_is_not_the_packets_never_joins(stream: Stream, victim: int) -> None:
    """Even with a checksum that fits what IP carries: UDP would have refused it, or cut it short."""
    frames = [stream.frame(numbered(MSS), i * MSS, i, partial=True) for i in range(2)]
    frames[victim] = changed(frames[victim], stream.l4_at + 5)
    assert [write[10:] for write in joined(frames)] == frames


@each_stream
def test_a_wrong_checksum_is_not_offered_to_the_kernel(stream: Stream) -> None:
    """A field one off the pseudo-header's sum is corrupt, not partial."""
    frames = [stream.frame(numbered(MSS), i * MSS, i, partial=True) for i in range(2)]
    at = stream.l4_at + (17 if stream.proto == TCP else 7)
    damaged = [frames[0], changed(frames[1], at)]
    writes = joined(damaged)
    assert [write[10:] for write in writes] == damaged
    assert [write[0] for write in writes] == [1, 0]
