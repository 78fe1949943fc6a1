"""What the daemon shows of itself at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vxland.model import RegistryHealth, Vtep


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

    @classmethod
    def joined(cls, planes: Iterable[Mapping[str, Direction]]) -> dict[str, Direction]:
        """By direction, what several planes have done together."""
        found: dict[str, Direction] = {}
        for directions in planes:
            for name, done in directions.items():
                before = found.get(name, cls(0, 0, {}))
                drops = Counter(before.drops)
                drops.update(done.drops)  # also of 0: every reason stays named
                sums = {key: getattr(before, key) + getattr(done, key) for key in _SUMMED}
                found[name] = cls(drops=drops, **sums)
        return found


_SUMMED = ("frames", "octets", "answers", "wakeups", "reads", "batches", "superframes")


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
    tap_dropped: int | None
    """Frames lost because the TAP's queues were full, since the device exists; None where the kernel does not tell."""
    reconciling: Reconciling
    filtered: int | None = None
    """Datagrams that the kernel dropped for their sender, by nftables; None where it does not."""


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
