"""Long work in steps: a generator that yields where it may rest. Its `return` value is the result. Pure."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


def at_once(work: Generator[None, None, T]) -> T:
    """Run `work` to its end without a rest and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]  # StopIteration has no type of its value
