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
    """An entry as parsed. With neither leases nor `unread`, its node is no peer."""

    leases: Mapping[int, Lease] = field(default_factory=dict)
    """By IP version of the subnet."""

    unread: frozenset[int] = frozenset()
    """IP versions that could not be read: their last known leases stay in force."""

    problem: str = ""
    """Why the entry is quarantined; empty if all of it is valid."""

    unreachable: str = ""
    """Why the node cannot be reached, although the entry is valid."""

    created: str = ""
    """When the entry was created, as text that sorts by time."""


@dataclass(frozen=True, slots=True)
class Own:
    """The part of a store that belongs to this node: the names of its entries, its leases, and addresses.

    No other node can have `addresses`: this node's own, and the broadcast addresses of its subnets.
    """

    entries: frozenset[str] = frozenset()
    leases: frozenset[Lease] = frozenset()
    addresses: frozenset[Address] = frozenset()

    def refusal(self, lease: Lease) -> str:
        """Return why another entry's lease must not be used; empty if it may be used.

        A lease with our address, or with a part of our subnets, would draw our pods' traffic away.
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
