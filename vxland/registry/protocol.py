"""The contract of every registry of leases, whatever its store.

A registry keeps every node's leases. The daemon asks for the store's record of this node, publishes this node's VTEPs,
and then follows watch(): a Snapshot first, then Deltas, or another Snapshot if the registry lost its place in the
store's history. The reader compares each event with the leases that it has, and never counts events. So a registry may
repeat itself, and may join changes while its reader is busy.

If the store cannot be reached, the registry retries, with the reason in the log and in `health`; the known leases stay
in force. An invalid entry is quarantined: `health` names it, and it adds and removes no lease.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vxland.config import Settings
from vxland.model.lease import Address, Delta, Lease, Mac, RegistryHealth, Snapshot, Vtep
from vxland.registry.net_conf import NetConf


@dataclass(frozen=True, slots=True)
class Recall:
    """The store's record of this node from before; all by IP version, 4 or 6."""

    macs: Mapping[int, Mac] = field(default_factory=dict)
    """The VTEP MACs that it published last. Peers know them, so the node keeps them."""

    addresses: Mapping[int, Address] = field(default_factory=dict)
    """VTEP addresses that an administrator has set for it (flannel: the node-public-ip annotations)."""

    overwrites: Mapping[int, Address] = field(default_factory=dict)
    """Addresses published in place of its own (flannel: the public-ip-overwrite annotations)."""


class Registry(Protocol):
    """A store of leases, as one node uses it, from one event loop."""

    @property
    def source(self) -> str:
        """The store's name and address, for people and the lease cache: leases of another source are not ours."""
        ...

    @property
    def health(self) -> RegistryHealth:
        """Whether the store can be read now, and which of its entries cannot."""
        ...

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds; empty before publish()."""
        ...

    @property
    def ends(self) -> float:
        """The time.monotonic() until which no other node can take them, even if the store does not answer; or inf."""
        ...

    async def net_conf(self) -> NetConf | None:
        """Wait for the cluster's network configuration and return it; None if the settings have it. ConfigError."""
        ...

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:
        """Return the store's record of this node, whose VTEP addresses are `advertised`, by IP version.

        `advertised` is empty before they are chosen, because the store may set them. A store that identifies a node by
        its address returns no MACs then.
        """
        ...

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Claim this node's subnets for `vteps`, by the subnets' IP version; return the leases held.

        Another call replaces them. ConfigError or StartError if a retry would not help.
        """
        ...

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Quarantine leases with these VTEP addresses, which no other node can have; each call replaces the last."""
        ...

    async def announce(self) -> None:
        """Report to the cluster that this node forwards (Kubernetes: NetworkUnavailable is false). Does not fail."""
        ...

    def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """Yield the leases of all other nodes: a Snapshot at once, then every change. Never ends.

        It also keeps this node's own lease alive; LeaseLostError if another node has taken its subnet.
        """
        ...

    def reload(self, settings: Settings) -> Snapshot | None:
        """Take the settings of a reloaded file; return its leases of other nodes, or None where a store has them."""
        ...

    async def pod_names(self, addresses: Collection[Address]) -> Mapping[Address, str]:
        """Return namespace and name of the pods with these addresses, as far as the store says so soon.

        StoreError with the reason if it says nothing.
        """
        ...

    async def close(self) -> None:
        """Close connections. The leases stay, as flanneld's do."""
        ...
