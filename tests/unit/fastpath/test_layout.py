"""Structs as the programs have them: by the types that the compiler wrote into the object, and the C source."""

from __future__ import annotations

import re
from array import array
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from tests.btf import structs
from vxland.datapath.datagram import SEGMENT_MARK
from vxland.fastpath import layout
from vxland.fastpath.layout import (
    ATTENDED_AT,
    CARRY_AFTER_AT,
    DRAINED_AT,
    TIME_LEN,
    TIMES_LEN,
    ProgramSettings,
    pack_mac,
    pack_number,
    pack_peer,
    pack_prefix,
    pack_time,
    sum_traffic,
)
from vxland.fastpath.programs import OBJECT
from vxland.model.lease import Mac
from vxland.model.source_check import SourceCheck

SOURCE = OBJECT.with_suffix(".c").read_text()
STRUCTS = structs(OBJECT.read_bytes())
MAC = Mac.parse("ce:5f:f6:73:cf:b9")
NULL = IPv4Address(0)
ZERO = ProgramSettings(
    vni=0,
    address=NULL,
    public=NULL,
    port=0,
    ports=[],
    mtu=0,
    mac=Mac(0),
    ttl=0,
    tos=0,
    tos_bits=0,
    df=0,
    check_source=0,
    superframes=False,
    aggregates=False,
    unattended_ns=0,
    flood=0,
    hung_ns=0,
)
TIMES = ("carry_after_ns", "attended_ns", "drained_ns")
FIELDS: dict[str, tuple[Any, bytes]] = {
    "hung_ns": (2**40 + 3, (2**40 + 3).to_bytes(8, "little")),
    "unattended_ns": (7, (7).to_bytes(8, "little")),
    "vni": (0xABCDEF, bytes.fromhex("abcdef00")),
    "address": (IPv4Address("192.0.2.1"), bytes([192, 0, 2, 1])),
    "public": (IPv4Address("203.0.113.7"), bytes([203, 0, 113, 7])),
    "port": (8472, (8472).to_bytes(2, "big")),
    "flood": (0x01020304, bytes([4, 3, 2, 1])),
    "mtu": (1450, (1450).to_bytes(4, "little")),
    "mac": (MAC, MAC.value.to_bytes(6, "big")),
    "ttl": (64, b"\x40"),
    "tos": (0xB8, b"\xb8"),
    "tos_bits": (0xFF, b"\xff"),
    "df": (2, b"\2"),
    "check_source": (SourceCheck.STRICT, b"\2"),
    "superframes": (True, b"\1"),
    "aggregates": (True, b"\1"),
}
"""A value of each field of ProgramSettings, and its bytes in the member of the same name."""


def constant(name: str) -> int:
    """Return a number that the C source defines."""
    found = re.search(rf"^#define {name}\s+(\w+)", SOURCE, re.MULTILINE)
    assert found is not None, name
    return int(found[1], 0)


def whole(settings: ProgramSettings) -> bytes:
    """Return the struct with its times, which are 0."""
    return bytes(TIMES_LEN) + settings.pack()


@pytest.mark.parametrize(("field", "value", "packed"), [(field, *each) for field, each in FIELDS.items()], ids=FIELDS)
def test_a_setting_is_where_the_programs_read_it(field: str, value: object, packed: bytes) -> None:
    """In the byte order that they expect, and nothing else changes."""
    at = STRUCTS["settings"].offsets[field]
    want = bytearray(whole(ZERO))
    want[at : at + len(packed)] = packed
    changes: dict[str, Any] = {field: value}
    assert whole(replace(ZERO, **changes)) == want


def test_every_setting_is_tested() -> None:
    """Those above, the times, and the source ports."""
    assert set(STRUCTS["settings"].offsets) == {*FIELDS, *TIMES, "ports_len", "ports"}


