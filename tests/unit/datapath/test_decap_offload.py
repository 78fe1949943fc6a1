"""Virtio headers of received frames: partial checksums, superframes of kernel neighbours, the pieces of a buffer."""

from __future__ import annotations

from struct import pack, unpack

import pytest

from tests.frames import (
    CANARIES,
    ETH_LEN,
    IPV4,
    MAC_B,
    OUTER_B,
    OVERLAY_MTU,
    OWN_MAC,
    PLAIN,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    TCP,
    UDP,
    VNI,
    ethernet,
    from_b,
    from_outer,
    ipv4,
    ipv6,
    packet_of,
    place,
    tcp,
    udp,
    vxlan,
)
from tests.steps import FROM_B, TABLE, written
from tests.stream import ACK, RST, SYN, URG
from vxland.datapath.datagram import SEGMENT_MARK, Datagram, segment_size_of
from vxland.datapath.decap import Decap
from vxland.datapath.verdict import FORWARD, Drop

FAMILIES = [(POD_B, POD_A), (POD_B6, POD_A6)]
SAFE_LEN = {20: 576, 40: 1280}
"""Bytes of a packet that any path takes, by those of the IP header."""


def virtio(header: bytes) -> dict[str, int]:
    """A virtio header by field."""
    names = ("flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset")
    return dict(zip(names, unpack("<BBHHHH", header), strict=True))


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize(("build", "proto", "offset", "l4_len"), [(udp, UDP, 6, 8), (tcp, TCP, 16, 20)])
def test_a_partial_checksum_is_offered_to_the_kernel(
    src: str, dst: str, build: type, proto: int, offset: int, l4_len: int
) -> None:
    """NEEDS_CSUM, with the field it means; the frame itself is not touched."""
    frame = from_b(packet_of(src, dst, proto, build(src, dst, b"payload", partial=True)))
    header, out = written(frame)
    start = ETH_LEN + (20 if "." in src else 40)
    assert out == frame
    assert virtio(header) == {
        "flags": 1,
        "gso_type": 0,
        "hdr_len": start + l4_len,
        "gso_size": 0,
        "csum_start": start,
        "csum_offset": offset,
    }


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize(("build", "proto", "offset"), [(udp, UDP, 6), (tcp, TCP, 16)])
def test_any_other_checksum_is_left_to_the_receiver(src: str, dst: str, build: type, proto: int, offset: int) -> None:
    """Right, one off the pseudo-header's sum, or none (UDP's zero): a corrupt packet is not laundered."""
    whole = build(src, dst, b"payload")
    partial = build(src, dst, b"payload", partial=True)
    (pseudo,) = unpack("!H", partial[offset : offset + 2])
    for field in (whole[offset : offset + 2], pack("!H", pseudo ^ 1), pack("!H", pseudo ^ 0x8000), b"\0\0"):
        frame = from_b(packet_of(src, dst, proto, whole[:offset] + field + whole[offset + 2 :]))
        assert written(frame) == (PLAIN, frame)


def test_ipv4_options_and_ipv6_extensions_move_the_start() -> None:
    """csum_start counts from the frame to where L4 really lies."""
    v4 = from_b(ipv4(POD_B, POD_A, UDP, udp(POD_B, POD_A, b"", partial=True), options=b"\x01" * 8))
    v6 = from_b(ipv6(POD_B6, POD_A6, 60, bytes([UDP, 0, 1, 4, 0, 0, 0, 0]) + udp(POD_B6, POD_A6, b"", partial=True)))
    assert virtio(written(v4)[0])["csum_start"] == ETH_LEN + 28
    assert virtio(written(v6)[0])["csum_start"] == ETH_LEN + 48


def test_a_fragment_is_not_marked() -> None:
    """Its checksum covers bytes that are not here."""
    frame = from_b(ipv4(POD_B, POD_A, UDP, udp(POD_B, POD_A, bytes(64), partial=True), fragment=0x2000))
    assert written(frame) == (PLAIN, frame)


