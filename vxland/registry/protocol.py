"""What a registry of leases promises, whatever store stands behind it.

A registry keeps every node's leases. The daemon asks it what it remembers of this node, publishes this node's VTEPs,
then follows watch(): a Snapshot first, and after that Deltas or, where a registry lost its place or finds it simpler,
another Snapshot. The reader compares each with what it has and never counts events, so a registry may repeat itself,
and may join changes while its reader is busy.

A store that cannot be reached is waited for, with the reason in the log and in `health`; what is known stays in force.
An entry that is not understood is quarantined: named in `health`, it adds and removes nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vxland.config import Settings
from vxland.model.lease import Address, Delta, Lease, Mac, RegistryHealth, Snapshot, Vtep
from vxland.registry.net_conf import NetConf


@dataclass(frozen=True, slots=True)
class Recall:
    """What a store remembers of this node from before; all by IP version, 4 or 6."""

    macs: Mapping[int, Mac] = field(default_factory=dict)
    """The VTEP MACs it published last: peers know them, so they are kept."""

    addresses: Mapping[int, Address] = field(default_factory=dict)
    """VTEP addresses that an administrator chose for it (flannel: the node-public-ip annotations)."""

    overwrites: Mapping[int, Address] = field(default_factory=dict)
    """Those published in place of its own (flannel: the public-ip-overwrite annotations)."""


class Registry(Protocol):
    """A store of leases, as one node sees it. Used from one event loop."""

    @property
    def source(self) -> str:
        """The store's name and address, for people and the lease cache: leases of another source are not ours."""
        ...

    @property
    def health(self) -> RegistryHealth:
        """Whether the store can be read now, and what in it cannot."""
        ...

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds; empty before publish()."""
        ...

    @property
    def ends(self) -> float:
        """Until when they are surely this node's if the store is not heard of again, by time.monotonic(); or inf."""
        ...

    async def net_conf(self) -> NetConf | None:
        """The network as the cluster defines it, once it is there; None where the settings do. ConfigError if wrong."""
        ...

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:
        """What the store remembers of this node, whose VTEP addresses are `advertised`, by IP version.

        Empty before they are chosen: the store may have a say in them; one that knows a node by them has no MACs then.
        """
        ...

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Claim this node's subnets for a VTEP by IP version of the subnets; returns the leases held.

        Called again, it replaces them. ConfigError or StartError where waiting would not help.
        """
        ...

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Quarantine leases with these VTEP addresses, which no other node can have; each call replaces the last."""
        ...

    async def announce(self) -> None:
        """Tell the cluster that this node forwards (Kubernetes: NetworkUnavailable is false). Does not fail."""
        ...

    def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """The leases of all other nodes: a Snapshot at once, then every change. Never a lease of this node; no end.

        It also keeps this node's own lease alive; LeaseLostError where another node has taken its subnet.
        """
        ...

    def reload(self, settings: Settings) -> Snapshot | None:
        """Take the settings of a reloaded file; return its leases of other nodes, or None where a store has them."""
        ...

    async def close(self) -> None:
        """Let go of connections; the leases stay, as flanneld's do."""
        ...


def followed(leases: frozenset[Lease], event: Snapshot | Delta) -> frozenset[Lease]:
    """The leases after `event`, given those before it."""
    if isinstance(event, Snapshot):
        return event.leases
    gone = event.removed | {lease.subnet for lease in event.added}
    return frozenset(lease for lease in leases if lease.subnet not in gone) | event.added
