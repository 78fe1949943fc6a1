"""Superframes, cut: every field that changes from one segment to the next, and what is no superframe at all."""

from __future__ import annotations

from dataclasses import replace
from struct import pack

import pytest
from scapy.layers.inet import IP, TCP, UDP

from tests.frames import MAC_B, MAC_C, POD_B, VNI, ethernet, ipv4, packet_of, place, udp_frame, vxlan
from tests.judge import approved
from tests.steps import NOW_US, TABLE, cut
from tests.stream import (
    ACK,
    AE,
    CWR,
    ECE,
    FIN,
    MSS,
    NOP,
    PSH,
    TCP4,
    TCP6,
    TIMESTAMPS,
    UDP4,
    UDP6,
    URG,
    Stream,
    numbered,
)
from vxland.datapath.encap import Encap
from vxland.datapath.segment import Segmenter
from vxland.datapath.train import Train
from vxland.datapath.verdict import FORWARD

LEAST = 36
"""Bytes of TCP payload in the smallest segments that Linux leaves to a device by the thousand."""
STREAMS = {"TCP4": TCP4, "TCP6": TCP6, "UDP4": UDP4, "UDP6": UDP6}
each_stream = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
each_tcp = pytest.mark.parametrize("stream", [TCP4, TCP6], ids=["TCP4", "TCP6"])


@each_stream
@pytest.mark.parametrize("length", [1, MSS - 1, MSS, MSS + 1, 5 * MSS, 5 * MSS + 1, 9000])
def test_a_superframe_is_cut_as_a_device_would(stream: Stream, length: int) -> None:
    """Byte for byte the segments that are built one by one; scapy finds every length and checksum right."""
    payload = numbered(length)
    frames = cut(stream.superframe(payload), stream.virtio(MSS)).frames
    assert frames == stream.segments(payload, MSS)
    assert b"".join(bytes(approved(frame)[UDP if stream.proto == 17 else TCP].payload) for frame in frames) == payload


def test_ids_follow_one_another() -> None:
    """Modulo 2^16."""
    stream = replace(TCP4, ident=0xFFFE)
    frames = cut(stream.superframe(numbered(500)), stream.virtio(100)).frames
    assert [approved(frame)[IP].id for frame in frames] == [0xFFFE, 0xFFFF, 0, 1, 2]


@each_tcp
def test_sequence_numbers_advance_by_what_was_sent(stream: Stream) -> None:
    """Modulo 2^32."""
    stream = replace(stream, seq=0xFFFF_FF00)
    frames = cut(stream.superframe(numbered(450)), stream.virtio(100)).frames
    assert [approved(frame)[TCP].seq for frame in frames] == [0xFFFFFF00, 0xFFFFFF64, 0xFFFFFFC8, 0x2C, 0x90]


@each_tcp
def test_fin_and_psh_are_the_last_segments(stream: Stream) -> None:
    """And CWR is the first one's; everything else is everybody's, AccECN's ninth flag too."""
    stream = replace(stream, flags=ACK | FIN | PSH | CWR | ECE | URG | AE, urgent=9)
    frames = cut(stream.superframe(numbered(300)), stream.virtio(100)).frames
    flags = [int.from_bytes(frame[stream.l4_at + 12 :][:2], "big") & 0x1FF for frame in frames]
    shared = ACK | ECE | URG | AE
    assert flags == [shared | CWR, shared, shared | FIN | PSH]
    assert frames == stream.segments(numbered(300), 100)


@each_tcp
def test_of_a_single_segment_all_flags_stay(stream: Stream) -> None:
    """It is the first and the last."""
    stream = replace(stream, flags=ACK | FIN | PSH | CWR)
    assert cut(stream.superframe(b"x"), stream.virtio(100)).frames == stream.segments(b"x", 100)


@pytest.mark.parametrize("stream", [
    replace(TCP4, options=TIMESTAMPS),
    replace(TCP4, options=NOP * 40, ip_options=NOP * 40),
    replace(TCP6, options=TIMESTAMPS, extensions=1),
    replace(TCP6, options=NOP * 40, extensions=8),
    replace(UDP4, ip_options=NOP * 12),
    replace(UDP6, extensions=3),
])  # fmt: skip
def test_options_and_extension_headers_go_with_every_segment(stream: Stream) -> None:
    """The geometry is that of the headers, up to the longest."""
    payload = numbered(3000)
    assert cut(stream.superframe(payload), stream.virtio(700)).frames == stream.segments(payload, 700)


