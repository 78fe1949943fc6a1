"""What the daemon shows of itself at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vxland.model import RegistryHealth


@dataclass(frozen=True, slots=True)
class Direction:
    """What one direction has done since start; `octets` counts inner frames, `drops` by reason."""

    frames: int
    octets: int
    drops: Mapping[str, int]

    @classmethod
    def joined(cls, planes: Iterable[Mapping[str, Direction]]) -> dict[str, Direction]:
        """By direction, what several planes have done together."""
        found: dict[str, Direction] = {}
        for directions in planes:
            for name, done in directions.items():
                before = found.get(name, cls(0, 0, {}))
                drops = Counter(before.drops)
                drops.update(done.drops)
                found[name] = cls(before.frames + done.frames, before.octets + done.octets, drops)
        return found


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon shows at one moment; `not_ready` is the reason why no frames can move yet, or empty."""

    directions: Mapping[str, Direction]
    leases: int
    not_ready: str
    registry: RegistryHealth = field(default_factory=RegistryHealth)
