"""Unfinished checksums: where a virtio header may have them finished, and everywhere else it may not."""

from __future__ import annotations

from struct import pack

import pytest

from tests.frames import (
    ETH_LEN,
    ICMP,
    ICMPV6,
    IPV4,
    MAC_B,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    TCP,
    UDP,
    VXLAN_LEN,
    echo,
    ethernet,
    frame_of,
    icmpv6,
    ipv4,
    ipv6,
    packet_of,
    place,
    tcp,
    udp,
    vxlan,
    word_sum,
)
from tests.steps import encap_frame
from vxland.datapath.verdict import FORWARD, Drop

V4, V6 = (POD_A, POD_B), (POD_A6, POD_B6)
INNER4, INNER6 = ("172.16.0.1", "172.16.0.2"), ("fd99::1", "fd99::2")
GRE, IPIP, IPV6, MPLS, SCTP, UDP_LITE = 47, 4, 41, 137, 132, 136
Pair = tuple[str, str]


def needs(start: int, offset: int) -> bytes:
    """The virtio header that asks for a checksum."""
    return pack("<BBHHHH", 1, 0, 0, 0, start, offset)


def finished(frame: bytes, virtio: bytes) -> bytes | None:
    """The frame as it is sent, or None where it is refused and nothing of it was written."""
    verdict, _, placed = encap_frame(frame, virtio=virtio)
    if verdict == FORWARD:
        return placed.bytes_at(placed.at, placed.length)
    assert verdict == Drop.INNER_MALFORMED
    assert placed.buf == place(frame, virtio).buf
    return None


def with_l4(pair: Pair, proto: int, l4: bytes) -> bytes:
    """The frame of a packet to pod B."""
    return frame_of(packet_of(*pair, proto, l4), MAC_B)


def test_padding_is_not_summed() -> None:
    """The checksum ends where the packet does, whatever fills up its frame."""
    partial, whole = (with_l4(V4, UDP, udp(*V4, b"odd", partial=partial)) for partial in (True, False))
    assert finished(partial + b"\xff" * 15, needs(34, 6)) == whole + b"\xff" * 15


@pytest.mark.parametrize("start", range(66))
@pytest.mark.parametrize("offset", [0, 2, 6, 7, 16, 32, 65_535])
def test_nothing_but_its_own_checksum_is_written(start: int, offset: int) -> None:
    """Start 20 and offset 32 over IPv6 overwrote the destination, behind the ip6tables rule that had let it pass."""
    for pair, l4_at in ((V4, 34), (V6, 54)):
        for proto, own, l4 in ((UDP, 6, udp(*pair, bytes(40))), (TCP, 16, tcp(*pair, bytes(40)))):
            frame = with_l4(pair, proto, l4)
            assert (finished(frame, needs(start, offset)) is not None) == ((start, offset) == (l4_at, own))


@pytest.mark.parametrize(("proto", "offset", "l4"), [
    (ICMP, 2, echo(bytes(40))),
    (SCTP, 8, bytes(40)),  # a CRC, RFC 9260
    (UDP_LITE, 6, udp(*V4, bytes(40))),
    (GRE, 4, bytes(40)),  # has none
    (GRE, 4, b"\x80\x01" + bytes(3)),  # ends before it
    (TCP, 16, tcp(*V4, b"")[:17]),
    (UDP, 6, udp(*V4, b"")[:7]),
])  # fmt: skip
def test_what_no_stack_leaves_to_a_device_is_refused(proto: int, offset: int, l4: bytes) -> None:
    """Protocols whose checksum is another sum, is none, or lies beyond the packet."""
    assert finished(with_l4(V4, proto, l4) + bytes(20), needs(34, offset)) is None


def test_an_icmpv6_checksum_is_refused() -> None:
    """Linux sums ICMPv6 itself."""
    assert finished(with_l4(V6, ICMPV6, icmpv6(*V6, 128, bytes(40))), needs(54, 2)) is None


