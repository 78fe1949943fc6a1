"""JSON from a store, bounded in bytes and in values. Pure.

An empty object takes 3 bytes of text, and more than 60 in memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from vxland.registry.errors import TooLargeError

_TOO_DEEP: Final = "it is nested too deeply"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one answer, or of one line of a stream."""

    size: int
    """Bytes."""

    values: int
    """JSON values, counted by the commas and brackets around them."""


def parse_object(raw: bytes, bounds: Bounds) -> dict[str, Any]:
    """Return the one JSON object in `raw`; ValueError if it is something else, TooLargeError for too many values."""
    _check_values(raw.count(b",") + raw.count(b"[") + raw.count(b"{"), bounds)
    try:
        found = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise ValueError(_TOO_DEEP) from exc
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  (a server's text is a value)
    return found


def parse_value(text: str, at: int, bounds: Bounds) -> tuple[object, int]:
    """Return the JSON value that starts at `at`, and where it ends; ValueError, TooLargeError as parse_object().

    What follows the value counts towards the limit of values too.
    """
    _check_values(sum(text.count(sign, at) for sign in ",[{"), bounds)
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError as exc:
        raise ValueError(_TOO_DEEP) from exc


def _check_values(values: int, bounds: Bounds) -> None:
    """Raise TooLargeError for too many values; they are counted by signs, of which some are in strings."""
    if values > bounds.values:
        raise TooLargeError(f"an answer of {values} values: at most {bounds.values} are read")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
