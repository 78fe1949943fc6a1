"""Counts of the data path since start: by direction, by peer, and by receiving socket. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


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


SUMMED = ("frames", "octets", "answers", "wakeups", "reads", "batches", "superframes", "fragmented")


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
