"""One parse of IPv4 and IPv6 headers: what it finds, what it refuses, and that it reads nothing beyond its room."""

from __future__ import annotations

from struct import pack

import pytest
from scapy.layers.inet import IP

from tests.frames import CANARIES, ICMPV6, TCP, UDP, exact, halves, ipv4, ipv6, pseudo_header, tcp, udp, word_sum
from vxland.wire.ip import Ip

SRC, DST = "10.244.0.1", "10.244.1.2"
SRC6, DST6 = "fd00:244::1", "fd00:244:0:1::2"
MF, DF = 0x2000, 0x4000
HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, NO_NEXT, DEST_OPTIONS = 0, 43, 44, 51, 59, 60


def options(next_header: int, nbytes: int = 8) -> bytes:
    """An extension header that counts in units of 8 bytes, padded with PadN."""
    return pack("!BBBB", next_header, nbytes // 8 - 1, 1, nbytes - 4) + bytes(nbytes - 4)


def fragment(next_header: int, offset: int, more: bool, reserved: int = 0) -> bytes:
    """A fragment header, RFC 8200 section 4.5; the offset counts units of 8 bytes."""
    return pack("!BBHI", next_header, reserved, offset << 3 | more, 7)


def auth(next_header: int) -> bytes:
    """An authentication header of 24 bytes, which counts 32-bit words less two: RFC 4302 section 2.2."""
    return pack("!BBHII", next_header, 4, 0, 1, 1) + bytes(12)


UDP4, TCP6, UDP6 = udp(SRC, DST, b"payload"), tcp(SRC6, DST6, b"payload"), udp(SRC6, DST6, b"payload")
CHAIN = options(ROUTING, 16) + options(DEST_OPTIONS) + options(AUTH, 24) + auth(UDP) + UDP6

WHOLE = {
    "v4": ipv4(SRC, DST, UDP, UDP4),
    "v4 with options": ipv4(SRC, DST, UDP, UDP4, options=b"\x07\x27\x04" + bytes(37)),
    "v4 fragment": ipv4(SRC, DST, UDP, UDP4, fragment=MF | 3),
    "v6": ipv6(SRC6, DST6, TCP, TCP6),
    "v6 with a chain": ipv6(SRC6, DST6, HOP_BY_HOP, CHAIN),
    "v6 fragment": ipv6(SRC6, DST6, FRAGMENT, fragment(UDP, 2, more=True) + UDP6),
    "v6 with nothing": ipv6(SRC6, DST6, NO_NEXT, b""),
}


def parsed(packet: bytes, room: int | None = None, at: int = 3) -> Ip:
    """The parse of a packet, which must succeed."""
    ip = Ip()
    assert ip.parse(bytearray(bytes(at) + packet), at, len(packet) if room is None else room, packet[0] >> 4)
    return ip


def found(ip: Ip) -> tuple[int | bool, ...]:
    """All that a parse leaves."""
    return (
        *(ip.version, ip.at, ip.end, ip.ecn, ip.proto, ip.l4_at, ip.later_fragment),
        *(ip.src_hi, ip.src_lo, ip.dst_hi, ip.dst_lo),
    )


def test_ipv4_fields() -> None:
    """Addresses in the low half, ECN, protocol, and where L4 and the packet end; positions count from the buffer."""
    ip = parsed(ipv4(SRC, DST, UDP, UDP4, tos=0xFE), at=5)
    assert found(ip) == (4, 5, 5 + 20 + len(UDP4), 2, UDP, 25, False, *halves(SRC), *halves(DST))


def test_ipv6_fields() -> None:
    """The same of IPv6, whose traffic class straddles two bytes."""
    ip = parsed(ipv6(SRC6, DST6, TCP, TCP6, traffic_class=0xFD), at=5)
    assert found(ip) == (6, 5, 5 + 40 + len(TCP6), 1, TCP, 45, False, *halves(SRC6), *halves(DST6))


@pytest.mark.parametrize("words", range(11))
def test_ipv4_options_are_skipped(words: int) -> None:
    """IHL 5 to 15."""
    packet = ipv4(SRC, DST, UDP, UDP4, options=b"\x01" * (4 * words))
    assert parsed(packet, at=0).l4_at == 20 + 4 * words


@pytest.mark.parametrize("words", range(5))
def test_an_ihl_below_five_is_refused(words: int) -> None:
    """RFC 791: the fixed part alone has five words."""
    packet = bytearray(WHOLE["v4"])
    packet[0] = 0x40 | words
    assert not Ip().parse(packet, 0, len(packet), 4)


@pytest.mark.parametrize("name", WHOLE)
def test_cut_short_at_every_length_it_is_refused(name: str) -> None:
    """The total length then lies; what is left behind depends on nothing beyond the room."""
    packet = WHOLE[name]
    for room in range(len(packet)):
        outcomes = set()
        for canary in CANARIES:
            ip = Ip()
            assert not ip.parse(bytearray(packet[:room] + canary), 0, room, packet[0] >> 4)
            outcomes.add(found(ip))
        assert not Ip().parse(exact(packet[:room]), 0, room, packet[0] >> 4)
        assert len(outcomes) == 1


@pytest.mark.parametrize("name", WHOLE)
def test_shortened_honestly_at_every_length_nothing_beyond_is_read(name: str) -> None:
    """A length field that agrees with the room: headers may not fit, and positions stay inside."""
    packet = WHOLE[name]
    version, fixed = packet[0] >> 4, 20 if packet[0] >> 4 == 4 else 40
    for room in range(fixed, len(packet) + 1):
        field = pack("!H", room if version == 4 else room - 40)
        cut = (packet[:2] + field + packet[4:] if version == 4 else packet[:4] + field + packet[6:])[:room]
        outcomes = set()
        for canary in CANARIES:
            ip = Ip()
            outcomes.add((ip.parse(bytearray(cut + canary), 0, room, version), found(ip)))
        assert len(outcomes) == 1
        ip = Ip()
        if ip.parse(exact(cut), 0, room, version):
            assert ip.end == room
            assert 0 <= ip.l4_at <= room


@pytest.mark.parametrize("name", WHOLE)
def test_bytes_behind_the_packet_are_padding(name: str) -> None:
    """A frame may be longer than its packet (Ethernet pads to 60); the end is the packet's."""
    packet = WHOLE[name]
    assert parsed(packet + bytes(18), at=0).end == len(packet)


@pytest.mark.parametrize("name", WHOLE)
def test_the_other_version_is_refused(name: str) -> None:
    """The EtherType says one family and the first nibble another."""
    packet = bytearray(WHOLE[name])
    assert not Ip().parse(packet, 0, len(packet), 10 - (packet[0] >> 4))


@pytest.mark.parametrize("total_len", [0, 19, 20 + len(UDP4) + 1, 0xFFFF])
def test_an_ipv4_total_length_that_lies_is_refused(total_len: int) -> None:
    """Less than the header, or more than the room."""
    packet = bytearray(WHOLE["v4"])
    packet[2:4] = pack("!H", total_len)
    assert not Ip().parse(packet, 0, len(packet), 4)


def test_an_ipv4_total_length_within_the_options_is_refused() -> None:
    """It must cover the header with its options, not just the fixed part."""
    packet = bytearray(WHOLE["v4 with options"])
    packet[2:4] = pack("!H", 59)
    assert not Ip().parse(packet, 0, len(packet), 4)


def test_an_ipv6_payload_length_that_lies_is_refused() -> None:
    """More than the room, by one and by much; zero is a jumbogram, which none of our links carries."""
    for payload_len, fits in ((len(TCP6), True), (len(TCP6) + 1, False), (0xFFFF, False)):
        packet = bytearray(WHOLE["v6"])
        packet[4:6] = pack("!H", payload_len)
        assert Ip().parse(packet, 0, len(packet), 6) == fits


@pytest.mark.parametrize(("word", "whole", "later"), [
    (DF, True, False),
    (0x8000, True, False),
    (MF, False, False),
    (MF | 1, False, True),
    (1, False, True),
    (0x1FFF, False, True),
])  # fmt: skip
def test_ipv4_fragments_have_no_l4(word: int, whole: bool, later: bool) -> None:
    """DF and the reserved bit do not make a fragment; MF or an offset does, and an offset makes it a later one."""
    ip = parsed(ipv4(SRC, DST, UDP, UDP4, fragment=word))
    assert (ip.l4_at != 0) == whole
    assert ip.later_fragment == later


@pytest.mark.parametrize(("offset", "more", "whole", "later"), [
    (0, False, True, False),
    (0, True, False, False),
    (1, True, False, True),
    (0x1FFF, False, False, True),
])  # fmt: skip
def test_ipv6_fragments_have_no_l4(offset: int, more: bool, whole: bool, later: bool) -> None:
    """An atomic fragment (RFC 6946: offset 0, no more) is a whole packet; reserved bits count for nothing."""
    ip = parsed(ipv6(SRC6, DST6, FRAGMENT, fragment(UDP, offset, more, reserved=0xFF) + UDP6))
    assert (ip.l4_at != 0) == whole
    assert ip.later_fragment == later
    word = bytearray(fragment(UDP, offset, more))
    word[3] |= 0x06
    assert parsed(ipv6(SRC6, DST6, FRAGMENT, bytes(word) + UDP6)).later_fragment == later


def test_a_fragment_leaves_nothing_to_the_packet_after_it() -> None:
    """The parser is reused for every frame."""
    ip = Ip()
    for name, later in (("v4 fragment", True), ("v4", False), ("v6 fragment", True), ("v6", False)):
        packet = bytearray(WHOLE[name])
        assert ip.parse(packet, 0, len(packet), packet[0] >> 4)
        assert (ip.later_fragment, ip.l4_at == 0) == (later, later)


def test_ipv6_extension_headers_are_followed() -> None:
    """Hop-by-hop, routing, destination options and authentication, each with its own way to count."""
    ip = parsed(WHOLE["v6 with a chain"], at=0)
    assert ip.proto == UDP
    assert ip.l4_at == 40 + 16 + 8 + 24 + 24


@pytest.mark.parametrize("count", range(13))
def test_a_chain_of_more_than_eight_headers_is_not_followed(count: int) -> None:
    """The packet is taken as it is, without L4: no work without bound, no refusal either."""
    chain = b"".join(options(DEST_OPTIONS) for _ in range(count - 1)) + (options(UDP) if count else b"")
    ip = parsed(ipv6(SRC6, DST6, DEST_OPTIONS if count else UDP, chain + UDP6), at=0)
    assert ip.l4_at == (40 + 8 * count if count <= 8 else 0)
    assert ip.end == 40 + 8 * count + len(UDP6)


@pytest.mark.parametrize("header", [HOP_BY_HOP, ROUTING, AUTH, DEST_OPTIONS])
@pytest.mark.parametrize("length", [3, 4, 254, 255])
def test_an_extension_header_beyond_the_packet_is_refused(header: int, length: int) -> None:
    """Its length byte says more than the payload holds."""
    packet = bytearray(ipv6(SRC6, DST6, header, options(UDP) + bytes(8)) + bytes(4096))
    packet[41] = length
    assert not Ip().parse(packet, 0, len(packet), 6)


@pytest.mark.parametrize("proto", [NO_NEXT, 50, 135, 253, ICMPV6])
def test_what_is_no_known_extension_is_l4(proto: int) -> None:
    """No next header, ESP, mobility and experiments end the chain."""
    ip = parsed(ipv6(SRC6, DST6, proto, bytes(16)), at=0)
    assert (ip.proto, ip.l4_at) == (proto, 40)


@pytest.mark.parametrize("name", ["v4", "v4 with options", "v6", "v6 with a chain"])
def test_the_pseudo_header_sum(name: str) -> None:
    """Linux leaves this sum in a checksum field that a device finishes; the L4 length is that after all headers."""
    ip = parsed(WHOLE[name])
    src, dst = (SRC, DST) if ip.version == 4 else (SRC6, DST6)
    assert ip.pseudo_sum() == word_sum(pseudo_header(src, dst, ip.proto, ip.end - ip.l4_at))


@pytest.mark.parametrize("old", range(4))
@pytest.mark.parametrize("new", range(4))
@pytest.mark.parametrize("dscp", [0, 46])
def test_ecn_is_rewritten_alone(old: int, new: int, dscp: int) -> None:
    """DSCP, flow label and everything else stay; IPv4's header checksum is right again, says scapy."""
    for build, proto, payload in ((ipv4, UDP, UDP4), (ipv6, TCP, TCP6)):
        src, dst = (SRC, DST) if build is ipv4 else (SRC6, DST6)
        buf = bytearray(b"\xa5" + build(src, dst, proto, payload, dscp << 2 | old))
        ip = Ip()
        assert ip.parse(buf, 1, len(buf) - 1, buf[1] >> 4)
        ip.put_ecn(buf, new)
        assert buf == b"\xa5" + build(src, dst, proto, payload, dscp << 2 | new)
        assert ip.ecn == new
        if build is ipv4:
            judged = IP(bytes(buf[1:]))
            del judged.chksum
            assert bytes(judged) == buf[1:]
