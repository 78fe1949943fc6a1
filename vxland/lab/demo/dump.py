"""A decoded packet for the page: its bytes in rows of sixteen, and its layers with their fields.

Bytes and fields carry the number of the field, so that either can point at the other, and the kind of the layer, which
is its colour: the frame that the pods exchange keeps its own from hop to hop, what VXLAN puts around it has others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vxland.lab.demo.capture import Seen
from vxland.lab.demo.decode import DecodedPacket, Layer
from vxland.lab.demo.layout import Field

PER_ROW = 16

_OUTER = {"Ethernet": "outer-ethernet", "IPv4": "outer-ip", "UDP": "outer-udp", "VXLAN": "vxlan"}
_INNER = {"Ethernet": "ethernet", "IPv4": "ip", "ICMP": "transport", "UDP": "transport", "payload": "payload"}
_OTHER = "other"  # what no header claims

LEGEND = (
    ("outer-ethernet", "outer Ethernet"),
    ("outer-ip", "outer IPv4"),
    ("outer-udp", "outer UDP"),
    ("vxlan", "VXLAN"),
    ("ethernet", "Ethernet"),
    ("ip", "IPv4"),
    ("transport", "ICMP"),
    ("payload", "payload"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One byte; `first`: of its field."""

    digits: str
    char: str
    kind: str
    field: int
    first: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Up to PER_ROW bytes."""

    at: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A layer with its fields, each beside its number."""

    title: str
    kind: str
    layer: Layer
    fields: tuple[tuple[int, Field], ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """One packet, laid out."""

    length: int
    rows: tuple[Row, ...]
    parts: tuple[Part, ...]


def lay_out(one: Seen) -> Dump:
    """The captured frame, byte by byte and field by field."""
    parts = tuple(_parts(one.packet))
    cells: list[Cell] = []
    for part in parts:
        for number, field in part.fields:
            raw = one.frame[field.at : field.at + field.length]
            cells += [Cell(f"{value:02x}", _char(value), part.kind, number, at == 0) for at, value in enumerate(raw)]
    starts = range(0, len(cells), PER_ROW)
    return Dump(len(one.frame), tuple(Row(at, tuple(cells[at : at + PER_ROW])) for at in starts), parts)


def _parts(packet: DecodedPacket) -> Iterator[Part]:
    number = 0
    for at, layer in enumerate(packet.layers):
        outer = at < packet.outer_layers
        kind = (_OUTER if outer else _INNER).get(layer.name, _OTHER)
        title = f"outer {layer.name}" if outer and layer.name != "VXLAN" else layer.name
        yield Part(title, kind, layer, tuple(enumerate(layer.fields, number)))
        number += len(layer.fields)


def _char(value: int) -> str:
    return chr(value) if 0x20 < value < 0x7F else "·"
