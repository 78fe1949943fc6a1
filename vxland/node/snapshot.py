"""A node at one moment, as the API reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from vxland.config import Settings
from vxland.model.lease import Address, Lease, Subnet
from vxland.node.plane import Plane
from vxland.node.sample import NodeSample


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A node at one moment. `planes` are those with an open device; readers change nothing in them."""

    settings: Settings
    sample: NodeSample
    planes: Sequence[Plane]
    leases: Sequence[Lease]
    """The leases of the other nodes."""
    since: Mapping[Subnet, float]
    """Time, by time.monotonic(), since which each of them is as it is, as far as this process knows."""

    drops: Mapping[str, Mapping[str, int]]
    """Dropped frames by direction and reason, full queues of the kernel included."""
    firewall: str | None
    """Reason why the firewall's rules are not in force; empty while they are, None where none are wanted."""
    iptables: str
    """Backend of iptables that has the rules: nft or legacy; empty where iptables is not used."""
    pod_names: Callable[[Collection[Address]], Awaitable[Mapping[Address, str]]]
    """Returns the names of pods by address, where the registry knows them; VxlandError."""
