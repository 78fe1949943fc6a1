"""What a registry of leases promises, whatever store stands behind it.

A registry keeps every node's leases. The daemon publishes this node's VTEP, then follows watch(): a Snapshot first,
and after that Deltas or, where a registry lost its place or finds it simpler, another Snapshot. The reader compares
each with what it has and never counts events, so a registry may repeat itself, and may join changes while its reader
is busy.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from vxland.model import Delta, Lease, Snapshot, Vtep


class Registry(Protocol):
    """A store of leases, as one node sees it."""

    async def publish(self, vtep: Vtep) -> frozenset[Lease]:
        """Claim this node's subnets for `vtep`; returns the leases held. Called again, it replaces them."""
        ...

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds; empty before publish()."""
        ...

    def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """The leases of all other nodes: a Snapshot at once, then every change. Never a lease of this node; no end."""
        ...


def followed(leases: frozenset[Lease], event: Snapshot | Delta) -> frozenset[Lease]:
    """The leases after `event`, given those before it."""
    if isinstance(event, Snapshot):
        return event.leases
    gone = event.removed | {lease.subnet for lease in event.added}
    return frozenset(lease for lease in leases if lease.subnet not in gone) | event.added
