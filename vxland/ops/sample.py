"""What the daemon shows of itself at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vxland.model import Lease, RegistryHealth, Vtep

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
class Direction:
    """What one direction has done since start; `octets` counts inner frames, `drops` by reason.

    The rest is how: datapath/verdict.py tells what each number counts.
    """

    frames: int
    octets: int
    drops: Mapping[str, int]
    answers: int = 0
    wakeups: int = 0
    reads: int = 0
    batches: int = 0
    superframes: int = 0
    fragmented: int = 0
    policies: int = 0

    @classmethod
    def joined(cls, planes: Iterable[Mapping[str, Direction]]) -> dict[str, Direction]:
        """By direction, what several planes have done together."""
        found: dict[str, Direction] = {}
        for directions in planes:
            for name, done in directions.items():
                before = found.get(name, cls(0, 0, {}))
                drops = Counter(before.drops)
                drops.update(done.drops)  # also of 0: every reason stays named
                sums = {key: getattr(before, key) + getattr(done, key) for key in SUMMED}
                found[name] = cls(drops=drops, **sums)
        return found


SUMMED = ("frames", "octets", "answers", "wakeups", "reads", "batches", "superframes", "fragmented", "policies")


@dataclass(frozen=True, slots=True)
class PeerTraffic:
    """What went to one VTEP and came from it since start; octets are those of inner frames."""

    encap_frames: int = 0
    encap_octets: int = 0
    decap_frames: int = 0
    decap_octets: int = 0

    def plus(self, other: PeerTraffic) -> PeerTraffic:
        """Both together."""
        return PeerTraffic(
            self.encap_frames + other.encap_frames,
            self.encap_octets + other.encap_octets,
            self.decap_frames + other.decap_frames,
            self.decap_octets + other.decap_octets,
        )


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


@dataclass(frozen=True, slots=True)
class SocketQueue:
    """One receiving socket: octets that wait in it, octets it has room for, datagrams lost there since it is open."""

    waiting: int
    room: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Reconciling:
    """What control/reconcile.py has done since start, and what it could not do; `pending` waits now."""

    passes: int
    failed_reads: int
    actions: Mapping[tuple[str, str], int]
    """By verb and cause."""
    errors: Mapping[str, int]
    """By verb."""
    pending: int


@dataclass(frozen=True, slots=True)
class Device:
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
class Sample:
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