@each_stream
@pytest.mark.parametrize("hdr_len", [0, 14, 65_535])
def test_hdr_len_means_nothing(stream: Stream, hdr_len: int) -> None:
    """Kernels differ about it."""
    payload = numbered(3000)
    assert cut(stream.superframe(payload), stream.virtio(700, hdr_len)).frames == stream.segments(payload, 700)


@pytest.mark.parametrize("tos", [0, 1, 2, 3, 46 << 2 | 2])
@each_stream
def test_the_traffic_class_is_every_segments(stream: Stream, tos: int) -> None:
    """DSCP and ECN of the superframe."""
    stream = replace(stream, tos=tos)
    assert cut(stream.superframe(numbered(300)), stream.virtio(100)).frames == stream.segments(numbered(300), 100)


def test_the_mac_that_the_table_chose_is_every_segments() -> None:
    """The frame went to the host's gateway MAC; its segments go to the VTEP's."""
    stream = replace(TCP4, dst_mac=MAC_C ^ 1)
    want = replace(stream, dst_mac=MAC_B).segments(numbered(300), 100)
    assert cut(stream.superframe(numbered(300)), stream.virtio(100)).frames == want


def test_a_udp_checksum_that_comes_out_zero_is_sent_as_ones() -> None:
    """RFC 768: zero would mean none."""
    for word in range(0x10000):
        packet = packet_of(UDP4.src, UDP4.dst, 17, UDP4.packet(pack("!H", word), 0, 0, 0, partial=False)[20:])
        if packet[26:28] == b"\xff\xff":
            payload = pack("!H", word)
            break
    frames = cut(UDP4.superframe(payload * 2), UDP4.virtio(2)).frames
    assert [frame[40:42] for frame in frames] == [b"\xff\xff"] * 2
    assert frames == UDP4.segments(payload * 2, 2)


# Trains.


