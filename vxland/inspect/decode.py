"""What a copied frame is, as far as the copy goes: for people, filters and captures, never for forwarding.

Nothing is checked here: a frame that was dropped for its headers should still be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from vxland.model.lease import Address, Mac
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6

NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
_PORTED = {"tcp", "udp"}
_ICMP = {"icmp", "icmp6"}
_MAX_EXTENSIONS = 8
_EXTENSIONS = {0, 43, 60}  # hop-by-hop, routing, destination options: RFC 8200 section 4
_FRAGMENT = 44


@dataclass(frozen=True, slots=True)
class Packet:
    """The fields of a frame; those that it has not, or that the copy ends before, are None."""

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
    """The inner frame's fields."""
    if len(frame) < ETH_LEN:
        return Packet()
    macs = Mac(int.from_bytes(frame[6:12], "big")), Mac(int.from_bytes(frame[:6], "big"))
    ethertype = int.from_bytes(frame[12:14], "big")
    packet = frame[ETH_LEN:]
    if ethertype == TYPE_IPV4 and len(packet) >= 20:
        more = int.from_bytes(packet[6:8], "big") & 0x1FFF  # a later fragment has no ports
        l4 = b"" if more else packet[(packet[0] & 0x0F) * 4 :]
        return _of_ip(macs, ethertype, packet[12:16], packet[16:20], packet[9], l4)
    if ethertype == TYPE_IPV6 and len(packet) >= 40:
        return _of_ip(macs, ethertype, packet[8:24], packet[24:40], *_after_extensions(packet[6], packet[40:]))
    if ethertype == TYPE_ARP and len(packet) >= 28:
        return Packet(*macs, ethertype, ip_address(packet[14:18]), ip_address(packet[24:28]), "arp")
    return Packet(*macs, ethertype, proto="arp" if ethertype == TYPE_ARP else None)


def _of_ip(macs: tuple[Mac, Mac], ethertype: int, src: bytes, dst: bytes, number: int, l4: bytes) -> Packet:
    proto = NAMES.get(number, str(number))
    sport = dport = icmp_type = None
    if proto in _PORTED and len(l4) >= 4:
        sport, dport = int.from_bytes(l4[:2], "big"), int.from_bytes(l4[2:4], "big")
    elif proto in _ICMP and l4:
        icmp_type = l4[0]
    return Packet(*macs, ethertype, ip_address(src), ip_address(dst), proto, sport, dport, icmp_type)


def _after_extensions(number: int, rest: bytes) -> tuple[int, bytes]:
    """The protocol behind IPv6 extension headers, and what follows them; nothing of a later fragment."""
    for _ in range(_MAX_EXTENSIONS):
        if len(rest) < 8:
            break
        if number == _FRAGMENT:
            later = int.from_bytes(rest[2:4], "big") & 0xFFF8
            number, rest = rest[0], b"" if later else rest[8:]
        elif number in _EXTENSIONS:
            number, rest = rest[0], rest[8 + 8 * rest[1] :]
        else:
            break
    return number, rest


def _end(address: Address, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
