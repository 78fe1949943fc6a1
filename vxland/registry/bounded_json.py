"""JSON from a store, bounded in bytes and in values. Pure.

An empty object takes 3 bytes of text, and more than 60 in memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from vxland.registry.errors import TooLargeError


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one answer, or of one line of a stream."""

    size: int
    """Bytes."""

    values: int
    """JSON values, counted by the commas and brackets around them."""


def parse_object(raw: bytes, bounds: Bounds) -> dict[str, Any]:
    """Return the one JSON object in `raw`; ValueError if it is something else, TooLargeError for too many values."""
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")  # or more: those inside strings count too
    if values > bounds.values:
        raise TooLargeError(f"an answer of {values} values: at most {bounds.values} are read")
    try:
        found = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  (a server's text is a value)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
