"""Value types of leases: Mac, Vtep, Lease, Snapshot, Delta, Change, RegistryHealth. All are frozen. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Subnet: TypeAlias = IPv4Network | IPv6Network


def _hash_of_address(address: IPv6Address) -> int:
    return hash((address.packed, address.scope_id))


def _hash_of_network(network: IPv6Network) -> int:
    return hash((network.network_address, network.prefixlen))


# Python hashes IPv6 addresses and networks as numbers modulo 2^61 - 1. A writer of the store could choose thousands
# with one hash, and every dictionary and set would search them one by one. The hash of bytes has a random seed in each
# process. IPv4 is too short for equal hashes.
IPv6Address.__hash__ = _hash_of_address  # type: ignore[assignment,method-assign]  # the classes have no other hook
IPv6Network.__hash__ = _hash_of_network  # type: ignore[assignment,method-assign]  # the classes have no other hook

_THIS_NETWORK = IPv4Network("0.0.0.0/8")  # RFC 1122 section 3.2.1.3

MAX_VNI = (1 << 24) - 1  # RFC 7348 section 5: a VNI has 24 bits

_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_MULTICAST_BIT = 1 << 40  # IEEE 802: the lowest bit of the first octet
_LOCAL_BIT = 1 << 41


@dataclass(frozen=True, slots=True, order=True)
class Mac:
    """A 48-bit Ethernet address."""

    value: int

    @classmethod
    def parse(cls, text: str) -> Mac:
        """Parse `aa:bb:cc:dd:ee:ff`. ValueError for any other form."""
        if not _MAC.fullmatch(text):
            msg = f"{text!r} is not a MAC address of the form aa:bb:cc:dd:ee:ff"
            raise ValueError(msg)
        return cls(int(text.replace(":", ""), 16))

    @classmethod
    def local_from(cls, seed: bytes) -> Mac:
        """Return a locally administered unicast Mac from 6 bytes or more, as flannel makes its random ones."""
        value = int.from_bytes(seed[:6], "big")
        return cls((value | _LOCAL_BIT) & ~_MULTICAST_BIT)

    @property
    def is_unicast(self) -> bool:
        """Whether one station can own this address: not multicast, not all zero."""
        return self.value != 0 and not self.value & _MULTICAST_BIT

    def __str__(self) -> str:
        return self.value.to_bytes(6, "big").hex(":")


def host_prefix(address: Address) -> Subnet:
    """Return the prefix of full length with this address; ip_network() would write and read it as text, in 10 us."""
    return IPv4Network(int(address)) if isinstance(address, IPv4Address) else IPv6Network(int(address))


def is_a_nodes(address: Address) -> bool:
    """Return whether a node can have the address on its underlay, and other nodes can send to it."""
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        return False
    if isinstance(address, IPv6Address):  # a link-local one means nothing on another node
        return not address.is_link_local and address.ipv4_mapped is None
    return not address.is_reserved and address not in _THIS_NETWORK  # 240.0.0.0/4: RFC 1112 section 4


@dataclass(frozen=True, slots=True)
class Vtep:
    """A tunnel end point: its underlay address, and the MAC of its overlay device."""

    address: Address
    mac: Mac

    def __str__(self) -> str:
        return f"{self.address} ({self.mac})"


@dataclass(frozen=True, slots=True)
class Lease:
    """One node's claim on one subnet, with its VTEP. A dual-stack node holds two."""

    subnet: Subnet
    vtep: Vtep

    sources: tuple[Subnet, ...] = ()
    """Further sources of the node's datagrams beside the VTEP's address, behind NAT."""

    node: str = field(default="", compare=False)
    """The node's name, where the registry has one (Kubernetes); for people."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every peer's lease that the registry has now; replaces all earlier ones."""

    leases: frozenset[Lease]


@dataclass(frozen=True, slots=True)
class Delta:
    """Changes since the last event; `added` replaces a lease on the same subnet."""

    added: frozenset[Lease] = frozenset()
    removed: frozenset[Subnet] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """Difference between two sets of leases: `removed` is gone, `added` is new. A lease that changes is in both."""

    removed: frozenset[Lease] = frozenset()
    added: frozenset[Lease] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


@dataclass(frozen=True, slots=True)
class RegistryHealth:
    """State of the connection to the registry, and of its contents."""

    error: str = ""
    """The reason why the store cannot be read; empty while it can."""

    since: float = 0.0
    """time.monotonic() of the last successful read; 0 while the store can be read."""

    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Invalid entries of the store with the reason, by key or node name; they change no lease."""

    cached: str = ""
    """The date and file of the cache in use, while the store has not answered since start; else empty."""
