"""How late the event loop comes: a small task that asks to be woken, and sees when it is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

PERIOD_S = 0.5
STUCK_S = 1.0
"""Later than this, and the node is not ready."""

WINDOW_S = 60.0
"""How long a delay is remembered: longer than most scrape intervals, so that every one of several readers sees it."""


class LoopLag:
    """Measures while run() runs; any thread may read, also while the loop is stuck. `clock`, `sleep`: for tests."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._due = float("inf")
        self._seen: deque[tuple[float, float]] = deque(maxlen=int(WINDOW_S / PERIOD_S))

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due = self._clock() + PERIOD_S
            await self._sleep(PERIOD_S)
            self._seen.append((self._clock(), self.now_s))

    @property
    def now_s(self) -> float:
        """How late the loop is at this moment."""
        return max(self._clock() - self._due, 0.0)

    @property
    def problem(self) -> str:
        """That the loop is stuck; empty while it is not."""
        late_s = self.now_s
        return f"the event loop has been stuck for {late_s:.0f} s" if late_s > STUCK_S else ""

    @property
    def worst_s(self) -> float:
        """The longest delay of the last WINDOW_S."""
        since = self._clock() - WINDOW_S
        return max([self.now_s, *(late for at, late in list(self._seen) if at >= since)])
