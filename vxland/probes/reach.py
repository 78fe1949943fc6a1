"""Results of probes: states of peers, round-trip times, and the cause of a failure. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from vxland.model.lease import Lease

State: TypeAlias = Literal["unknown", "reachable", "unreachable"]
FullMtu: TypeAlias = Literal["unknown", "passes", "hole"]
CauseLabel: TypeAlias = Literal[
    "port_closed",
    "refused",
    "mac_stale",
    "pings_filtered",
    "one_way",
    "wrong_vni",
    "unknown_vtep",
    "own_mac",
    "inner_source_foreign",
    "dropped_here",
    "tunnel_filtered",
    "silent",
    "not_sent",
    "mtu_hole",
]
"""Every cause of a peer's failure, as metrics, vxlandctl and docs/metrics.md name it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause of a peer's failure, as far as this node can see: a label, what happened, and what to do."""

    label: CauseLabel
    happened: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Reach:
    """State of a peer by pings of its overlay address; times in seconds, None before a reply."""

    state: State = "unknown"
    since: float = 0.0
    """time.monotonic() of the last change of `state`; 0 while it is unknown."""
    rtt_s: float | None = None
    """The round-trip time of the last reply."""
    min_s: float | None = None
    """The shortest round-trip time since the peer became reachable."""
    smoothed_s: float | None = None
    loss: float | None = None
    """The part of the last probes that had no reply."""
    full_mtu: FullMtu = "unknown"
    """Whether packets of the whole overlay MTU pass."""
    passes: int = 0
    """The size in bytes that passes, if a router reported it; else 0."""
    cause: Cause | None = None
    """The reason why it is unreachable, or why full packets do not pass."""


@dataclass(frozen=True, slots=True)
class Probing:
    """Results of a device's probes; `off` is the reason why none are sent, or empty."""

    off: str = ""
    peers: Mapping[Lease, Reach] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Number of probes since start, by outcome."""

    def reach(self, lease: Lease) -> Reach:
        """Return the state of the peer with this lease."""
        return self.peers.get(pinged(lease), UNKNOWN)


UNKNOWN = Reach()


def pinged(lease: Lease) -> Lease:
    """Return the lease as the probes know its peer: sources do not matter to them."""
    return replace(lease, sources=()) if lease.sources else lease
