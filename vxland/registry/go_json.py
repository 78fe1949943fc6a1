"""JSON by the rules of Go's encoding/json for structs, with which flannel reads its configuration. Pure.

Names match in any case, unknown names are ignored, the last value of a repeated name counts, null is the same as no
value, and a value of the wrong type is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

from vxland.model.errors import ConfigError

MAX_UINT: Final = (1 << 64) - 1
MAX_TEXT: Final = 64 << 10
"""Characters of a text; a node's entry has 300."""

_LONG = 80  # characters of a value that an error repeats


class GoObject(list[tuple[str, Any]]):
    """A JSON object's names and values in their order, repeated names included."""


def read_object(text: str, source: str, remedy: str) -> GoObject:
    """Parse a text that is one JSON object or null; ConfigError of `source` with `remedy` if it is something else."""
    if len(text) > MAX_TEXT:
        raise ConfigError(source, f"{len(text)} characters", f"write at most {MAX_TEXT}")
    try:
        raw = json.loads(
            text,
            object_pairs_hook=GoObject,
            parse_int=lambda digits: int(digits) if len(digits) <= 20 else float(digits),  # 20 hold 64 bits
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno}, column {exc.colno}: {exc.msg}"
        raise ConfigError(source, place, "correct the JSON there") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(source, str(exc)[:_LONG], remedy) from exc
    if raw is None:
        return GoObject()
    if not isinstance(raw, GoObject):
        raise ConfigError(source, short(raw), remedy)
    return raw


def write(value: object) -> str:
    """Return JSON as Go's json.Marshal writes it: without blanks."""
    return json.dumps(value, separators=(",", ":"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


Reader: TypeAlias = Callable[[Any], Any]
"""Converts a JSON value; the text of its ValueError is a remedy."""


def members(pairs: GoObject, at: str, known: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the values of known names; ConfigError of `at` and the name with the text of a reader's ValueError."""
    by_name = {name.casefold(): name for name in known}
    found = {}
    for key, raw in pairs:
        name = by_name.get(key.casefold())
        if name is None or raw is None:
            continue
        try:
            found[name] = known[name](raw)
        except ValueError as exc:
            raise ConfigError(f"{at}{name}", short(raw), str(exc)) from exc
    return found


def boolean(raw: object) -> bool:
    """Read true or false."""
    if isinstance(raw, bool):
        return raw
    raise ValueError("write true or false, without quotes")


def integer(low: int, high: int) -> Reader:
    """Return a Reader of whole numbers from `low` to `high`."""

    def read(raw: object) -> int:
        if type(raw) is not int or not low <= raw <= high:
            raise ValueError(f"write a whole number from {low} to {high}, without quotes")
        return raw

    return read


def string(raw: object) -> str:
    """Read text."""
    if isinstance(raw, str):
        return raw
    raise ValueError("write text, in quotes")


def short(raw: object) -> object:
    """Return a value for an error message: short, and on one line."""
    if isinstance(raw, str):
        return raw if len(raw) <= _LONG else f"{raw[:_LONG]}..."
    if isinstance(raw, Sequence):
        return "{...}" if isinstance(raw, GoObject) else "[...]"
    return raw
