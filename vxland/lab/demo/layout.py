"""Fields of captured headers: names, sizes in bytes, and the form in which a reader sees the values.

Order and sizes are defined here alone; `decode` reads the numbers by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias

from vxland.model.lease import Mac
from vxland.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6

ETHERTYPES = {TYPE_IPV4: "IPv4", TYPE_ARP: "ARP", TYPE_IPV6: "IPv6"}
ICMP, TCP, UDP = 1, 6, 17
PROTOCOLS = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP"}
ECHO_REPLY, ECHO_REQUEST = 0, 8
ECHOES = {ECHO_REQUEST: "echo request", ECHO_REPLY: "echo reply"}
FLAG_I = 0x08  # RFC 7348 section 5: the VNI is valid

Layout: TypeAlias = tuple[tuple[str, int, Callable[[int], str]], ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of one header: `length` bytes, `at` counted from the start of the frame, and the value in words."""

    name: str
    at: int
    length: int
    value: str


def read(layout: Layout, frame: bytes, at: int) -> list[int]:
    """Return the numbers of the header that starts at `at`, in the order of the layout. The header must be whole."""
    values = []
    for _, length, _ in layout:
        values.append(int.from_bytes(frame[at : at + length], "big"))
        at += length
    return values


def describe(layout: Layout, values: list[int], at: int, notes: Mapping[str, str]) -> tuple[Field, ...]:
    """Return the same numbers as fields. A note, by the name of its field, follows the value."""
    found = []
    for (name, length, say), value in zip(layout, values, strict=True):
        note = f", {notes[name]}" if notes.get(name) else ""
        found.append(Field(name, at, length, f"{say(value)}{note}"))
        at += length
    return tuple(found)


def size(layout: Layout) -> int:
    """Return the length of the header in bytes."""
    return sum(length for _, length, _ in layout)


def _hex(digits: int) -> Callable[[int], str]:
    return lambda value: f"0x{value:0{digits}x}"


def _named(names: Mapping[int, str], digits: int) -> Callable[[int], str]:
    return lambda value: f"0x{value:0{digits}x} {names[value]}" if value in names else f"0x{value:0{digits}x}"


def _mac(value: int) -> str:
    return str(Mac(value))


def _address(value: int) -> str:
    return str(IPv4Address(value))


def _zero(value: int) -> str:
    return "zero" if value == 0 else f"{value:#x}, and it must be zero"


def _protocol(value: int) -> str:
    return f"{value} {PROTOCOLS[value]}" if value in PROTOCOLS else str(value)


def _version(value: int) -> str:
    return f"version {value >> 4}, {(value & 0x0F) * 4} bytes"


def _service(value: int) -> str:
    return f"DSCP {value >> 2}, ECN {value & 0x03}"


def _fragment(value: int) -> str:
    flags = ", ".join(name for bit, name in ((0x8000, "reserved"), (0x4000, "DF"), (0x2000, "MF")) if value & bit)
    return f"{flags or 'no flag'}, offset {(value & 0x1FFF) * 8}"


def _flags(value: int) -> str:
    return f"0x{value:02x} {'I: the VNI is valid' if value & FLAG_I else 'I is clear'}"


def _echo(value: int) -> str:
    return f"{value} {ECHOES[value]}" if value in ECHOES else str(value)


ETHERNET: Layout = (("destination", 6, _mac), ("source", 6, _mac), ("EtherType", 2, _named(ETHERTYPES, 4)))
IPV4: Layout = (  # RFC 791 section 3.1; the second octet as RFC 2474 and RFC 3168 have it
    ("version, header length", 1, _version),
    ("DSCP, ECN", 1, _service),
    ("total length", 2, str),
    ("identification", 2, str),
    ("flags, fragment offset", 2, _fragment),
    ("time to live", 1, str),
    ("protocol", 1, _protocol),
    ("header checksum", 2, _hex(4)),
    ("source", 4, _address),
    ("destination", 4, _address),
)
UDP_HEADER: Layout = (
    ("source port", 2, str),
    ("destination port", 2, str),
    ("length", 2, str),
    ("checksum", 2, _hex(4)),
)
VXLAN: Layout = (("flags", 1, _flags), ("reserved", 3, _zero), ("VNI", 3, str), ("reserved", 1, _zero))  # RFC 7348
ECHO: Layout = (  # RFC 792
    ("type", 1, _echo),
    ("code", 1, str),
    ("checksum", 2, _hex(4)),
    ("identifier", 2, str),
    ("sequence number", 2, str),
)
