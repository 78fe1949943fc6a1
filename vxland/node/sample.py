"""What the daemon shows of itself at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vxland.forwarding.counts import Direction, PeerTraffic, SocketQueue
from vxland.model.lease import RegistryHealth, Vtep
from vxland.probes.reach import Probing


@dataclass(frozen=True, slots=True)
class Reconciling:
    """What reconcile/reconciler.py has done since start, and what it could not do; `pending` waits now."""

    passes: int
    failed_reads: int
    actions: Mapping[tuple[str, str], int]
    """By verb and cause."""
    errors: Mapping[str, int]
    """By verb."""
    pending: int


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One overlay device and its sockets."""

    name: str
    offloads: Mapping[str, bool]
    """Those there may be, and whether each is in use."""
    peers: Mapping[Vtep, PeerTraffic]
    """Every VTEP of the table in force."""
    sockets: Sequence[SocketQueue]
    """Of each worker; empty where the kernel does not tell."""
    underlay_mtu: int
    """Of the interface, in bytes."""
    narrower: int
    """VTEPs that the way to carries less."""
    not_forwarded: int
    """Reasons why this node's kernel forwards no packets of pods."""
    disbelieved: int
    """VTEPs of whose way ICMP says what is not believed."""
    tap_dropped: int | None
    """Frames lost because the TAP's queues were full, since the device exists; None where the kernel does not tell."""
    underlay_dropped: int | None
    """UDP sends that the underlay's queueing discipline dropped, of all programs there; None where nobody tells."""
    socket_full: int
    """Datagrams, or trains of them, that the receiving sockets had no room for, since the start."""
    bad_checksums: int | None
    """Datagrams with a bad outer UDP checksum, of all programs there; None where the kernel does not tell."""
    reconciling: Reconciling
    filtered: int | None = None
    """Datagrams that the kernel dropped for their sender, by nftables; None where it does not."""
    probing: Probing = field(default_factory=Probing)


@dataclass(frozen=True, slots=True)
class NodeSample:
    """What the daemon shows at one moment; `not_ready` is the reason why no frames can move yet, or empty."""

    directions: Mapping[str, Direction]
    leases: int
    not_ready: str
    registry: RegistryHealth = field(default_factory=RegistryHealth)
    loop_lag_s: float = 0.0
    """The longest that the event loop came late within the last minute."""
    firewall: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By family (ipv4, ipv6), how often rules were put back, and how often that failed; empty where none are kept."""
    cpu: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the process `used`, that it `waited` for a CPU, and that its control group was `throttled`."""
    troubles: Sequence[str] = ()
    """A line about each peer that cannot be reached as it should be, the first ones; none keeps the node from ready."""
