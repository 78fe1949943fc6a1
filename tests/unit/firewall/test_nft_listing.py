"""Listings of `nft -j` in the forms of several versions, and in forms that no version has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vxland.firewall.nft_listing import NftTable, parse_listing, shape_of, table_of

# As nft 1.0.6 lists it
TABLE: list[dict[str, Any]] = [
    {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
    {"table": {"family": "ip", "name": "t", "handle": 2}},
    {"counter": {"family": "ip", "name": "foreign", "table": "t", "handle": 2, "packets": 14, "bytes": 99}},
    {
        "set": {
            "family": "ip",
            "name": "hosts",
            "table": "t",
            "type": "ipv4_addr",
            "handle": 3,
            "elem": ["192.0.2.1", {"elem": {"val": "192.0.2.2", "timeout": 3600, "comment": "x"}}],
        }
    },
    {
        "set": {
            "family": "ip",
            "name": "prefixes",
            "table": "t",
            "type": "ipv4_addr",
            "handle": 4,
            "flags": ["interval"],
            "elem": [{"prefix": {"addr": "198.51.100.0", "len": 24}}, {"range": ["10.2.0.0", "10.2.0.5"]}],
        }
    },
    {"chain": {"family": "ip", "table": "t", "name": "input", "handle": 1, "type": "filter", "hook": "input"}},
    {"rule": {"family": "ip", "table": "t", "chain": "input", "handle": 6, "expr": [{"counter": "foreign"}]}},
    {"rule": {"family": "ip", "table": "t", "chain": "input", "handle": 7, "expr": [{"drop": None}]}},
]


def listed(objects: list[dict[str, Any]]) -> NftTable:
    """Return the table of a listing."""
    found = table_of(parse_listing(json.dumps({"nftables": objects})))
    assert found is not None
    return found


def changed(number: int, **fields: object) -> list[dict[str, Any]]:
    """Return TABLE with other fields in one object."""
    ((kind, body),) = TABLE[number].items()
    return [*TABLE[:number], {kind: {**body, **fields}}, *TABLE[number + 1 :]]


def test_a_table_as_nft_lists_it() -> None:
    """Elements have the form of a script; counts are those of named counters."""
    found = listed(TABLE)
    assert found.elements == {
        "hosts": {"192.0.2.1", "192.0.2.2"},
        "prefixes": {"198.51.100.0/24", "10.2.0.0-10.2.0.5"},
    }
    assert found.packets == {"foreign": 14}
    assert len(found.shape) == len(TABLE) - 1


@pytest.mark.parametrize(
    "other",
    [
        changed(0, version="1.1.3"),
        changed(1, handle=9, comment="kept since nft 0.9.7"),
        changed(2, packets=15, bytes=0),
        changed(3, elem=[]),
        changed(4, flags="interval"),
        changed(5, handle=12, comment="x"),
        [*TABLE[:2], *reversed(TABLE[2:6]), *TABLE[6:]],
    ],
)
def test_versions_and_counts_make_no_difference(other: list[dict[str, Any]]) -> None:
    """Handles, counts, comments of tables and chains, and lists of one flag vary without any change of the rules."""
    assert listed(other).shape == listed(TABLE).shape


@pytest.mark.parametrize(
    "other",
    [
        changed(4, flags=["interval", "timeout"]),
        changed(5, policy="drop"),
        changed(6, expr=[{"accept": None}]),
        changed(7, comment="a rule of another program"),
        [*TABLE[:6], TABLE[7], TABLE[6]],
        TABLE[:-1],
    ],
)
def test_a_change_of_rules_makes_a_difference(other: list[dict[str, Any]]) -> None:
    """Rules of a chain count in their order, with everything in them."""
    assert listed(other).shape != listed(TABLE).shape


@pytest.mark.parametrize(
    "odd",
    [
        {"synproxy of the future": {"name": 7}},
        {"rule": {"chain": ["a"], "expr": "?", "handle": None}},
        {"rule": "word"},
        {"set": {"name": None, "elem": "192.0.2.1"}},
        {"set": {"name": "hosts", "elem": [1, None, [["a"]], {"prefix": 1}, {"range": ["a"]}, {"concat": ["a", "b"]}]}},
        {"counter": {"name": "foreign", "packets": "many"}},
        {},
    ],
)
def test_unknown_objects_and_expressions_are_no_error(odd: dict[str, Any]) -> None:
    """They are compared like the others; elements of an unknown form are empty."""
    found = listed([*TABLE, odd])
    assert found.elements["hosts"] <= {"192.0.2.1", "192.0.2.2", ""}
    assert found.packets["foreign"] in {0, 14}


@pytest.mark.parametrize(
    "text", ["", "table ip t {", "[]", "7", '{"nftables": 7}', '{"nftables": ' + "[" * 100_000, "[" * 100_000]
)
def test_a_text_that_is_no_listing(text: str) -> None:
    """It is refused with one kind of error, however deep it is nested."""
    with pytest.raises(ValueError, match=r".+"):
        parse_listing(text)


def test_a_listing_without_a_table() -> None:
    """Only the version was listed."""
    assert table_of(parse_listing(json.dumps({"nftables": TABLE[:1]}))) is None
    assert shape_of([]) == ()
