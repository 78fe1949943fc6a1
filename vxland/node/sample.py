"""Counters and state of a node at one moment, for metrics and the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vxland.forwarding.counts import Direction, PeerTraffic, SocketQueue
from vxland.model.lease import RegistryHealth, Vtep
from vxland.probes.reach import Probing


@dataclass(frozen=True, slots=True)
class Reconciling:
    """Counters of reconcile/reconciler.py since start; `pending` actions wait now."""

    passes: int
    reads: int
    """Reads of everything."""
    failed_reads: int
    actions: Mapping[tuple[str, str], int]
    """By verb and cause."""
    errors: Mapping[str, int]
    """By verb."""
    pending: int
    requests: int
    """Netlink requests sent, each change counted by itself."""


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One overlay device and its sockets."""

    name: str
    offloads: Mapping[str, bool]
    """Whether each offload is in use, by name."""
    peers: Mapping[Vtep, PeerTraffic]
    """Traffic of every VTEP in the table."""
    sockets: Sequence[SocketQueue]
    """Queue of each worker's receiving socket; empty if the kernel does not report them."""
    underlay_mtu: int
    """MTU of the underlay's interface in bytes."""
    narrower: int
    """Number of VTEPs whose path carries less than the interface."""
    not_forwarded: int
    """Number of reasons why this node's kernel forwards no packets of pods."""
    disbelieved: int
    """Number of VTEPs whose path MTU, as ICMP errors give it, is not believed."""
    tap_dropped: int | None
    """Frames lost because the TAP's queues were full, since the device exists; None if the kernel has no count."""
    underlay_dropped: int | None
    """UDP sends that the underlay's queueing discipline dropped, of all programs there; None without a count."""
    socket_full: int
    """Datagrams, or trains of them, lost since the start because the receiving sockets were full."""
    bad_checksums: int | None
    """Datagrams with a bad outer UDP checksum, of all programs there; None if the kernel has no count."""
    reconciling: Reconciling
    fast_path: bool = False
    """Whether programs carry frames."""
    filtered: int | None = None
    """Datagrams of unknown senders that nftables dropped; None without a filter."""
    probing: Probing = field(default_factory=Probing)


@dataclass(frozen=True, slots=True)
class NodeSample:
    """A node at one moment; `not_ready` is the reason why no frames can move yet, or empty."""

    directions: Mapping[str, Direction]
    """All that was carried, and dropped."""
    leases: int
    not_ready: str
    registry: RegistryHealth = field(default_factory=RegistryHealth)
    loop_lag_s: float = 0.0
    """Longest delay of the event loop within the last minute."""
    firewall: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Repairs of the firewall's rules, and failed ones, by family (ipv4, ipv6); empty where no rules are wanted."""
    cpu: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the process `used`, that it `waited` for a CPU, and that its control group was `throttled`."""
    carried: Mapping[str, Direction] = field(default_factory=dict)
    """The part of `directions` that programs of the fast path carried."""
    troubles: Sequence[str] = ()
    """A line for each of the first problems with peers or forwarding; none of them makes the node unready."""
    loop_held_s: float = 0.0
    """Longest time that one step of a task has held the event loop since the start."""
    loop_holder: str = ""
    """The coroutine that held it."""
