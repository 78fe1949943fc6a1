"""Ethernet, IPv4, ICMP, UDP and VXLAN headers of a captured frame, as named fields for a reader.

Nothing here is fast and nothing raises: a header that is cut short or unknown is absent, and `DecodedPacket.layers`
says which bytes belong to which header, and which to none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address
from typing import Literal, TypeAlias

from vxland.lab.demo import layout
from vxland.lab.demo.layout import ICMP, UDP, Field, Layout
from vxland.lab.topology import PORT
from vxland.model.lease import Mac
from vxland.wire.checksum import fold, sum_bytes
from vxland.wire.ethernet import TYPE_IPV4

_ETHERNET, _IPV4, _UDP, _VXLAN, _ICMP = (
    layout.size(one) for one in (layout.ETHERNET, layout.IPV4, layout.UDP_HEADER, layout.VXLAN, layout.ECHO)
)

MAX_DEPTH = 4  # frames around a frame that are read; a capture may hold a thousand, and each takes some of the stack

Checksum: TypeAlias = Literal["ok", "bad", "zero", "unfilled"]


@dataclass(frozen=True, slots=True)
class EthernetHeader:
    """An Ethernet header."""

    src: Mac
    dst: Mac
    ethertype: int


@dataclass(frozen=True, slots=True)
class Ipv4Header:
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
class UdpHeader:
    """A UDP header; `checksum_value` is the field, `checksum` what to make of it."""

    src_port: int
    dst_port: int
    length: int
    checksum_value: int
    checksum: Checksum


@dataclass(frozen=True, slots=True)
class VxlanHeader:
    """A VXLAN header; `reserved` joins the 24 and the 8 bits that must be zero."""

    flags: int
    vni: int
    reserved: int


@dataclass(frozen=True, slots=True)
class IcmpHeader:
    """An ICMP echo request or reply; other types leave `ident` and `seq` without meaning."""

    kind: int
    code: int
    ident: int
    seq: int
    checksum: Checksum


Header: TypeAlias = EthernetHeader | Ipv4Header | UdpHeader | VxlanHeader | IcmpHeader


@dataclass(frozen=True, slots=True)
class Layer:
    """The bytes of one header, counted from the start of the frame, and its fields, which lie end to end.

    What belongs to no header has a `header` of None and a name that says why: `payload` follows the last header and
    `padding` the packet, `cut short` is a header of which the capture has only the beginning, `unknown` one that is
    not read here.
    """

    name: str
    at: int
    length: int
    header: Header | None
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class DecodedPacket:
    """One decoded frame; `inner` is the frame that a VXLAN header carries."""

    layers: tuple[Layer, ...]
    ethernet: EthernetHeader | None = None
    ipv4: Ipv4Header | None = None
    udp: UdpHeader | None = None
    vxlan: VxlanHeader | None = None
    icmp: IcmpHeader | None = None
    inner: DecodedPacket | None = None

    @property
    def outer_layers(self) -> int:
        """Number of layers that VXLAN puts around the inner frame, its own header included; 0 without one."""
        return len(self.layers) - len(self.inner.layers) if self.inner else 0

    @property
    def innermost(self) -> DecodedPacket:
        """The frame the pods exchange: the carried one, or this one when nothing is carried."""
        return self.inner.innermost if self.inner else self

    def as_json(self) -> dict[str, object]:
        """The headers by name, made of strings, numbers and booleans."""
        named = {"ethernet": self.ethernet, "ipv4": self.ipv4, "icmp": self.icmp, "udp": self.udp, "vxlan": self.vxlan}
        found: dict[str, object] = {name: _plain(header) for name, header in named.items() if header}
        if self.inner:
            found["inner"] = self.inner.as_json()
        return found


def decode(frame: bytes, at: int = 0, depth: int = 0) -> DecodedPacket:
    """The headers of the frame that starts at `at` and reaches to the end; `depth` frames are around it."""
    if len(frame) < at + _ETHERNET:
        return DecodedPacket(_rest("cut short", frame, at))
    values = layout.read(layout.ETHERNET, frame, at)
    dst, src, ethertype = values
    ethernet = EthernetHeader(Mac(src), Mac(dst), ethertype)
    packet = DecodedPacket((_layer("Ethernet", layout.ETHERNET, values, at, ethernet),), ethernet)
    ip_at = at + _ETHERNET
    ip_len = (frame[ip_at] & 0x0F) * 4 if len(frame) > ip_at else _IPV4
    if ethertype != TYPE_IPV4 or ip_len < _IPV4:
        return _with(packet, _rest("unknown", frame, ip_at))
    if len(frame) < ip_at + ip_len:
        return _with(packet, _rest("cut short", frame, ip_at))
    ipv4, layer = _ipv4(frame, ip_at, ip_len)
    end = min(len(frame), max(ip_at + ip_len, ip_at + ipv4.total_len))
    packet = _transported(frame[:end], ip_at + ip_len, depth, replace(_with(packet, (layer,)), ipv4=ipv4), ipv4)
    return _with(packet, _rest("padding", frame, end))


def _transported(frame: bytes, at: int, depth: int, packet: DecodedPacket, ipv4: Ipv4Header) -> DecodedPacket:
    """`packet` with what its IPv4 header carries, from `at` to the end."""
    if ipv4.fragment:
        return _with(packet, _rest("payload", frame, at))
    if ipv4.protocol not in {ICMP, UDP}:
        return _with(packet, _rest("unknown", frame, at))
    if len(frame) < at + (_ICMP if ipv4.protocol == ICMP else _UDP):
        return _with(packet, _rest("cut short", frame, at))
    if ipv4.protocol == ICMP:
        icmp, layer = _icmp(frame, at)
        return replace(_with(packet, (layer, *_rest("payload", frame, at + _ICMP))), icmp=icmp)
    udp, layer = _udp(frame, at, ipv4)
    return _carried(frame, at + _UDP, depth, replace(_with(packet, (layer,)), udp=udp), udp)


def _carried(frame: bytes, at: int, depth: int, outer: DecodedPacket, udp: UdpHeader) -> DecodedPacket:
    """`outer` with what its UDP payload holds: a VXLAN header and a frame when it goes to flannel's port."""
    if udp.dst_port != PORT or depth == MAX_DEPTH:
        return _with(outer, _rest("payload", frame, at))
    if len(frame) < at + _VXLAN:
        return _with(outer, _rest("cut short", frame, at))
    values = layout.read(layout.VXLAN, frame, at)
    flags, reserved, vni, last = values
    vxlan = VxlanHeader(flags, vni, reserved << 8 | last)
    inner = decode(frame, at + _VXLAN, depth + 1)
    layers = (_layer("VXLAN", layout.VXLAN, values, at, vxlan), *inner.layers)
    return replace(_with(outer, layers), vxlan=vxlan, inner=inner)


