"""Tables and rules as `nft -j` lists them: comparable across nft versions, without handles and counts. Pure.

Format: libnftables-json(5). nft versions add fields and expressions, and print a single flag as a word or as a list
of one. Everything that is not known here is kept as it is and compared with the rest; nothing of it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

NftObject: TypeAlias = tuple[str, Mapping[str, Any]]
"""Kind and body of one object: `("chain", {"name": "forward", ...})`."""

Shape: TypeAlias = tuple[str, ...]
"""Objects of a table as canonical JSON: rules in order within each chain, everything else sorted."""

_VOLATILE: Final = frozenset({"handle", "index", "position", "elem", "packets", "bytes"})
_COMMENTED: Final = frozenset({"table", "chain"})  # nft keeps these comments since 0.9.7, lists them as JSON later


@dataclass(frozen=True, slots=True)
class NftTable:
    """One table that exists."""

    shape: Shape
    elements: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By set, each element as a script writes it; an element of an unknown form is ""."""
    packets: Mapping[str, int] = field(default_factory=dict)
    """Counts of the named counters."""


def parse_listing(text: str) -> list[NftObject]:
    """Return the objects of a listing. ValueError if the text is not one."""
    try:
        listed = json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    found = listed.get("nftables") if isinstance(listed, dict) else None
    if not isinstance(found, list):
        raise ValueError('no list named "nftables"')  # noqa: TRY004  (the text is wrong, not a caller)
    objects = (item for each in found if isinstance(each, dict) for item in each.items())
    return [(kind, body) for kind, body in objects if isinstance(body, dict)]


def table_of(objects: Iterable[NftObject]) -> NftTable | None:
    """Return the table that a listing of it holds; None if there is none in it."""
    kept = [(kind, body) for kind, body in objects if kind != "metainfo"]
    if not any(kind == "table" for kind, _ in kept):
        return None
    return NftTable(
        shape_of(kept),
        {
            str(body.get("name")): frozenset(map(_element, _listed(body.get("elem"))))
            for kind, body in kept
            if kind == "set"
        },
        {str(body.get("name")): _count(body.get("packets")) for kind, body in kept if kind == "counter"},
    )


def shape_of(objects: Iterable[NftObject]) -> Shape:
    """Return the comparable form of objects, listed or built."""
    found = sorted(((kind, _place(kind, body)), _canonical(kind, body)) for kind, body in objects if kind != "rule")
    rules = sorted(
        (((kind, _place(kind, body)), _canonical(kind, body)) for kind, body in objects if kind == "rule"),
        key=lambda each: each[0],  # the sort is stable: rules of a chain keep their order
    )
    return tuple(text for _, text in (*found, *rules))


def _place(kind: str, body: Mapping[str, Any]) -> str:
    return str(body.get("chain" if kind == "rule" else "name"))


def _canonical(kind: str, body: Mapping[str, Any]) -> str:
    kept = {
        key: value
        for key, value in body.items()
        if key not in _VOLATILE and not (key == "comment" and kind in _COMMENTED)
    }
    return json.dumps([kind, _plain(kept)], sort_keys=True)


def _plain(value: Any) -> Any:  # noqa: ANN401  (any value of JSON)
    """Write a single flag as a word; nft 1.0 lists some of them as lists of one."""
    if isinstance(value, dict):
        return {key: _flag(_plain(each)) if key == "flags" else _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _flag(flags: Any) -> Any:  # noqa: ANN401  (any value of JSON)
    return flags[0] if isinstance(flags, list) and len(flags) == 1 else flags


def _element(value: object) -> str:
    """An element of a set as a script writes it; "" for a form that is not known here."""
    if isinstance(value, dict):
        match value:
            case {"elem": {"val": inner}}:  # with a timeout, a comment or a counter
                return _element(inner)
            case {"prefix": {"addr": str(address), "len": int(length)}}:
                return f"{address}/{length}"
            case {"range": [str(first), str(last)]}:
                return f"{first}-{last}"
        return ""
    return value if isinstance(value, str) else ""


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
