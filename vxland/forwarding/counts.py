"""Totals of the data path since start: by direction, by peer, and by receiving socket. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vxland.datapath.verdict import COUNTED, Counters, Drop


@dataclass(frozen=True, slots=True)
class Direction:
    """Totals of one direction: `counts` by the names of datapath/verdict.COUNTED, `drops` by reason."""

    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys((each.name for each in COUNTED), 0))
    drops: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys((drop.label for drop in Drop), 0))

    @classmethod
    def of(cls, counters: Counters) -> Direction:
        """Return the totals of one pump, as they are now."""
        return cls(counters.by_name(), counters.by_reason())

    @classmethod
    def total(cls, parts: Iterable[Direction]) -> Direction:
        """Return the sum, with every name and reason of the parts, zeros included."""
        counts, drops = Counter[str](), Counter[str]()
        for part in parts:
            counts.update(part.counts)
            drops.update(part.drops)
        return cls(counts, drops)


def by_direction(parts: Iterable[Mapping[str, Direction]]) -> dict[str, Direction]:
    """Return the totals of several planes by direction."""
    found: dict[str, list[Direction]] = {}
    for part in parts:
        for name, done in part.items():
            found.setdefault(name, []).append(done)
    return {name: Direction.total(several) for name, several in found.items()}


@dataclass(frozen=True, slots=True)
class PeerTraffic:
    """Frames to and from one VTEP since start, and the bytes of these inner frames."""

    encap_frames: int = 0
    encap_bytes: int = 0
    decap_frames: int = 0
    decap_bytes: int = 0

    def plus(self, other: PeerTraffic) -> PeerTraffic:
        """Return the sum of both."""
        return PeerTraffic(
            self.encap_frames + other.encap_frames,
            self.encap_bytes + other.encap_bytes,
            self.decap_frames + other.decap_frames,
            self.decap_bytes + other.decap_bytes,
        )


@dataclass(frozen=True, slots=True)
class SocketQueue:
    """One receiving socket: bytes waiting in it, its capacity in bytes, and datagrams lost there since it exists."""

    waiting: int
    room: int
    dropped: int
