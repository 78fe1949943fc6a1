"""The loop that keeps kernel state as wanted: applied after each change, checked every few seconds, restored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Resync:
    """Calls `apply` after each notify() and every `period_s` seconds, one call at a time. Used from one event loop.

    `apply` compares what exists with what is wanted and writes the difference. It logs its failures itself.
    """

    def __init__(self, apply: Callable[[], Awaitable[None]], period_s: float) -> None:
        self.period_s = period_s
        self.lock = asyncio.Lock()
        """Held during each call of `apply`; hold it to write the same state yourself."""
        self._apply = apply
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Have run() apply at once: something else is wanted."""
        self._changed.set()

    async def apply(self) -> None:
        """Apply now, after a call that is under way."""
        async with self.lock:
            self._changed.clear()
            await self._apply()

    async def run(self) -> None:
        """Apply after each change and every `period_s` seconds, until cancelled.

        A call under way then ends by itself: a program that was started cannot be recalled, and the next holder of
        `lock` must find its work done.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.period_s):
                    await self._changed.wait()
            await asyncio.shield(self.apply())
