"""Delay of the event loop: a task sleeps, and measures how late it wakes up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

PERIOD_S = 0.5
STUCK_S = 1.0
"""Delay beyond which the node is not ready."""

WINDOW_S = 60.0
"""Time for which a delay is kept: longer than most scrape intervals, so that all readers see it."""


class LoopLag:
    """Measures while run() runs; any thread may read, even if the loop is stuck. `clock` and `sleep` are for tests."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._due = float("inf")
        self._delays: deque[tuple[float, float]] = deque(maxlen=int(WINDOW_S / PERIOD_S))

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due = self._clock() + PERIOD_S
            await self._sleep(PERIOD_S)
            self._delays.append((self._clock(), self.now_s))

    @property
    def now_s(self) -> float:
        """The delay at this moment, in seconds."""
        return max(self._clock() - self._due, 0.0)

    @property
    def problem(self) -> str:
        """The reason for not being ready; empty unless the loop is stuck."""
        late_s = self.now_s
        return f"the event loop has been stuck for {late_s:.0f} s" if late_s > STUCK_S else ""

    @property
    def worst_s(self) -> float:
        """The longest delay of the last WINDOW_S, in seconds."""
        since = self._clock() - WINDOW_S
        return max([self.now_s, *(late for at, late in list(self._delays) if at >= since)])
