"""Retries of calls to a store, and the log and health entries for what fails meanwhile.

Several operations are retried at once, each under its own name, so that the success of one does not hide that another
still fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Final, TypeVar

import structlog

from vxland.model.backoff import Backoff
from vxland.model.log_quota import LogQuota
from vxland.registry.errors import StoreError, guarded

LAST_S: Final = 5.0
"""The longest pause between two tries, in a small cluster."""

ARRIVALS: Final = 500
"""Nodes a second that return to a store after it has failed for all of them."""

_SPREAD_S = 30.0  # in which they return at the most, however many they are

_REASONS = 50  # logged for each operation: the texts of several servers take turns
_JITTER = SystemRandom().random

T = TypeVar("T")
log = structlog.get_logger()


class Retrier:
    """Operations that fail now, by name. `sleep` and `jitter` are for tests."""

    def __init__(
        self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, jitter: Callable[[], float] = _JITTER
    ) -> None:
        self._sleep = sleep
        self._jitter = jitter
        self._reasons: dict[str, str] = {}
        self._logged: dict[str, set[str]] = {}
        self._since = 0.0
        self._quota = LogQuota("registry problems")

    @property
    def error(self) -> tuple[str, float]:
        """The failing operations with their reasons, and since when one fails (monotonic); ("", 0.0) if none."""
        names_by_reason: dict[str, list[str]] = {}
        for name, reason in self._reasons.items():
            names_by_reason.setdefault(reason, []).append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in names_by_reason.items()), self._since

    def note(self, what: str, reason: str) -> None:
        """Record why the operation `what` fails now; an empty reason means that it succeeds."""
        if reason:
            self._since = self._since if self._reasons else time.monotonic()
            self._reasons[what] = reason
            logged = self._logged.setdefault(what, set())
            if reason not in logged and len(logged) < _REASONS and self._quota.allows():
                logged.add(reason)
                log.warning("registry_trouble", what=what, reason=reason)
        elif what in self._reasons:
            logged = self._logged.pop(what)
            del self._reasons[what]
            self._since = self._since if self._reasons else 0.0
            if logged and self._quota.allows():
                log.info("registry_recovered", what=what)

    def backoff(self) -> Backoff:
        """Return the pauses for one operation: 0.1 s, doubling to LAST_S."""
        return Backoff(self._jitter, last_s=LAST_S)

    async def pause(self, backoff: Backoff, least_s: float = 0.0) -> None:
        """Sleep before the next try, `least_s` seconds or more."""
        await self._sleep(max(backoff.next_s(), least_s))

    def turn_s(self, nodes: int) -> float:
        """Return the seconds until this node's turn, at random, if all `nodes` return to the store at ARRIVALS."""
        return self._jitter() * min(nodes / ARRIVALS, _SPREAD_S)

    async def take_turn(self, nodes: int) -> None:
        """Wait for this node's turn."""
        if turn_s := self.turn_s(nodes):
            await self._sleep(turn_s)

    async def persist(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `call`, which is repeated as long as it raises StoreError."""
        backoff = self.backoff()
        while True:
            try:
                with guarded():
                    result = await call()
            except StoreError as exc:
                self.note(what, str(exc))
                await self.pause(backoff, exc.retry_after_s)
            else:
                self.note(what, "")
                return result