def test_the_times_come_first() -> None:
    """They change while the programs run; the rest is written behind them."""
    offsets = STRUCTS["settings"].offsets
    assert tuple(offsets[name] for name in TIMES) == (CARRY_AFTER_AT, ATTENDED_AT, DRAINED_AT)
    assert min(at for name, at in offsets.items() if name not in TIMES) == TIMES_LEN
    assert pack_time(2**33) == (2**33).to_bytes(TIME_LEN, "little")


@pytest.mark.parametrize("df", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 64, 128])
def test_source_ports(count: int, df: int) -> None:
    """With `df: inherit` the second half sets DF, and flows are hashed over the first."""
    settings = STRUCTS["settings"]
    numbers = [50_000 + i for i in range(count)]
    packed = whole(replace(ZERO, ports=numbers, df=df))
    ports_len = int.from_bytes(packed[settings.offsets["ports_len"] :][:2], "little")
    assert ports_len == (count // 2 if df == 2 else count)
    assert packed[settings.offsets["ports"] :] == b"".join(number.to_bytes(2, "big") for number in numbers)
    assert len(packed) <= settings.size


def test_no_more_ports_than_there_is_space() -> None:
    """64 sockets are the most, twice with `df: inherit`."""
    settings = STRUCTS["settings"]
    packed = whole(replace(ZERO, ports=range(200)))
    assert len(packed) == settings.offsets["ports"] + 2 * layout.PORTS
    assert settings.size - 8 < len(packed) <= settings.size
    assert layout.PORTS == 2 * 64


def test_peers() -> None:
    """The key is a number whose lowest byte is the first of the MAC."""
    peer = STRUCTS["peer"]
    packed = pack_peer(IPv4Address("192.0.2.9"), 0x01020304, 1450, 7)
    assert len(packed) == peer.size
    assert packed[peer.offsets["address"] :][:4] == bytes([192, 0, 2, 9])
    for member, value in (("slot", 0x01020304), ("most", 1450), ("ifindex", 7)):
        assert packed[peer.offsets[member] :][:4] == value.to_bytes(4, "little") == pack_number(value)
    assert pack_mac(MAC) == bytes.fromhex("ce5ff673cfb90000")


@pytest.mark.parametrize(("name", "text"), [("prefix4", "10.244.1.0/24"), ("prefix6", "fd00:244::/56")])
def test_prefixes(name: str, text: str) -> None:
    """As BPF_MAP_TYPE_LPM_TRIE compares them."""
    prefix, subnet = STRUCTS[name], ip_network(text)
    packed = pack_prefix(subnet)
    assert len(packed) == prefix.size
    assert packed[prefix.offsets["len"] :][:4] == subnet.prefixlen.to_bytes(4, "little")
    assert packed[prefix.offsets["address"] :] == subnet.network_address.packed


def test_counters_are_added_over_the_cpus() -> None:
    """Frames and bytes of encap, then of decap."""
    assert STRUCTS["traffic"].size == 2 * STRUCTS["count"].size == 32
    assert STRUCTS["count"].offsets == {"frames": 0, "bytes": 8}
    one, other = [1, 2**40, 3, 4], [5, 6, 7, 8]
    first_cpu, second_cpu = [10, 20, 30, 40], [0, 0, 0, 1]
    counts = array("Q", [*one, *first_cpu, *other, *second_cpu])
    assert sum_traffic(counts, 2) == [(11, 2**40 + 20, 33, 44), (5, 6, 7, 9)]


def test_constants_are_the_same_on_both_sides() -> None:
    """Numbers that the C source cannot take from Python."""
    for name in ("PEERS", "SUBNETS", "PORTS"):
        assert constant(name) == getattr(layout, name)
    assert constant("SEGMENT_MARK") == SEGMENT_MARK
    assert constant("CHECK_STRICT") == SourceCheck.STRICT
    assert "enum direction { ENCAP, DECAP };" in SOURCE
    assert "enum df { DF_UNSET, DF_SET, DF_INHERIT };" in SOURCE
