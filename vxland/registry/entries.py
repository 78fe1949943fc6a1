"""Contents of a store's entries: leases of other nodes, and the part that belongs to this node. Pure.

An entry is one node's: a key in etcd, a Node in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vxland.model.lease import Address, Lease

MAX_NAME: Final = 253
"""Characters of an entry's name: a Node's is a DNS name."""

MAX_REASON: Final = 300
"""Characters of the reason why an entry is quarantined."""

_LINK_LOCAL = b"\xa9\xfe"  # 169.254.0.0/16: RFC 3927; IPv6's is no VTEP at all


@dataclass(frozen=True, slots=True)
class Reading:
    """What an entry says. Neither leases nor `unread`: its node is no peer."""

    leases: Mapping[int, Lease] = field(default_factory=dict)
    """By IP version of the subnet."""

    unread: frozenset[int] = frozenset()
    """IP versions of which nothing can be said now, so that what was known stands."""

    problem: str = ""
    """Why something here is not understood; the entry is quarantined for it."""

    odd: str = ""
    """Why the node cannot be reached, though all is understood."""

    created: str = ""
    """When the entry came into the store, as a text that sorts by time."""


@dataclass(frozen=True, slots=True)
class Own:
    """What belongs to this node, and so is not told: its entries, by name, its leases, and addresses.

    `addresses` are those that no other node can have: what this node has, and its subnets' broadcast addresses.
    """

    entries: frozenset[str] = frozenset()
    leases: frozenset[Lease] = frozenset()
    addresses: frozenset[Address] = frozenset()

    def refusal(self, lease: Lease) -> str:
        """Return why another entry's lease must not be used; empty if it may be.

        One that has our address, or part of our subnets, is as bad as our own: it would lead our pods' traffic away.
        """
        address = lease.vtep.address
        if address in self.addresses or any(address == own.vtep.address for own in self.leases):
            return f"its VTEP address {address} is one of this node, or the broadcast address of its underlay"
        if address.packed[:2] == _LINK_LOCAL and not any(own.vtep.address.is_link_local for own in self.leases):
            return f"its VTEP address {address} is link-local, and this node's is not"
        subnet = lease.subnet
        for own in self.leases:
            if subnet.version != own.subnet.version or (
                subnet.prefixlen == own.subnet.prefixlen and subnet != own.subnet
            ):
                continue
            if subnet.overlaps(own.subnet):
                return f"its subnet {subnet} overlaps {own.subnet}, which is this node's"
        return ""
