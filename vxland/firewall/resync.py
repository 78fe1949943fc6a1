"""The loop that keeps kernel state as wanted: applied after each change, checked every few seconds, restored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import SystemRandom
from typing import Final, TypeAlias

Step: TypeAlias = Callable[[], Awaitable[None]]

PAUSE_S: Final = 0.2
"""Seconds between two steps at least: the changes of a storm join, as each step starts programs."""

_JITTER: Final = SystemRandom().random


class Resync:
    """Calls `apply` every `period_s` seconds, and `follow` after each notify(), one at a time, from one event loop.

    `apply` compares what exists with what is wanted and writes the difference. `follow` writes what has changed since
    the last call; without it, `apply` follows too. Both log their failures themselves. Periods are shortened by up to
    a fifth, so that the checks of many nodes on one machine do not come together; `jitter` is for tests.
    """

    def __init__(
        self, apply: Step, period_s: float, follow: Step | None = None, jitter: Callable[[], float] = _JITTER
    ) -> None:
        self.period_s = period_s
        self.lock = asyncio.Lock()
        """Held during each call; hold it to write the same state yourself."""
        self._apply = apply
        self._follow = follow or apply
        self._jitter = jitter
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Have run() follow at once: something else is wanted."""
        self._changed.set()

    async def apply(self) -> None:
        """Apply now, after a call that is under way."""
        await self._step(self._apply)

    async def run(self) -> None:
        """Follow each change and apply every `period_s` seconds, until cancelled.

        A call under way then ends by itself: a program that was started cannot be recalled, and the next holder of
        `lock` must find its work done.
        """
        now = asyncio.get_running_loop().time
        due = self._next(now())
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            if now() < due:
                await asyncio.shield(self._step(self._follow))
            else:  # also while changes never end
                await asyncio.shield(self._step(self._apply))
                due = self._next(now())
            await asyncio.sleep(PAUSE_S)

    async def _step(self, step: Step) -> None:
        async with self.lock:
            self._changed.clear()
            await step()

    def _next(self, now_s: float) -> float:
        return now_s + self.period_s * (1 - self._jitter() / 5)