@pytest.mark.parametrize("fragment", [0x2000, 0x2001, 1])
def test_a_fragment_is_refused(fragment: int) -> None:
    """Its L4 header is not there, or not whole: the kernel finishes the sum before it cuts."""
    frame = frame_of(ipv4(*V4, UDP, udp(*V4, bytes(40), partial=True), fragment=fragment), MAC_B)
    assert finished(frame, needs(34, 6)) is None


def test_other_ethertypes_are_refused() -> None:
    """No checksum of theirs is ours to finish."""
    for ethertype in (0x88CC, 0x8847, 0x8864):
        frame = ethernet(MAC_B, 1, ethertype, packet_of(*V4, UDP, udp(*V4, bytes(40), partial=True)))
        assert finished(frame, needs(34, 6)) is None


def test_a_packet_longer_than_its_frame_is_refused() -> None:
    """It goes to the VTEP that its MAC names when it asks for nothing."""
    frame = with_l4(V4, UDP, udp(*V4, bytes(40), partial=True))[:-1]
    assert finished(frame, needs(34, 6)) is None
    assert finished(frame, needs(0, 0)[1:] + b"\0") == frame


# Tags.


def tagged(frame: bytes, *types: int) -> bytes:
    """The frame behind tags of these EtherTypes."""
    return frame[:12] + b"".join(pack("!HH", kind, 100) for kind in types) + frame[12:]


@pytest.mark.parametrize("types", [(0x8100,), (0x88A8,), (0x8100, 0x8100), (0x88A8, 0x8100)])
@pytest.mark.parametrize(("pair", "l4_at"), [(V4, 34), (V6, 54)])
def test_a_checksum_behind_tags_is_finished(types: tuple[int, ...], pair: Pair, l4_at: int) -> None:
    """A VLAN device over the overlay's leaves its checksums to it."""
    partial, whole = (with_l4(pair, TCP, tcp(*pair, b"odd", partial=partial)) for partial in (True, False))
    start = l4_at + 4 * len(types)
    assert finished(tagged(partial, *types), needs(start, 16)) == tagged(whole, *types)
    assert finished(tagged(partial, *types), needs(start, 6)) is None
    assert finished(tagged(partial, *types), needs(start - 4, 16)) is None
    for cut in range(14, start + 18):
        assert finished(tagged(partial, *types)[:cut], needs(start, 16)) is None


def test_more_tags_are_refused() -> None:
    """Two are as many as 802.1Q has."""
    partial = with_l4(V4, TCP, tcp(*V4, b"odd", partial=True))
    assert finished(tagged(partial, 0x88A8, 0x8100, 0x8100), needs(46, 16)) is None


# Pods' own tunnels: only the inner checksum is left, the outer one is right already.


def around(kind: str, pair: Pair, inner: bytes, ethernet_frame: bytes) -> tuple[bytes, int]:
    """The outer packet's frame, and where in it the inner packet starts."""
    version = inner[0] >> 4
    l4 = {
        "vxlan": udp(*pair, vxlan(ethernet_frame, 7), dport=4789),
        "fou": udp(*pair, inner, dport=5555),
        "ip": inner,
        "gre": pack("!HH", 0, IPV4 if version == 4 else 0x86DD) + inner,
        "gre with checksum and key": pack("!HHII", 0xA000, 0x6558, 0x1234_0000, 7) + ethernet_frame,
        "mpls": pack("!I", 7 << 12 | 0x140) + inner,
    }[kind]
    proto = {"ip": IPIP if version == 4 else IPV6, "mpls": MPLS, "vxlan": UDP, "fou": UDP}.get(kind, GRE)
    frame = with_l4(pair, proto, l4)
    return frame, frame.index(inner)


