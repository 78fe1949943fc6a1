"""Long work on the event loop, in short slices with rests between: a store can always send faster than we read.

While a reader rests, TCP blocks the sender. So a store that floods a watch costs a third of a CPU, and other tasks run
every few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

SLICE_S: Final = 0.003
_REST: Final = 2  # a rest is this many times as long as the work before it
_REST_MOST_S: Final = 0.5


class TimeSlice:
    """Slices the work of one task. Call pause() between any two steps."""

    def __init__(self) -> None:
        self._began = time.thread_time()

    def begin(self) -> None:
        """Start a slice: the work of other tasks, while this one waited for input, does not count."""
        self._began = time.thread_time()

    async def pause(self) -> None:
        """Rest if this slice has used SLICE_S of CPU time."""
        worked = time.thread_time() - self._began
        if worked >= SLICE_S:
            await asyncio.sleep(min(_REST * worked, _REST_MOST_S))
            self._began = time.thread_time()
