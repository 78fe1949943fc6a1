"""What the daemon shows of itself at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Direction:
    """What one direction has done since start; `octets` counts inner frames, `drops` by reason."""

    frames: int
    octets: int
    drops: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon shows at one moment; `not_ready` is the reason why no frames can move yet, or empty."""

    directions: Mapping[str, Direction]
    leases: int
    not_ready: str