KINDS = ("vxlan", "fou", "ip", "gre", "gre with checksum and key", "mpls")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outer", [V4, V6])
@pytest.mark.parametrize("pair", [INNER4, INNER6])
@pytest.mark.parametrize(("proto", "offset"), [(TCP, 16), (UDP, 6)])
def test_an_inner_checksum_is_finished(kind: str, outer: Pair, pair: Pair, proto: int, offset: int) -> None:
    """Linux leaves it at the inner L4 header; nothing of the pod's tunnel was to be lost."""
    build = tcp if proto == TCP else udp
    frames = []
    for partial in (True, False):
        inner = packet_of(*pair, proto, build(*pair, b"odd", partial=partial))
        frames.append(around(kind, outer, inner, frame_of(inner)))
    (partial_frame, at), (whole, _) = frames
    start = at + (20 if ":" not in pair[0] else 40)
    sent = finished(partial_frame, needs(start, offset))
    assert sent is not None
    assert sent[at:] == whole[at:]
    assert sent[:at] == partial_frame[:at]  # an outer sum is the stack's: here it is one of the whole test's
    for wrong in (start - 4, start + 4, start - 20):
        assert finished(partial_frame, needs(wrong, offset)) is None
    assert finished(whole, needs(start, offset)) is None, "its field is no pseudo-header's sum"


def test_a_gre_checksum_is_finished() -> None:
    """Around a packet whose own sum is done Linux leaves GRE's to the device."""
    inner = packet_of(*INNER4, ICMP, echo(b"ping"))
    l4 = pack("!HHI", 0x8000, IPV4, 0) + inner
    frame = with_l4(V4, GRE, l4)
    sent = finished(frame, needs(34, 4))
    assert sent is not None
    assert word_sum(sent[34:]) == 0xFFFF
    assert sent[:38] + sent[40:] == frame[:38] + frame[40:]


@pytest.mark.parametrize("proto", [TCP, ICMP, SCTP])
def test_an_inner_packet_in_what_is_no_tunnel_is_refused(proto: int) -> None:
    """TCP's options and an ICMP error's quotation are no place for one."""
    inner = packet_of(*INNER4, UDP, udp(*INNER4, b"odd", partial=True))
    l4 = {TCP: tcp(*V4, inner), ICMP: echo(inner), SCTP: bytes(12) + inner}[proto]
    frame = with_l4(V4, proto, l4)
    assert finished(frame, needs(frame.index(inner) + 20, 6)) is None


def test_an_inner_header_that_overlaps_the_outer_is_refused() -> None:
    """An IPv4 header made of the addresses of an IPv6 one would lead a checksum into the destination."""
    fake = ipv4("10.244.0.9", "10.244.1.9", UDP, bytes(60))[:20]
    src, dst = (fake[:16], fake[16:] + bytes(12))
    outer = pack("!IHBB", 6 << 28, 48, UDP, 63) + src + dst + udp(*V6, bytes(40))
    for frame, l4_at in ((frame_of(outer, MAC_B), 14 + 28), (tagged(frame_of(outer, MAC_B), 0x8100), 18 + 28)):
        room = len(frame) - l4_at
        lie = bytearray(frame)
        lie[l4_at - 18 : l4_at - 16] = pack("!H", 20 + room)
        lie[l4_at + 6 : l4_at + 8] = pack("!H", word_sum(fake[12:] + pack("!II", room, UDP)))
        assert finished(bytes(lie), needs(l4_at, 6)) is None


def test_an_inner_packet_beyond_the_outer_is_refused() -> None:
    """Its length must lie inside."""
    inner = packet_of(*INNER4, UDP, udp(*INNER4, bytes(40), partial=True))
    frame = with_l4(V4, UDP, udp(*V4, inner[:-1]))
    assert finished(frame + bytes(20), needs(ETH_LEN + 20 + VXLAN_LEN + 20, 6)) is None


def test_the_search_for_an_inner_packet_is_bounded() -> None:
    """The price of a frame is, too: 256 bytes of header are looked through."""
    for words, found in ((26, True), (27, False)):
        options = bytes([TCP, words, 1, 4]).ljust(8 + 8 * words, b"\0")
        inner = ipv6(*INNER6, 60, options + tcp(*INNER6, b"odd", partial=True))
        frame = with_l4(V4, IPV6, inner)
        assert (finished(frame, needs(34 + 40 + len(options), 16)) is not None) == found
