"""ICMP unreachable errors of both families: what is quoted, who is answered, and scapy's judgement of the bytes."""

from __future__ import annotations

import pytest
from scapy.layers import inet
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether

from tests.frames import (
    ETH_LEN,
    HEADROOM,
    ICMP,
    ICMPV6,
    MAC_B,
    OWN_MAC,
    POD_A,
    POD_A6,
    STRANGER,
    STRANGER6,
    TCP,
    UDP,
    echo,
    exact,
    icmpv6,
    ipv4,
    ipv6,
    packet_of,
    udp,
)
from vxland.wire.icmp import is_error, may_answer, put_unreachable, quoted_len
from vxland.wire.ip import Ip

PAIRS = [(POD_A, STRANGER), (POD_A6, STRANGER6)]
FRAGMENT = 44


def parsed(packet: bytes) -> tuple[bytearray, Ip]:
    """A packet in a buffer that ends with it, and its parse."""
    buf, ip = exact(packet), Ip()
    assert ip.parse(buf, 0, len(packet), packet[0] >> 4)
    return buf, ip


def unreachable(packet: bytes, padding: bytes = b"") -> bytes:
    """The frame of the error about a packet that lay in the pump's arena; nothing else there has changed."""
    before = b"\xa5" * (HEADROOM - 10 + ETH_LEN)
    buf, ip = bytearray(before + packet + padding), Ip()
    assert ip.parse(buf, len(before), len(packet) + len(padding), packet[0] >> 4)
    quoted = quoted_len(ip)
    length = put_unreachable(buf, ip, OWN_MAC, MAC_B)
    at = ip.at + quoted - length
    assert at >= 0
    assert buf[:at] == before[:at]
    assert buf[len(before) :] == packet + padding
    return bytes(buf[at : at + length])


def recomputed(frame: bytes) -> bytes:
    """The frame with every checksum and length computed again by scapy."""
    judged = Ether(frame)
    if IP in judged:
        del judged[IP].chksum, judged[IP].len, judged[inet.ICMP].chksum
    else:
        del judged[IPv6].plen, judged[ICMPv6DestUnreach].cksum
    return bytes(judged)


@pytest.mark.parametrize("nbytes", [0, 1, 2, 64, 511, 512, 513, 1195, 1196, 1400])
def test_the_ipv4_error(nbytes: int) -> None:
    """Net unreachable, in the name of the address that was not reached, at most 576 bytes: RFC 792 and 1812."""
    packet = packet_of(POD_A, STRANGER, UDP, udp(POD_A, STRANGER, bytes(range(256)) * 6)[:nbytes])
    frame = unreachable(packet)
    assert recomputed(frame) == frame
    judged = Ether(frame)
    assert (judged.dst, judged.src, judged.type) == ("ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce", 0x0800)
    assert (judged[IP].src, judged[IP].dst) == (STRANGER, POD_A)
    assert (judged[IP].tos, judged[IP].ttl, judged[IP].frag) == (0xC0, 64, 0)
    assert (judged[inet.ICMP].type, judged[inet.ICMP].code) == (3, 0)
    assert judged[IP].len == min(576, 28 + len(packet)) == len(frame) - ETH_LEN
    assert frame[ETH_LEN + 28 :] == packet[:548]


@pytest.mark.parametrize("nbytes", [0, 1, 2, 64, 1191, 1192, 1193, 1400])
def test_the_ipv6_error(nbytes: int) -> None:
    """No route, in the name of the address that was not reached, at most 1280 bytes: RFC 4443 section 3.1."""
    packet = packet_of(POD_A6, STRANGER6, UDP, udp(POD_A6, STRANGER6, bytes(range(256)) * 6)[:nbytes])
    frame = unreachable(packet)
    assert recomputed(frame) == frame
    judged = Ether(frame)
    assert (judged.dst, judged.src, judged.type) == ("ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce", 0x86DD)
    assert (judged[IPv6].src, judged[IPv6].dst, judged[IPv6].hlim) == (STRANGER6, POD_A6, 64)
    assert (judged[ICMPv6DestUnreach].type, judged[ICMPv6DestUnreach].code) == (1, 0)
    assert judged[IPv6].plen + 40 == min(1280, 48 + len(packet)) == len(frame) - ETH_LEN
    assert frame[ETH_LEN + 48 :] == packet[:1232]


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_ethernet_padding_is_not_quoted(src: str, dst: str) -> None:
    """The quote ends with the packet."""
    packet = packet_of(src, dst, UDP, udp(src, dst, b"x"))
    assert unreachable(packet, padding=bytes(20)) == unreachable(packet)


