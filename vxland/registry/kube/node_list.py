"""The answer to a list of Nodes, parsed while it arrives: from the server's cache, 5,000 Nodes are one of 100 MB.

Each item is decoded by itself and not kept, so the answer may have any length. Bounded are one item and what stands
around the items. kube-apiserver writes metadata before the items; any order is accepted. Pure.
"""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import Any, Final

from vxland.registry.bounded_json import Bounds, parse_object, parse_value
from vxland.registry.errors import TooLargeError

_ITEMS: Final = re.compile(r'"items"\s*:\s*\[')
_BETWEEN: Final = re.compile(r"[\s,]*")
_LEAST: Final = 16 << 10  # bytes that are parsed together, however small the pieces are that arrive


class NodeListParser:
    """Parser of one answer: feed() all of it, then finish(). ValueError: it is no such list; TooLargeError."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._decode = getincrementaldecoder("utf-8")().decode
        self._received = bytearray()
        self._text = ""  # decoded, and not parsed
        self._around = ""  # everything but the items
        self._in_items = False
        self._wanted = _LEAST  # bytes to receive before the next attempt

    def feed(self, piece: bytes) -> Iterator[object]:
        """Yield items that are complete now."""
        self._received += piece
        if len(self._received) >= self._wanted:
            yield from self._parse(final=False)

    def finish(self) -> Iterator[object]:
        """Yield the last items, at the end of the answer."""
        yield from self._parse(final=True)

    @property
    def around(self) -> dict[str, Any]:
        """The object without its items, after finish()."""
        return parse_object((self._around + self._text).encode(), self._bounds)

    def _parse(self, *, final: bool) -> Iterator[object]:
        self._text += self._decode(self._received, final)
        self._received.clear()
        if not self._around and (start := _ITEMS.search(self._text)):
            self._around, self._text = self._text[: start.end()], self._text[start.end() :]
            self._in_items = True
        at = _skip(self._text, 0)
        while self._in_items and at < len(self._text):
            if self._text[at] == "]":
                self._in_items = False
                break
            try:
                item, end = parse_value(self._text, at, self._bounds)
            except json.JSONDecodeError:
                if final:
                    raise
                break  # it may not be complete
            if end == len(self._text):  # a number may go on
                break
            yield item
            at = _skip(self._text, end)
        self._text = self._text[at:]
        if len(self._text) > self._bounds.size:
            raise TooLargeError(f"a part of an answer of more than {self._bounds.size} bytes")
        self._wanted = max(_LEAST, len(self._text))  # twice as much, or a long item would be parsed again and again


def _skip(text: str, at: int) -> int:
    """Return the place of the first character at or after `at` that is neither space nor comma."""
    found = _BETWEEN.match(text, at)
    return at if found is None else found.end()