@pytest.mark.parametrize(("src", "dst", "gso_type", "ip_len"), [(POD_B, POD_A, 1, 20), (POD_B6, POD_A6, 4, 40)])
@pytest.mark.parametrize("options", [b"", b"\x01" * 12])
@pytest.mark.parametrize("flags", [0x10, 0x90])
def test_a_tcp_superframe_is_written_as_gso(
    src: str, dst: str, gso_type: int, ip_len: int, options: bytes, flags: int
) -> None:
    """Each piece fits any path, RFC 9293 MUST-15; CWR belongs on the first alone: the ECN bit says so to the kernel.

    With the overlay's MTU for a size, a stream to pods with a smaller one hung: forwarding refused every superframe.
    """
    frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(5000), flags=flags, options=options, partial=True)))
    header, out = written(frame)
    headers = ip_len + 20 + len(options)
    assert out == frame
    assert virtio(header) == {
        "flags": 1,
        "gso_type": gso_type | (0x80 if flags & 0x80 else 0),
        "hdr_len": ETH_LEN + headers,
        "gso_size": SAFE_LEN[ip_len] - headers,
        "csum_start": ETH_LEN + ip_len,
        "csum_offset": 16,
    }


@pytest.mark.parametrize(("src", "dst", "ip_len"), [(POD_B, POD_A, 20), (POD_B6, POD_A6, 40)])
def test_what_any_path_takes_is_written_plainly(src: str, dst: str, ip_len: int) -> None:
    """One byte more may be two segments: a full one of a sender whose path is narrow, and a short one."""
    most = SAFE_LEN[ip_len] - ip_len - 20
    for payload, gso in ((most, False), (most + 1, True), (OVERLAY_MTU - ip_len - 20, True)):
        frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(payload), partial=True)))
        assert (virtio(written(frame)[0])["gso_type"] != 0) == gso


@pytest.mark.parametrize("flag", [SYN, RST, URG])
@pytest.mark.parametrize(("src", "dst"), FAMILIES)
def test_what_is_never_cut_is_no_superframe(src: str, dst: str, flag: int) -> None:
    """TCP Fast Open sends up to a segment of data with SYN: cut, it would be two connections."""
    frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(1390), flags=ACK | flag, partial=True)))
    header = virtio(written(frame)[0])
    assert (header["flags"], header["gso_type"], header["gso_size"]) == (1, 0, 0)


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
def test_a_datagram_of_a_train_is_one_segment(src: str, dst: str) -> None:
    """It crossed a device that cuts: its true size is known, also to the last one, and to no buffer that follows."""
    frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(1390), partial=True)))
    placed, decap = place(2 * vxlan(frame)), Decap(VNI, OWN_MAC, True)
    each = 8 + len(frame)
    for length, reported, gso in ((2 * each, each, False), (each, each, True), (each, 0, True)):
        assert decap.stride_of(placed.buf, placed.at, length, reported) == each
        for at in range(placed.at, placed.at + length, each):
            assert decap.decap(placed.buf, at, each, FROM_B, TABLE) == FORWARD
            assert (decap.gso_type != 0, decap.partial) == (gso, True)