@pytest.mark.parametrize("icmp_type", range(44))
def test_no_error_about_an_icmp_error(icmp_type: int) -> None:
    """RFC 1122 section 3.2.2: unreachable, quench, redirect, time exceeded and parameter problem; echo is no error."""
    buf, ip = parsed(ipv4(POD_A, STRANGER, ICMP, echo(b"", icmp_type)))
    assert is_error(buf, ip) == (icmp_type in {3, 4, 5, 11, 12})
    assert may_answer(buf, ip) != is_error(buf, ip)


@pytest.mark.parametrize("icmp_type", [0, 1, 2, 3, 4, 100, 127, 128, 129, 135, 255])
def test_no_error_about_an_icmpv6_error(icmp_type: int) -> None:
    """RFC 4443 section 2.1: types below 128 are errors."""
    buf, ip = parsed(ipv6(POD_A6, STRANGER6, ICMPV6, icmpv6(POD_A6, STRANGER6, icmp_type, bytes(8))))
    assert is_error(buf, ip) == (icmp_type < 128)
    assert may_answer(buf, ip) != is_error(buf, ip)


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_an_icmp_message_without_a_type_may_be_an_error(src: str, dst: str) -> None:
    """The packet ends where the message should start; nothing beyond is read."""
    buf, ip = parsed(packet_of(src, dst, ICMP if "." in src else ICMPV6, b""))
    assert is_error(buf, ip)
    assert not may_answer(buf, ip)


@pytest.mark.parametrize("later", [False, True])
def test_fragments(later: bool) -> None:
    """No error about a later fragment; about the first one, unless it is ICMP, whose kind is then not looked for."""
    word = 0x2000 | (7 if later else 0)
    frag6 = b"\x11\0" + (7 << 3 | 1 if later else 1).to_bytes(2, "big") + bytes(4)
    for packet in (
        ipv4(POD_A, STRANGER, UDP, bytes(16), fragment=word),
        ipv6(POD_A6, STRANGER6, FRAGMENT, frag6 + bytes(16)),
    ):
        assert may_answer(*parsed(packet)) == (not later)
    assert not may_answer(*parsed(ipv4(POD_A, STRANGER, ICMP, echo(b""), fragment=word)))
    assert not may_answer(*parsed(ipv6(POD_A6, STRANGER6, FRAGMENT, b"\x3a" + frag6[1:] + bytes(16))))


@pytest.mark.parametrize(("src", "dst", "allowed"), [
    (POD_A, STRANGER, True),
    ("223.255.255.255", STRANGER, True),
    ("0.0.0.0", STRANGER, False),  # noqa: S104  (nothing is bound)
    ("0.1.2.3", STRANGER, False),
    ("127.0.0.1", STRANGER, False),
    ("224.0.0.1", STRANGER, False),
    ("240.0.0.1", STRANGER, False),
    ("255.255.255.255", STRANGER, False),
    (POD_A, "224.0.0.251", False),
    (POD_A, "239.255.255.250", False),
    (POD_A, "255.255.255.255", False),
    (POD_A6, STRANGER6, True),
    ("fe80::1", STRANGER6, True),
    ("::", STRANGER6, False),
    ("ff02::1", STRANGER6, False),
    (POD_A6, "ff02::1", False),
    (POD_A6, "ff0e::1", False),
])  # fmt: skip
def test_only_one_host_is_answered_about_one_host(src: str, dst: str, allowed: bool) -> None:
    """RFC 1122 section 3.2.2 and RFC 4443 section 2.4(e): no group and no unspecified or loopback address."""
    assert may_answer(*parsed(packet_of(src, dst, TCP, bytes(20)))) == allowed
