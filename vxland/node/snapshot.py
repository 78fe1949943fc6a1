"""What the daemon lets its answers see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vxland.config import Settings
from vxland.model.lease import Lease
from vxland.node.plane import Plane
from vxland.node.sample import NodeSample


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A node at one moment. `planes` are those with an open device; `since` is time.monotonic() by lease."""

    settings: Settings
    sample: NodeSample
    planes: Sequence[Plane]
    since: Mapping[Lease, float]
    """When each peer's lease became what it is, as far as this process knows."""

    drops: Mapping[str, Mapping[str, int]]
    """By direction and reason, full queues of the kernel included."""
    firewall: str | None
    """Why the firewall's rules are not in force; empty while they are, None where none are wanted."""
    iptables: str
    """The backend of iptables that has the rules: nft or legacy; empty where iptables is not used."""
