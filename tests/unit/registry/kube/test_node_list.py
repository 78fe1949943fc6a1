"""Lists of Nodes in pieces of any size."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.registry.bounded_json import Bounds
from vxland.registry.errors import TooLargeError
from vxland.registry.kube import node_list
from vxland.registry.kube.node_list import NodeListParser

BOUNDS = Bounds(1 << 20, 10_000)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
METADATA = {"resourceVersion": "7", "continue": "x"}


def parsed(text: bytes, size: int, bounds: Bounds = BOUNDS) -> tuple[list[object], dict[str, Any]]:
    """Return the items of an answer, which comes in pieces of `size` bytes, and what stands around them."""
    parser = NodeListParser(bounds)
    pieces = (parser.feed(text[at : at + size]) for at in range(0, len(text), size))
    items = [*chain.from_iterable(pieces), *parser.finish()]
    return items, parser.around


@given(st.lists(VALUES), st.integers(1, 50), st.booleans(), st.sampled_from([None, 1]))
def test_items_are_those_of_a_whole_parser(
    items: list[object], size: int, metadata_last: bool, indent: int | None
) -> None:
    """Pieces end anywhere: inside of numbers, strings, escapes and characters of several bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_list, "_LEAST", 1)
        answer: dict[str, object] = {"kind": "NodeList", "metadata": METADATA, "items": items, "apiVersion": "v1"}
        if metadata_last:
            answer["metadata"] = answer.pop("metadata")
        text = json.dumps(answer, ensure_ascii=False, indent=indent).encode(errors="surrogatepass")
        try:
            whole = json.loads(text)
        except UnicodeDecodeError:  # half of a surrogate pair
            return
        found, around = parsed(text, size)
        assert found == whole["items"]
        assert around == {**whole, "items": []}


def test_items_come_before_the_answer_ends() -> None:
    """A list of 100 MB is never held as a whole."""
    node = b'{"metadata": {"name": "node"}, "other": "%s"}' % (b"x" * 1000)
    parser, most = NodeListParser(BOUNDS), 0
    count = len(list(parser.feed(b'{"metadata": {}, "items": [')))
    for _ in range(1000):
        count += len(list(parser.feed(node + b",")))
        most = max(most, len(parser._text) + len(parser._received))
    assert count > 950
    assert most < 40_000
    assert count + len(list(parser.feed(b"]}"))) + len(list(parser.finish())) == 1000
    assert parser.around == {"metadata": {}, "items": []}


@pytest.mark.parametrize("end", range(1, 60))
def test_a_cut_answer_is_refused(end: int) -> None:
    """At every length."""
    text = b'{"metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":2}]}'
    with pytest.raises(ValueError, match=r"."):
        parsed(text[:end], 7)


def test_answers_without_items_are_one_object() -> None:
    """An error's Status; a server may also write null for none."""
    for text in (b'{"kind": "Status", "code": 500}', b'{"metadata": {}, "items": null}', b'{"items": []}'):
        assert parsed(text, 5) == ([], json.loads(text))


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        (b'{"items": [{"a": "%s"}]}' % (b"x" * 3000), Bounds(1000, 100)),
        (b'{"items": [[%s]]}' % (b"0," * 200), Bounds(1000, 100)),
        (b'{"items": [' + b'{"a": {}},' * 5 + b"{" * 500, Bounds(10_000, 100)),
        (b'{"x": "%s"}' % (b"x" * 3000), Bounds(1000, 100)),
        (b'{"items": [], "x": "%s"}' % (b"x" * 3000), Bounds(1000, 100)),
    ],
)
def test_too_much_is_refused(text: bytes, bounds: Bounds, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item, or what stands around them: in bytes and in values."""
    monkeypatch.setattr(node_list, "_LEAST", 100)
    with pytest.raises(TooLargeError):
        parsed(text, 50, bounds)


def test_nesting_and_constants_are_refused() -> None:
    """As in other answers."""
    for text in (b'{"items": [' + b"[" * 9000, b'{"items": [NaN]}', b'{"items": [1 2 x]}'):
        with pytest.raises(ValueError, match=r"."):
            parsed(text, 1000)