def test_long_extension_headers_leave_no_room_for_segments() -> None:
    """Fewer than 256 bytes would be a segment nobody sends, and many of them for one datagram."""
    for nbytes, gso in ((960, True), (968, False)):
        extension = bytes([TCP, nbytes // 8 - 1]) + bytes(nbytes - 2)
        packet = ipv6(POD_B6, POD_A6, 60, extension + tcp(POD_B6, POD_A6, bytes(5000), partial=True))
        header = virtio(written(from_b(packet))[0])
        assert (header["flags"], header["gso_type"] != 0) == (1, gso)
        assert header["gso_size"] == (1280 - 60 - nbytes if gso else 0)


# Segment sizes that a tc program reports with a mark.


@pytest.mark.parametrize(("mark", "size"), [
    (SEGMENT_MARK | 1398, 1398),
    (SEGMENT_MARK | 0xFFFF, 0xFFFF),
    (SEGMENT_MARK, 0),
    (0, 0),
    (1398, 0),
    (0x4000, 0),
    (0x5659_0576, 0),
    (0x5657_0576, 0),
    (0xD658_0576, 0),
    (0xFFFF_FFFF, 0),
])  # fmt: skip
def test_a_mark_of_another_program_reports_nothing(mark: int, size: int) -> None:
    """kube-proxy's 0x4000 for one: only the magic makes the lower half a size."""
    assert segment_size_of(mark) == size


def reported(size: int, stride: int = 0) -> Datagram:
    """Return the kernel's information on a datagram from node B whose mark reports this size."""
    datagram = from_outer(OUTER_B, segment_size=size)
    datagram.stride = stride
    return datagram


@pytest.mark.parametrize(("src", "dst", "gso_type", "ip_len"), [(POD_B, POD_A, 1, 20), (POD_B6, POD_A6, 4, 40)])
@pytest.mark.parametrize("options", [b"", b"\x01" * 12])
@pytest.mark.parametrize("size", [36, 500, 1398, 4999])
def test_a_reported_size_is_declared(src: str, dst: str, gso_type: int, ip_len: int, options: bytes, size: int) -> None:
    """The sender's own segments go on behind this node; of a guessed size there were nearly three times as many."""
    frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(5000), options=options, partial=True)))
    header, out = written(frame, reported(size))
    assert out == frame
    assert virtio(header) == {
        "flags": 1,
        "gso_type": gso_type,
        "hdr_len": ETH_LEN + ip_len + 20 + len(options),
        "gso_size": size,
        "csum_start": ETH_LEN + ip_len,
        "csum_offset": 16,
    }


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize("size", [5000, 5001, 0xFFFF])
def test_a_frame_of_one_reported_segment_is_written_plainly(src: str, dst: str, size: int) -> None:
    """It is not longer than the segments of its sender, so it is one; the kernel still finishes its checksum."""
    frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(5000), partial=True)))
    header = virtio(written(frame, reported(size))[0])
    assert (header["flags"], header["gso_type"], header["gso_size"]) == (1, 0, 0)


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize("size", [1, 8, 35])
def test_a_reported_size_that_no_stack_sends_is_ignored(src: str, dst: str, size: int) -> None:
    """Another program set that mark: the segments are those without one, and the frame is not refused."""
    for length in (600, 5000, 60_000):
        frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(length), partial=True)))
        assert written(frame, reported(size)) == written(frame)


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize("stride", [600, 6000])
def test_with_a_size_of_udp_gro_the_mark_is_not_used(src: str, dst: str, stride: int) -> None:
    """It has the size of the datagrams."""
    frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(5000), partial=True)))
    assert written(frame, reported(1398, stride)) == written(frame)


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
def test_a_reported_size_changes_nothing_else(src: str, dst: str) -> None:
    """Complete checksums, UDP, flags of one segment, and datagrams of a train."""
    for proto, l4 in (
        (TCP, tcp(src, dst, bytes(5000))),
        (UDP, udp(src, dst, bytes(5000), partial=True)),
        (TCP, tcp(src, dst, bytes(5000), flags=ACK | SYN, partial=True)),
        (TCP, tcp(src, dst, bytes(5000), flags=ACK | RST, partial=True)),
        (TCP, tcp(src, dst, bytes(5000), flags=ACK | URG, partial=True)),
    ):
        frame = from_b(packet_of(src, dst, proto, l4))
        assert written(frame, reported(1398)) == written(frame)
        assert virtio(written(frame)[0])["gso_type"] == 0
    frame = from_b(packet_of(src, dst, TCP, tcp(src, dst, bytes(1390), partial=True)))
    placed, decap = place(2 * vxlan(frame)), Decap(VNI, OWN_MAC, True)
    each = 8 + len(frame)
    assert decap.stride_of(placed.buf, placed.at, 2 * each, each) == each
    for at in (placed.at, placed.at + each):
        assert decap.decap(placed.buf, at, each, reported(700, each), TABLE) == FORWARD
        assert (decap.gso_type, decap.partial) == (0, True)


