"""Long work on the event loop, in slices, so that other tasks run every few milliseconds.

The work is a generator that yields where it may rest, at least once a millisecond. Its `return` value is the result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Final, TypeVar

SLICE_S: Final = 0.002
"""Time of one slice; the loop is held for no longer than this and one step of the work."""

T = TypeVar("T")


async def in_slices(work: Generator[None, None, T]) -> T:
    """Run `work` to its end and return its result; other tasks run between two slices."""
    began = time.monotonic()
    while True:
        try:
            next(work)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]  # StopIteration has no type of its value
        if time.monotonic() - began >= SLICE_S:
            await asyncio.sleep(0)
            began = time.monotonic()
