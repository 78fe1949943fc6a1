"""The fields of a copied frame, as far as the copy goes, for people, filters and captures; never for forwarding.

It reads by the accessors of wire/, but accepts what the data path drops: a frame that was dropped for its headers is
shown too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from vxland.model.lease import Address, Mac
from vxland.wire.arp import sender_at, target_at
from vxland.wire.bigendian import Buffer, u16_at, u32_at, u64_at
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6, mac_at
from vxland.wire.ip import is_extension
from vxland.wire.l4 import has_ports

NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
_ICMP = frozenset({1, 58})
_V4_LEN, _V6_LEN, _ARP_LEN = 20, 40, 28  # wire has them too, but as C constants, which Python cannot import
_FRAGMENT, _AUTH = 44, 51
_MAX_EXTENSIONS = 8


@dataclass(frozen=True, slots=True)
class Packet:
    """The fields of a frame; None for those that it lacks or that the copy does not contain."""

    src_mac: Mac | None = None
    dst_mac: Mac | None = None
    ethertype: int | None = None
    src: Address | None = None
    dst: Address | None = None
    proto: str | None = None
    """A name of NAMES, arp, or the number."""
    sport: int | None = None
    dport: int | None = None
    icmp_type: int | None = None

    def __str__(self) -> str:
        if self.ethertype is None:
            return "no whole Ethernet header"
        if self.src is None or self.dst is None:
            return f"{self.src_mac} > {self.dst_mac} {self.proto or f'ethertype {self.ethertype:#06x}'}"
        ends = [_end(self.src, self.sport), _end(self.dst, self.dport)]
        kind = "" if self.icmp_type is None else f" type {self.icmp_type}"
        return f"{' > '.join(ends)} {self.proto}{kind}"


def decode(frame: bytes) -> Packet:
    """Return the fields of an inner frame, of which `frame` may be only the beginning."""
    if len(frame) < ETH_LEN:
        return Packet()
    buf = bytearray(frame)
    macs = Mac(mac_at(buf, 6)), Mac(mac_at(buf, 0))
    ethertype = u16_at(buf, 12)
    length = len(buf) - ETH_LEN
    if ethertype == TYPE_IPV4 and length >= _V4_LEN:
        return _decode_v4(buf, macs)
    if ethertype == TYPE_IPV6 and length >= _V6_LEN:
        return _decode_v6(buf, macs)
    if ethertype == TYPE_ARP and length >= _ARP_LEN:
        sender, target = IPv4Address(sender_at(buf, 0)), IPv4Address(target_at(buf, 0))
        return Packet(*macs, ethertype, sender, target, "arp")
    return Packet(*macs, ethertype, proto="arp" if ethertype == TYPE_ARP else None)


def _decode_v4(buf: Buffer, macs: tuple[Mac, Mac]) -> Packet:
    at = ETH_LEN
    later_fragment = u16_at(buf, at + 6) & 0x1FFF != 0  # it has no ports
    l4_at = len(buf) if later_fragment else at + (buf[at] & 0x0F) * 4
    ends = IPv4Address(u32_at(buf, at + 12)), IPv4Address(u32_at(buf, at + 16))
    return _with_l4(buf, l4_at, buf[at + 9], Packet(*macs, TYPE_IPV4, *ends))


def _decode_v6(buf: Buffer, macs: tuple[Mac, Mac]) -> Packet:
    at = ETH_LEN
    src = IPv6Address(u64_at(buf, at + 8) << 64 | u64_at(buf, at + 16))
    dst = IPv6Address(u64_at(buf, at + 24) << 64 | u64_at(buf, at + 32))
    return _with_l4(buf, *_after_extensions(buf, at + _V6_LEN, buf[at + 6]), Packet(*macs, TYPE_IPV6, src, dst))


def _after_extensions(buf: Buffer, at: int, number: int) -> tuple[int, int]:
    """Return the position and protocol after the IPv6 extension headers; the copy's end in a later fragment."""
    for _ in range(_MAX_EXTENSIONS):
        if not is_extension(number) or at + 8 > len(buf):
            break
        if number == _FRAGMENT:
            later_fragment = u16_at(buf, at + 2) & 0xFFF8 != 0
            number, at = buf[at], len(buf) if later_fragment else at + 8
        elif number == _AUTH:
            number, at = buf[at], at + (buf[at + 1] + 2) * 4  # RFC 4302 section 2.2 counts in 32-bit words
        else:
            number, at = buf[at], at + (buf[at + 1] + 1) * 8
    return at, number


def _with_l4(buf: Buffer, at: int, number: int, packet: Packet) -> Packet:
    """Return the packet with its protocol, and the ports or ICMP type at `at` if the copy contains them."""
    proto = NAMES.get(number, str(number))
    if has_ports(number) and at + 4 <= len(buf):
        return replace(packet, proto=proto, sport=u16_at(buf, at), dport=u16_at(buf, at + 2))
    return replace(packet, proto=proto, icmp_type=buf[at] if number in _ICMP and at < len(buf) else None)


def _end(address: Address, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
