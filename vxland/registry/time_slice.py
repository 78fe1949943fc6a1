"""Long work on the event loop, cut into short pieces with rests between: a store can always send faster than we read.

While a reader rests, TCP holds the sender up. So a store that floods a watch costs a third of a CPU, and other tasks
have their turn every few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

SLICE_S: Final = 0.01
_REST: Final = 2  # a rest is this many times as long as the work before it
_REST_MOST_S: Final = 0.5


class TimeSlice:
    """The work of one task. Call pause() between any two pieces of it."""

    def __init__(self) -> None:
        self._began = time.thread_time()

    def begin(self) -> None:
        """Work begins now: what other tasks did while this one waited for input is not its own."""
        self._began = time.thread_time()

    async def pause(self) -> None:
        """Rest if the work since the last rest took SLICE_S of the CPU."""
        worked = time.thread_time() - self._began
        if worked >= SLICE_S:
            await asyncio.sleep(min(_REST * worked, _REST_MOST_S))
            self._began = time.thread_time()