def test_a_reported_size_is_declared_behind_long_extension_headers() -> None:
    """The safe size leaves no room for segments, the true one does."""
    extension = bytes([TCP, 968 // 8 - 1]) + bytes(966)
    packet = ipv6(POD_B6, POD_A6, 60, extension + tcp(POD_B6, POD_A6, bytes(5000), partial=True))
    header = virtio(written(from_b(packet), reported(400))[0])
    assert (header["gso_type"], header["gso_size"]) == (4, 400)


def test_udp_is_never_gso() -> None:
    """One UDP packet is one message; it was meant to be fragmented, not cut."""
    for src, dst in FAMILIES:
        header, _ = written(from_b(packet_of(src, dst, UDP, udp(src, dst, bytes(5000), partial=True))))
        assert (virtio(header)["flags"], virtio(header)["gso_type"], virtio(header)["gso_size"]) == (1, 0, 0)


def test_a_superframe_with_its_checksum_done_is_left_alone() -> None:
    """It is whole: the network behind may take it or not."""
    frame = from_b(packet_of(POD_B, POD_A, TCP, tcp(POD_B, POD_A, bytes(5000))))
    assert written(frame) == (PLAIN, frame)


def test_ethernet_padding_reaches_the_tap() -> None:
    """Short packets may come padded; the frame is written as long as it was sent."""
    frame = ethernet(OWN_MAC, MAC_B, IPV4, ipv4(POD_B, POD_A, UDP, udp(POD_B, POD_A, b"", partial=True)) + bytes(18))
    header, out = written(frame)
    assert out == frame
    assert virtio(header)["csum_start"] == ETH_LEN + 20


# Buffers of UDP_GRO: how long each datagram in them is.


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
def test_a_buffer_is_cut_where_the_kernel_says(src: str, dst: str) -> None:
    """Unless its first inner packet ends where the buffer does, beyond its piece: then it is one datagram."""
    frame = from_b(packet_of(src, dst, UDP, udp(src, dst, bytes(3000), partial=True)))
    length = 8 + len(frame)
    for reported, size, inner in ((0, length, 0), (length, length, 0), (length + 1, length, 0), (1000, length, 1000)):
        placed, decap = place(vxlan(frame)), Decap(VNI, OWN_MAC, True)
        assert (decap.stride_of(placed.buf, placed.at, placed.length, reported), decap.inner_stride) == (size, inner)


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize("lie", [-1, 1, 60])
def test_a_first_packet_that_ends_elsewhere_is_no_superframe(src: str, dst: str, lie: int) -> None:
    """A damaged length must not swallow the datagrams that came with it."""
    frame = bytearray(from_b(packet_of(src, dst, UDP, udp(src, dst, bytes(3000), partial=True))))
    field = ETH_LEN + (2 if "." in src else 4)
    frame[field : field + 2] = pack("!H", unpack("!H", frame[field : field + 2])[0] + lie)
    placed, decap = place(vxlan(bytes(frame))), Decap(VNI, OWN_MAC, True)
    assert (decap.stride_of(placed.buf, placed.at, placed.length, 1000), decap.inner_stride) == (1000, 0)


def test_the_size_of_a_superframe_is_forgotten_with_its_buffer() -> None:
    """The next buffer's UDP packets are whole."""
    big = from_b(packet_of(POD_B, POD_A, UDP, udp(POD_B, POD_A, bytes(3000), partial=True)))
    one, decap = place(vxlan(big)), Decap(VNI, OWN_MAC, True)
    for reported, gso in ((1000, (5, 1000)), (0, (0, 0))):
        assert decap.stride_of(one.buf, one.at, one.length, reported) == one.length
        assert decap.decap(one.buf, one.at, one.length, FROM_B, TABLE) == FORWARD
        assert (decap.gso_type, decap.gso_size) == gso


def test_a_piece_too_short_for_an_ip_length_is_not_read() -> None:
    """Nothing is read beyond what one datagram holds."""
    for reported in range(1, 28):
        found = set()
        for canary in CANARIES:
            placed, decap = place(vxlan(b"")[:reported] + canary), Decap(VNI, OWN_MAC, True)
            found.add(decap.stride_of(placed.buf, placed.at, placed.length, reported))
        assert found == {reported}


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize(("length", "stride", "verdict"), [
    (60_000, 28, Drop.INNER_MALFORMED),  # the least that is taken for a superframe's
    (128 * 35 + 1, 35, Drop.INNER_MALFORMED),
    (128 * 35, 35, FORWARD),
    (60_000, 1200, FORWARD),
])  # fmt: skip
def test_a_superframe_of_more_segments_than_any_sender_makes_is_refused(
    src: str, dst: str, length: int, stride: int, verdict: int
) -> None:
    """A neighbour's packet socket says a few bytes each, and the kernel would cut thousands of packets for the pod."""
    placed = place(vxlan(from_b(packet_of(src, dst, UDP, udp(src, dst, bytes(length), partial=True)))))
    decap = Decap(VNI, OWN_MAC, True)
    assert decap.stride_of(placed.buf, placed.at, placed.length, stride) == placed.length
    assert decap.decap(placed.buf, placed.at, placed.length, FROM_B, TABLE) == verdict
