"""IPv6 routing headers: the pseudo-header has the final destination, RFC 8200 section 8.1, in every sum."""

from __future__ import annotations

from struct import pack

import pytest

from tests.frames import MAC_B, OWN_MAC, POD_A6, POD_B6, TCP, UDP, ethernet, halves, ipv6, packed, tcp, udp
from tests.steps import cut, joined, written
from vxland.wire.ip import Ip

FINAL, STOP = "fd00:244:0:1::abcd", "fd00:244:0:1::57"
ROUTING, IPV6 = 43, 0x86DD
KINDS = {
    "type 0": (0, packed(STOP) + packed(FINAL)),
    "type 2": (2, packed(FINAL)),
    "type 3": (3, packed(STOP)[8:] + packed(FINAL)[14:] + bytes(6)),  # 8 and 14 bytes are the destination's
    "type 4": (4, packed(FINAL) + packed(STOP)),
    "type 4 with a TLV": (4, packed(FINAL) + packed(STOP) + bytes([4, 6]) + bytes(6)),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def header(kind: int, addresses: bytes, next_header: int, left: int = 1) -> bytes:
    """A routing header; of type 3 with its sizes of what addresses share."""
    fixed = 0x8E60_0000 if kind == 3 else max(len(addresses) // 16 - 1, 0) << 24  # type 4 has the last entry there
    return pack("!BBBBI", next_header, len(addresses) // 8, kind, left, fixed if kind in (3, 4) else 0) + addresses


def frame(kind: str, l4: bytes, proto: int, *, back: bool = False) -> bytes:
    """The frame of a packet that has stops to go; from A to B, or as node A receives it."""
    macs = (OWN_MAC, MAC_B) if back else (MAC_B, OWN_MAC)
    return ethernet(*macs, IPV6, ipv6(POD_A6, POD_B6, ROUTING, header(*KINDS[kind], proto) + l4))


@each_kind
def test_the_final_destination_is_found(kind: str) -> None:
    """Last in the list, or first, or without what it shares with the packet's destination."""
    ip, packet = Ip(), ipv6(POD_A6, POD_B6, ROUTING, header(*KINDS[kind], UDP) + udp(POD_A6, FINAL, b"payload"))
    assert ip.parse(bytearray(packet), 0, len(packet), 6)
    assert (ip.final_hi, ip.final_lo) == halves(FINAL)
    assert (ip.dst_hi, ip.dst_lo) == halves(POD_B6)
    assert ip.pseudo_sum() == int.from_bytes(udp(POD_A6, FINAL, b"payload", partial=True)[6:8], "big")


@pytest.mark.parametrize(("kind", "addresses", "left"), [
    (0, packed(STOP) + packed(FINAL), 0),  # arrived: the kernel has put the last address into the header
    (0, b"", 1),
    (2, bytes(8), 1),
    (3, b"", 1),
    (4, bytes(8), 1),
    (253, packed(FINAL), 1),  # RFC 3692: an experiment
])  # fmt: skip
def test_otherwise_it_is_the_packets_destination(kind: int, addresses: bytes, left: int) -> None:
    """No stops are left, or the list has no whole address, or nobody knows the type."""
    ip, packet = Ip(), ipv6(POD_A6, POD_B6, ROUTING, header(kind, addresses, UDP, left) + udp(POD_A6, POD_B6, b"x"))
    assert ip.parse(bytearray(packet), 0, len(packet), 6)
    assert (ip.final_hi, ip.final_lo) == halves(POD_B6)
    for room in range(len(packet)):  # nothing beyond is read
        ip.parse(bytearray(packet[:room]), 0, room, 6)


@each_kind
@pytest.mark.parametrize(("proto", "offset"), [(TCP, 16), (UDP, 6)])
def test_segments_sum_it(kind: str, proto: int, offset: int) -> None:
    """TCP of such a flow ran at 0.2 Mbit/s where the receiver had no GRO."""
    payload = bytes(range(250)) + b"odd"

    def l4(at: int, length: int, *, partial: bool = False) -> bytes:
        part = payload[at : at + length]
        if proto == TCP:
            return tcp(POD_A6, FINAL, part, seq=1000 + at, partial=partial)
        return udp(POD_A6, FINAL, part, partial=partial)

    start = 54 + len(header(*KINDS[kind], proto))
    virtio = pack("<BBHHHH", 1, 4 if proto == TCP else 5, 0, 100, start, offset)
    frames = cut(frame(kind, l4(0, 253, partial=True), proto), virtio).frames
    assert frames == [frame(kind, l4(at, 100), proto) for at in (0, 100, 200)]


@each_kind
def test_segments_join(kind: str) -> None:
    """Their checksums are right, so they are one write."""
    segments = [frame(kind, tcp(POD_A6, FINAL, bytes(100), seq=1000 + at), TCP, back=True) for at in (0, 100, 200)]
    (write,) = joined(segments)
    assert len(write) == 10 + len(segments[0]) + 200


@each_kind
@pytest.mark.parametrize(("proto", "offset"), [(TCP, 16), (UDP, 6)])
def test_a_partial_sum_is_known_as_one(kind: str, proto: int, offset: int) -> None:
    """A kernel neighbour over veth leaves it so; taken for a whole one, the receiver refused it."""
    build = tcp if proto == TCP else udp
    virtio, _ = written(frame(kind, build(POD_A6, FINAL, b"payload", partial=True), proto, back=True))
    assert virtio == pack("<BBHHHH", 1, 0, *_places(kind, proto, offset))
    virtio, _ = written(frame(kind, build(POD_A6, FINAL, b"payload"), proto, back=True))
    assert virtio == bytes(10)


def _places(kind: str, proto: int, offset: int) -> tuple[int, int, int, int]:
    """hdr_len, gso_size, csum_start and csum_offset of such a frame."""
    start = 54 + len(header(*KINDS[kind], proto))
    return start + (20 if proto == TCP else 8), 0, start, offset
