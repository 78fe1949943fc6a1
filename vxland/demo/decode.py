"""Ethernet, IPv4, ICMP, UDP and VXLAN headers of a captured frame, as named fields for a reader.

Nothing here is fast and nothing raises: a header that is cut short or unknown is absent, and `Packet.layers`
says which bytes belong to which header.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from ipaddress import IPv4Address
from struct import Struct
from typing import Literal, TypeAlias

from vxland.demo.topology import PORT
from vxland.model import Mac

ETHERTYPES = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6"}
ICMP, TCP, UDP = 1, 6, 17
ECHO_REPLY, ECHO_REQUEST = 0, 8
FLAG_I = 0x08  # RFC 7348 section 5: the VNI is valid

_ETHERNET, _IPV4, _UDP, _VXLAN, _ICMP = (
    Struct("!6s6sH"),
    Struct("!BBHHHBBH4s4s"),
    Struct("!HHHH"),
    Struct("!B3s3sB"),
    Struct("!BBHHH"),
)

Checksum: TypeAlias = Literal["ok", "bad", "zero", "unfilled"]


@dataclass(frozen=True, slots=True)
class Ethernet:
    """An Ethernet header."""

    src: Mac
    dst: Mac
    ethertype: int


@dataclass(frozen=True, slots=True)
class Ipv4:
    """An IPv4 header."""

    src: IPv4Address
    dst: IPv4Address
    ttl: int
    ident: int
    tos: int
    protocol: int
    dont_fragment: bool
    fragment: bool
    total_len: int
    checksum: Checksum


@dataclass(frozen=True, slots=True)
class Udp:
    """A UDP header; `checksum_value` is the field, `checksum` what to make of it."""

    src_port: int
    dst_port: int
    length: int
    checksum_value: int
    checksum: Checksum


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN header; `reserved` joins the 24 and the 8 bits that must be zero."""

    flags: int
    vni: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Icmp:
    """An ICMP echo request or reply; other types leave `ident` and `seq` without meaning."""

    kind: int
    code: int
    ident: int
    seq: int
    checksum: Checksum


Header: TypeAlias = Ethernet | Ipv4 | Udp | Vxlan | Icmp


@dataclass(frozen=True, slots=True)
class Layer:
    """The bytes of one header (or of the payload, whose header is None), counted from the start of the frame."""

    name: str
    at: int
    length: int
    header: Header | None


@dataclass(frozen=True, slots=True)
class Packet:
    """One decoded frame; `inner` is the frame that a VXLAN header carries."""

    layers: tuple[Layer, ...]
    ethernet: Ethernet | None = None
    ipv4: Ipv4 | None = None
    udp: Udp | None = None
    vxlan: Vxlan | None = None
    icmp: Icmp | None = None
    inner: Packet | None = None

    @property
    def innermost(self) -> Packet:
        """The frame the pods exchange: the carried one, or this one when nothing is carried."""
        return self.inner.innermost if self.inner else self

    def as_json(self) -> dict[str, object]:
        """The headers by name, made of strings, numbers and booleans."""
        named = {"ethernet": self.ethernet, "ipv4": self.ipv4, "icmp": self.icmp, "udp": self.udp, "vxlan": self.vxlan}
        found: dict[str, object] = {name: _plain(header) for name, header in named.items() if header}
        if self.inner:
            found["inner"] = self.inner.as_json()
        return found


