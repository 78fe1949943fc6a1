"""Reachability of peers, as pings show it: states, round-trip times, and the cause of a failure. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vxland.model.lease import Lease

State: TypeAlias = Literal["unknown", "reachable", "unreachable"]
FullMtu: TypeAlias = Literal["unknown", "passes", "hole"]
Trouble: TypeAlias = Literal[
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
"""Every cause of a peer's not being well, as metrics, vxlandctl and docs/metrics.md spell it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a peer is not well, as far as this node can tell: one word, what happened, what to do."""

    word: Trouble
    happened: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Reach:
    """What pings of a peer's overlay address have shown (vxland/probes); times in seconds, None before an answer."""

    state: State = "unknown"
    since: float = 0.0
    """time.monotonic() of when the state became what it is; 0 while it is unknown."""
    rtt_s: float | None = None
    """The round-trip time of the last answer."""
    min_s: float | None = None
    """The shortest since the peer is reachable."""
    smoothed_s: float | None = None
    loss: float | None = None
    """The part of the last questions that had no answer."""
    full_mtu: FullMtu = "unknown"
    """Whether packets of the whole overlay MTU pass."""
    passes: int = 0
    """Octets that do pass, where a router told; else 0."""
    cause: Cause | None = None
    """Why it is unreachable, or why full packets do not pass."""


@dataclass(frozen=True, slots=True)
class Probing:
    """What is known of a device's peers by asking them; `off` says why nobody is asked, or is empty."""

    off: str = ""
    peers: Mapping[Lease, Reach] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """How many questions ended how, since start."""