def _ipv4(frame: bytes, at: int, length: int) -> tuple[Ipv4Header, Layer]:
    values = layout.read(layout.IPV4, frame, at)
    _, tos, total_len, ident, flags, ttl, protocol, _, src, dst = values
    header = Ipv4Header(
        src=IPv4Address(src),
        dst=IPv4Address(dst),
        ttl=ttl,
        ident=ident,
        tos=tos,
        protocol=protocol,
        dont_fragment=bool(flags & 0x4000),
        fragment=bool(flags & 0x3FFF),  # more to follow, or an offset
        total_len=total_len,
        checksum="ok" if _sum(frame[at : at + length]) == 0xFFFF else "bad",
    )
    layer = _layer("IPv4", layout.IPV4, values, at, header, {"header checksum": header.checksum})
    options = (Field("options", at + _IPV4, length - _IPV4, "not read here"),) if length > _IPV4 else ()
    return header, replace(layer, length=length, fields=(*layer.fields, *options))


def _udp(frame: bytes, at: int, ipv4: Ipv4Header) -> tuple[UdpHeader, Layer]:
    values = layout.read(layout.UDP_HEADER, frame, at)
    src_port, dst_port, length, value = values
    pseudo = ipv4.src.packed + ipv4.dst.packed + bytes((0, UDP)) + length.to_bytes(2, "big")
    state: Checksum = "bad"
    if value == 0:
        state = "zero"
    elif _sum(pseudo, frame[at:]) == 0xFFFF:
        state = "ok"
    elif value == _sum(pseudo):  # CHECKSUM_PARTIAL: the stack left the rest to the device, and veth has none
        state = "unfilled"
    header = UdpHeader(src_port, dst_port, length, value, state)
    note = {"zero": "absent", "unfilled": "left to the device"}.get(state, state)
    return header, _layer("UDP", layout.UDP_HEADER, values, at, header, {"checksum": note})


def _icmp(frame: bytes, at: int) -> tuple[IcmpHeader, Layer]:
    values = layout.read(layout.ECHO, frame, at)
    kind, code, _, ident, seq = values
    header = IcmpHeader(kind, code, ident, seq, "ok" if _sum(frame[at:]) == 0xFFFF else "bad")
    return header, _layer("ICMP", layout.ECHO, values, at, header, {"checksum": header.checksum})


def _sum(*parts: bytes) -> int:
    """Return the folded one's complement sum; 0xffff over bytes with a right checksum in them. RFC 1071."""
    whole = bytearray(b"".join(parts))
    return fold(sum_bytes(whole, 0, len(whole), 0))


def _layer(
    name: str, form: Layout, values: list[int], at: int, header: Header, notes: Mapping[str, str] | None = None
) -> Layer:
    return Layer(name, at, layout.size(form), header, layout.describe(form, values, at, notes or {}))


def _rest(name: str, frame: bytes, at: int) -> tuple[Layer, ...]:
    """Return the bytes after the last header as a layer; no layer if none are left."""
    length = len(frame) - at
    if length <= 0:
        return ()
    return (Layer(name, at, length, None, (Field("bytes", at, length, f"{length} bytes"),)),)


def _with(packet: DecodedPacket, layers: tuple[Layer, ...]) -> DecodedPacket:
    return replace(packet, layers=(*packet.layers, *layers))


def _plain(header: Header) -> dict[str, object]:
    values = ((field.name, getattr(header, field.name)) for field in fields(header))
    return {name: value if isinstance(value, bool | int) else str(value) for name, value in values}