@each_stream
def test_64_kib_need_two_trains(stream: Stream) -> None:
    """Each segment has headers of its own: together more than 65,507 bytes; a train is filled before the next one."""
    payload = numbered(65_535 - stream.headers_len + 14)
    outcome = cut(stream.superframe(payload), stream.virtio(MSS))
    assert outcome.trains is not None
    size = 8 + stream.headers_len + MSS
    assert [len(train) for train in outcome.trains] == [65_507 // size, -(-len(payload) // MSS) - 65_507 // size]
    assert outcome.frames == stream.segments(payload, MSS)


@pytest.mark.parametrize("most", [1, 2, 64, 128])
def test_a_train_has_no_more_segments_than_the_kernel_takes(most: int) -> None:
    """The scratch slots of one are those of the next."""
    payload = numbered(300 * LEAST + 5)
    outcome = cut(TCP4.superframe(payload), TCP4.virtio(LEAST), most)
    assert outcome.trains is not None
    assert [len(train) for train in outcome.trains[:-1]] == [most] * (-(-301 // most) - 1)
    assert outcome.frames == TCP4.segments(payload, LEAST)


def test_the_next_superframe_goes_on_in_the_same_train() -> None:
    """Behind whole segments; its headers get the slots behind theirs."""
    first, second = numbered(200), numbered(350)[50:]
    head, gap = bytes(54) + TCP4.virtio(100), bytes(64)
    whole = [TCP4.superframe(first), replace(TCP4, seq=1200, ident=9).superframe(second)]
    buf = bytearray(head + whole[0] + gap[:54] + TCP4.virtio(100) + whole[1])
    scratch_at = len(buf)
    buf += bytes(128 * 256)
    encap, train, segmenter = Encap(VNI, 16), Train(128), Segmenter(scratch_at)
    train.begin(0, 0, 0, 8 + 54 + 100)
    for at, frame in ((64, whole[0]), (128 + len(whole[0]), whole[1])):
        assert encap.encap(buf, at, len(frame), TABLE, NOW_US) == FORWARD
        assert segmenter.open(buf, at, encap.ip, encap.csum_start, encap.gso_size)
        segmenter.fill(buf, train)
        assert segmenter.done()
    assert train.datagrams == 5
    spans = zip(train.ranges.at, train.ranges.length, strict=True)
    raw = b"".join(bytes(buf[at : at + length]) for at, length in list(spans)[: train.ranges.count])
    want = TCP4.segments(first + second, 100)
    assert raw == b"".join(vxlan(frame) for frame in want)


# What is no superframe, or none that makes sense.


@each_stream
@pytest.mark.parametrize("off", [-20, -1, 1, 20])
def test_a_checksum_start_elsewhere_is_refused(stream: Stream, off: int) -> None:
    """The kernel and the headers must agree on where L4 lies."""
    virtio = bytearray(stream.virtio(100))
    virtio[6:8] = pack("<H", stream.l4_at + off)
    assert cut(stream.superframe(numbered(300)), bytes(virtio)).trains is None


@each_stream
def test_a_superframe_without_payload_is_refused(stream: Stream) -> None:
    """There is nothing to cut."""
    assert cut(stream.superframe(b""), stream.virtio(100)).trains is None


@each_stream
def test_a_size_of_zero_is_refused(stream: Stream) -> None:
    """Encap asks for none such; there would be no end of segments."""
    placed, encap = place(stream.superframe(numbered(300)), stream.virtio(100)), Encap(VNI, 16)
    assert encap.encap(placed.buf, placed.at, placed.length, TABLE, NOW_US) == FORWARD
    for gso_size, opened in ((100, True), (0, False)):
        assert Segmenter(0).open(placed.buf, placed.at, encap.ip, encap.csum_start, gso_size) == opened


@each_tcp
@pytest.mark.parametrize("words", [0, 4, 15])
def test_a_tcp_header_that_does_not_fit_is_refused(stream: Stream, words: int) -> None:
    """Shorter than TCP's own 20 bytes, or longer than the packet."""
    frame = bytearray(stream.superframe(b"x" * 30))
    frame[stream.l4_at + 12] = words << 4
    assert cut(bytes(frame), stream.virtio(10)).trains is None


@pytest.mark.parametrize(("extension_len", "length", "mss", "trains"), [
    (168, 5000, 100, 1),
    (176, 5000, 100, 1),  # longer than 256 bytes with the VXLAN header
    (1024, 5000, 300, 1),
    (1024, 20_000, 300, 3),  # no more than the scratch has room for
    (2040, 60_000, 1200, 4),
])  # fmt: skip
def test_long_headers_are_carried(extension_len: int, length: int, mss: int, trains: int) -> None:
    """Ten stops in a routing header, long options: the kernel's device carries them, and here they were dropped."""
    stream = replace(TCP6, extensions=1, extension_len=extension_len)
    outcome = cut(stream.superframe(numbered(length)), stream.virtio(mss))
    assert outcome.trains is not None
    assert len(outcome.trains) == trains
    assert outcome.frames == stream.segments(numbered(length), mss)


def test_copies_of_long_headers_are_bounded() -> None:
    """No stack leaves 600 segments of 100 bytes behind 2 KiB of headers to a device: 1.3 MB out of 62 kB."""
    stream = replace(TCP6, extensions=1, extension_len=2040)
    assert cut(stream.superframe(numbered(60_000)), stream.virtio(100)).trains is None


@each_stream
@pytest.mark.parametrize(("length", "mss", "carried"), [
    (60_000, 1, False),  # the attack: 60,000 datagrams
    (60_000, 8, False),
    (129, 1, False),
    (128, 1, True),  # UDP_MAX_SEGMENTS of any size
    (128 * 35, 35, True),
    (128 * 35 + 1, 35, False),
    (60_000, LEAST, True),  # tcp_min_snd_mss less timestamps
])  # fmt: skip
def test_more_segments_than_any_stack_sends_are_refused(stream: Stream, length: int, mss: int, carried: bool) -> None:
    """A pod's packet socket says gso_size 1, and half a second of it starved every other pod for 25 s."""
    payload = numbered(length)
    outcome = cut(stream.superframe(payload), stream.virtio(mss))
    assert (outcome.trains is not None) == carried
    if carried:
        assert len(outcome.frames) == -(-length // mss)


@each_stream
@pytest.mark.parametrize(("at", "value"), [
    (0, b"\0"),  # a superframe whose checksum is said to be done
    (1, b"\x03"),  # UFO, which no device offers
    (1, b"\x42"),
    (8, b"\x02\0"),  # another place than the protocol's
    (8, b"\xff\xff"),
])  # fmt: skip
def test_a_virtio_header_that_contradicts_the_packet_is_refused(stream: Stream, at: int, value: bytes) -> None:
    """The sender wrote it; the packet's own headers decide against it."""
    right = stream.virtio(100)
    assert cut(stream.superframe(numbered(300)), right).trains is not None
    assert cut(stream.superframe(numbered(300)), right[:at] + value + right[at + len(value) :]).trains is None


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("other", STREAMS.values(), ids=STREAMS)
def test_a_superframe_is_of_its_own_protocol(stream: Stream, other: Stream) -> None:
    """TSO for IPv4 says nothing about an IPv6 packet, nor about UDP."""
    virtio = stream.virtio(100)
    outcome = cut(stream.superframe(numbered(300)), virtio[:1] + other.virtio(100)[1:2] + virtio[2:])
    same = other.virtio(100)[1] == virtio[1]
    assert (outcome.trains is not None) == same


@pytest.mark.parametrize("stream", [TCP6, UDP6], ids=["TCP6", "UDP6"])
def test_a_segment_longer_than_a_datagram_is_refused(stream: Stream) -> None:
    """gso_size may say 65,535: no train would ever have room, and there must be no waiting for it."""
    payload = numbered(65_535)[: 65_507 - 8 - stream.headers_len + 1]
    fits = payload[:-1]
    assert cut(stream.superframe(payload), stream.virtio(65_535)).trains is None
    assert cut(stream.superframe(fits), stream.virtio(65_535)).frames == stream.segments(fits, 65_535)


def whole(frame: bytes) -> list[bytes]:
    """The frame that leaves uncut."""
    return [vxlan(frame)]


def test_what_is_no_ip_goes_whole_with_its_checksum_finished() -> None:
    """A VLAN tag hides the headers from us: whatever IP packet came before it must not be taken for them."""
    payload = numbered(3000)
    tagged = TCP4.superframe(payload)[:12] + bytes.fromhex("81000064") + TCP4.superframe(payload)[12:]
    virtio = bytearray(TCP4.virtio(700))
    virtio[6:8] = pack("<H", TCP4.l4_at + 4)
    done = TCP4.frame(payload)[:12] + bytes.fromhex("81000064") + TCP4.frame(payload)[12:]
    encap = Encap(VNI, 16)
    for _ in range(2):  # after another superframe and after itself
        other = place(TCP4.superframe(payload), TCP4.virtio(700))
        assert encap.encap(other.buf, other.at, other.length, TABLE, NOW_US) == FORWARD
        assert encap.gso_size == 700
        placed = place(tagged, bytes(virtio))
        assert encap.encap(placed.buf, placed.at, placed.length, TABLE, NOW_US) == FORWARD
        assert (encap.gso_size, placed.bytes_at(placed.at, placed.length)) == (0, done)


def test_a_fragment_goes_whole() -> None:
    """It has no L4 header of its own to cut behind."""
    stream = replace(UDP4, fragment=0x2000)
    frame = stream.superframe(numbered(3000))
    outcome = cut(frame, bytes([0]) + UDP4.virtio(700)[1:])
    assert outcome.trains == [whole(frame)]


@pytest.mark.parametrize("virtio", [
    pack("<BBHHHH", 0, 0, 0, 700, 34, 16),
    pack("<BBHHHH", 0, 1, 0, 0, 34, 16),
    pack("<BBHHHH", 0, 0x80, 0, 700, 34, 16),
])  # fmt: skip
def test_without_type_or_size_it_is_a_plain_frame(virtio: bytes) -> None:
    """GSO_NONE, even with the ECN bit, or a size of 0."""
    frame = TCP4.frame(numbered(3000))
    assert cut(frame, virtio).trains == [whole(frame)]


def test_what_is_neither_tcp_nor_udp_is_refused() -> None:
    """We ask the kernel for no such superframes."""
    packet = ipv4(TCP4.src, POD_B, 132, bytes(3000))
    frame = ethernet(MAC_B, TCP4.src_mac, 0x0800, packet)
    assert cut(frame, TCP4.virtio(700)).trains is None


def test_padding_behind_the_packet_is_no_payload() -> None:
    """The IP length decides where it ends."""
    payload = numbered(30)
    assert cut(TCP4.superframe(payload) + bytes(6), TCP4.virtio(10)).frames == TCP4.segments(payload, 10)


def test_a_plain_frame_is_no_train() -> None:
    """The helper's own control: what has no GSO type comes out whole."""
    frame = udp_frame(TCP4.src, POD_B, dst_mac=MAC_B)
    assert cut(frame, bytes(10)).trains == [whole(frame)]
