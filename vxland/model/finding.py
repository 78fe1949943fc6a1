"""Findings about the machine that a node runs on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from vxland.model.text import printable

Level: TypeAlias = Literal["error", "warning"]
"""`error`: vxland would not start, or this node would not forward its pods' packets."""

_MAX_LEN: Final = 4096  # as an error's


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that hurts: its subject in a word, what was found, what that does to pods, and the remedy."""

    level: Level
    subject: str
    found: str
    effect: str
    remedy: str

    def __str__(self) -> str:
        return printable(f"{self.subject}: {self.found}: {self.effect}; {self.remedy}", _MAX_LEN)
