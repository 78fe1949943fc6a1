"""The structs of programs.c as bytes. Pure.

The order of fields is that of the C file; tests compare both by running the programs.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from vxland.fastpath.choice import FLOOD, HUNG_NS
from vxland.model.lease import Mac, Subnet

PEERS = 16384
SUBNETS = 32768
PORTS = 128

_SETTINGS = struct.Struct("=2Q4s4s4s2sHII6s7Bx")
_PORT = struct.Struct(">H")
_TIME = struct.Struct("=Q")
_PEER = struct.Struct("=4s3I")
_NUMBER = struct.Struct("=I")

CARRY_AFTER_AT, ATTENDED_AT, DRAINED_AT = 0, 8, 16
"""Offsets of the times that change while the programs run; the last one is for encap, and that for decap follows."""

TIME_LEN = 8
TIMES_LEN = 4 * TIME_LEN
"""Bytes of these times, which come first."""

NEVER_NS = (1 << 63) - 1
"""A time that does not come: all goes to the daemon."""


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """struct settings, without its times: what the programs of one device need to know."""

    vni: int
    address: IPv4Address
    public: IPv4Address
    port: int
    ports: Sequence[int]
    """Source ports; with `df` 2 the second half of them set DF."""
    mtu: int
    mac: Mac
    ttl: int
    tos: int
    tos_bits: int
    df: int
    """0: unset, 1: set, 2: as the inner packet."""
    check_source: int
    superframes: bool
    aggregates: bool
    unattended_ns: int
    flood: int = FLOOD
    hung_ns: int = HUNG_NS

    def pack(self) -> bytes:
        """Return the struct from TIMES_LEN on."""
        ports = self.ports[:PORTS]
        return _SETTINGS.pack(
            self.hung_ns,
            self.unattended_ns,
            (self.vni << 8).to_bytes(4, "big"),
            self.address.packed,
            self.public.packed,
            _PORT.pack(self.port),
            len(ports) // (2 if self.df == 2 else 1),
            self.flood,
            self.mtu,
            self.mac.value.to_bytes(6, "big"),
            self.ttl,
            self.tos,
            self.tos_bits,
            self.df,
            self.check_source,
            self.superframes,
            self.aggregates,
        ) + b"".join(_PORT.pack(port) for port in ports)


def pack_time(now_ns: int) -> bytes:
    """Return a time of struct settings."""
    return _TIME.pack(now_ns)


def pack_mac(mac: Mac) -> bytes:
    """Return a key of the map of peers: the MAC, its first byte lowest, in 8 bytes."""
    return mac.value.to_bytes(6, "big") + bytes(2)


def pack_peer(address: IPv4Address, slot: int, most: int, ifindex: int) -> bytes:
    """Return struct peer: a VTEP's address, its slot of counters, the bytes that the path carries, and the device."""
    return _PEER.pack(address.packed, slot, most, ifindex)


def pack_prefix(subnet: Subnet) -> bytes:
    """Return struct prefix4 or prefix6."""
    return _NUMBER.pack(subnet.prefixlen) + subnet.network_address.packed


def pack_number(number: int) -> bytes:
    """Return a slot as the prefix maps hold it and the counters are found by, or an interface index."""
    return _NUMBER.pack(number)


def sum_traffic(counts: array[int], slots: int) -> list[tuple[int, int, int, int]]:
    """Return struct traffic of each slot, summed over all CPUs: frames and bytes of encap, then of decap."""
    width = len(counts) // slots
    columns = [
        map(sum, zip(*(counts[at::width] for at in range(column, width, 4)), strict=True)) for column in range(4)
    ]
    return list(zip(*columns, strict=True))