def decode(frame: bytes, at: int = 0) -> Packet:
    """The headers of the frame that starts at `at` and reaches to the end."""
    if len(frame) < at + _ETHERNET.size:
        return Packet(_rest(frame, at))
    dst, src, ethertype = _ETHERNET.unpack_from(frame, at)
    ethernet = Ethernet(Mac(int.from_bytes(src, "big")), Mac(int.from_bytes(dst, "big")), ethertype)
    layers: tuple[Layer, ...] = (Layer("Ethernet", at, _ETHERNET.size, ethernet),)
    ip_at = at + _ETHERNET.size
    ip_len = (frame[ip_at] & 0x0F) * 4 if len(frame) > ip_at else 0
    if ethertype != 0x0800 or ip_len < _IPV4.size or len(frame) < ip_at + ip_len:
        return Packet((*layers, *_rest(frame, ip_at)), ethernet)
    ipv4 = _ipv4(frame[ip_at : ip_at + ip_len])
    layers = (*layers, Layer("IPv4", ip_at, ip_len, ipv4))
    l4_at = ip_at + ip_len
    l4 = frame[l4_at : ip_at + ipv4.total_len]
    if ipv4.fragment:
        return Packet((*layers, *_rest(frame, l4_at)), ethernet, ipv4)
    if ipv4.protocol == ICMP and len(l4) >= _ICMP.size:
        icmp = _icmp(l4)
        layers = (*layers, Layer("ICMP", l4_at, _ICMP.size, icmp), *_rest(frame, l4_at + _ICMP.size))
        return Packet(layers, ethernet, ipv4, icmp=icmp)
    if ipv4.protocol == UDP and len(l4) >= _UDP.size:
        udp = _udp(l4, ipv4)
        layers = (*layers, Layer("UDP", l4_at, _UDP.size, udp))
        return _carried(frame, l4_at + _UDP.size, Packet(layers, ethernet, ipv4, udp))
    return Packet((*layers, *_rest(frame, l4_at)), ethernet, ipv4)


def _carried(frame: bytes, at: int, outer: Packet) -> Packet:
    """`outer` with what its UDP payload holds: a VXLAN header and a frame when it goes to flannel's port."""
    if not outer.udp or outer.udp.dst_port != PORT or len(frame) < at + _VXLAN.size:
        return Packet((*outer.layers, *_rest(frame, at)), outer.ethernet, outer.ipv4, outer.udp)
    flags, reserved, vni, last = _VXLAN.unpack_from(frame, at)
    vxlan = Vxlan(flags, int.from_bytes(vni, "big"), int.from_bytes(reserved, "big") << 8 | last)
    inner = decode(frame, at + _VXLAN.size)
    layers = (*outer.layers, Layer("VXLAN", at, _VXLAN.size, vxlan), *inner.layers)
    return Packet(layers, outer.ethernet, outer.ipv4, outer.udp, vxlan, inner=inner)


def _ipv4(header: bytes) -> Ipv4:
    _, tos, total_len, ident, flags, ttl, protocol, _, src, dst = _IPV4.unpack_from(header)
    return Ipv4(
        src=IPv4Address(src),
        dst=IPv4Address(dst),
        ttl=ttl,
        ident=ident,
        tos=tos,
        protocol=protocol,
        dont_fragment=bool(flags & 0x4000),
        fragment=bool(flags & 0x3FFF),  # more to follow, or an offset
        total_len=total_len,
        checksum="ok" if fold(header) == 0xFFFF else "bad",
    )


def _udp(datagram: bytes, ipv4: Ipv4) -> Udp:
    src_port, dst_port, length, value = _UDP.unpack_from(datagram)
    pseudo = ipv4.src.packed + ipv4.dst.packed + bytes((0, UDP)) + length.to_bytes(2, "big")
    state: Checksum = "bad"
    if value == 0:
        state = "zero"
    elif fold(pseudo + datagram) == 0xFFFF:
        state = "ok"
    elif value == fold(pseudo):  # CHECKSUM_PARTIAL: the stack left the rest to the device, and veth has none
        state = "unfilled"
    return Udp(src_port, dst_port, length, value, state)


def _icmp(message: bytes) -> Icmp:
    kind, code, _, ident, seq = _ICMP.unpack_from(message)
    return Icmp(kind, code, ident, seq, "ok" if fold(message) == 0xFFFF else "bad")


def fold(octets: bytes) -> int:
    """The 16-bit one's complement sum of RFC 1071, not inverted; 0xffff over a header with a right checksum."""
    total = sum(int.from_bytes(octets[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(octets), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _rest(frame: bytes, at: int) -> tuple[Layer, ...]:
    """What no header claims, as a layer; empty when nothing is left."""
    return (Layer("payload", at, len(frame) - at, None),) if len(frame) > at else ()


def _plain(header: Header) -> dict[str, object]:
    values = ((field.name, getattr(header, field.name)) for field in fields(header))
    return {name: value if isinstance(value, bool | int) else str(value) for name, value in values}
