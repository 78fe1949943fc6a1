"""IP packets from A's pod to B's in shapes that only the daemon knows."""

from __future__ import annotations

from struct import pack

from tests.frames import ICMPV6, POD_A, POD_A6, POD_B, POD_B6, TCP, UDP, ipv4, ipv6, tcp, udp
from tests.stream import extension

HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, DEST_OPTIONS = 0, 43, 44, 51, 60  # RFC 8200 section 4
UDP_4, UDP_6, TCP_4, TCP_6 = udp(POD_A, POD_B, b"x"), udp(POD_A6, POD_B6, b"x"), tcp(POD_A, POD_B, b"x"), bytes(20)


def changed(packet: bytes, at: int, value: int) -> bytes:
    """Return the packet with another byte at `at`."""
    return packet[:at] + bytes([value]) + packet[at + 1 :]


def v4(payload: bytes = UDP_4, proto: int = UDP, fragment: int = 0, options: bytes = b"") -> bytes:
    """Return an IPv4 packet."""
    return ipv4(POD_A, POD_B, proto, payload, fragment=fragment, options=options)


def v6(payload: bytes = UDP_6, proto: int = UDP) -> bytes:
    """Return an IPv6 packet."""
    return ipv6(POD_A6, POD_B6, proto, payload)


UNUSUAL: dict[str, bytes] = {
    "first fragment": v4(bytes(64), fragment=0x2000),
    "later fragment": v4(bytes(64), fragment=9),
    "last fragment with DF": v4(bytes(64), fragment=0x4000 | 9),
    "fragment of IPv6": v6(pack("!BBHI", UDP, 0, 8 << 3 | 1, 7) + bytes(64), FRAGMENT),
    "fragment header alone": v6(pack("!BBHI", UDP, 0, 0, 7) + UDP_6, FRAGMENT),
    "IP options": v4(options=b"\x01" * 4),
    "most IP options": v4(options=b"\x01" * 40),
    "hop-by-hop options": v6(extension(UDP, 8) + UDP_6, HOP_BY_HOP),
    "routing header": v6(bytes([UDP, 0, 4, 0, 0, 0, 0, 0]) + UDP_6, ROUTING),
    "authentication header": v6(bytes([UDP, 4, *bytes(22)]) + UDP_6, AUTH),
    "destination options": v6(extension(UDP, 8) + UDP_6, DEST_OPTIONS),
    "padding behind the packet": v4() + bytes(18),
    "padding behind the packet, IPv6": v6() + bytes(18),
    "end is missing": v4(bytes(64))[:-1],
    "end is missing, IPv6": v6(bytes(64))[:-1],
    "total length 0": changed(changed(v4(), 2, 0), 3, 0),
    "jumbogram": changed(changed(v6(), 4, 0), 5, 0),
    "IP header too short": changed(v4(), 0, 0x44),
    "no version": changed(v4(bytes(40)), 0, 0x05),
    "no version, IPv6": changed(v6(), 0, 0x00),
    "TCP header is cut": v4(TCP_4[:19], TCP),
    "TCP header is cut, IPv6": v6(TCP_6[:13], TCP),
    "TCP header too short": v4(changed(TCP_4, 12, 0x40), TCP),
    "TCP header too long": v4(changed(TCP_4, 12, 0x60), TCP),
    "UDP header is cut": v4(UDP_4[:7]),
    "UDP header is cut, IPv6": v6(UDP_6[:4]),
    "no UDP header": v6(b""),
    "ICMPv6 header is cut": v6(b"\x80\0\0", ICMPV6),
    "no ICMPv6 header": v6(b"", ICMPV6),
}
