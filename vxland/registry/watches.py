"""The running watches of one registry. Each has a View, the loops that update it, and a reader.

A reader may be slow: changes that happen while it works reach it as one event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Final

import structlog

from vxland.model.lease import Address, Delta, Snapshot
from vxland.model.log_quota import LINES, LogQuota
from vxland.model.slices import in_slices
from vxland.registry.entries import Own
from vxland.registry.lease_conflicts import Claimed
from vxland.registry.view import View

SETTLE_S: Final = 5.0
"""Between a conflict and its report: a node that gets another address or MAC may be half-way."""

_REST = 2  # the next event waits this many times as long as the last one took: a third of a CPU at most
_REST_LEAST_S = 0.02  # ten of 500 changes a second are one event then, for half the CPU; a lone change never waits
_REST_MOST_S = 2.0  # a full store of MAX_ENTRIES takes a second to compare

log = structlog.get_logger()


class Watches:
    """The watches of a registry, and this node's own part of the store. `sleep` is for tests."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._views: list[View] = []
        self._own = Own()

    @property
    def quarantined(self) -> dict[str, str]:
        """The reason for each quarantined entry, by the entry's name."""
        return {name: reason for view in self._views for name, reason in view.quarantined.items()}

    def hide(self, own: Own) -> None:
        """Leave these entries and leases out of all events: they are this node's. `own.addresses` is ignored."""
        self._set_own(replace(own, addresses=self._own.addresses))

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Quarantine leases with these VTEP addresses, which no other node can have."""
        self._set_own(replace(self._own, addresses=addresses))

    def _set_own(self, own: Own) -> None:
        self._own = own
        for view in self._views:
            view.hide(own)

    async def run(
        self, loops: Callable[[View], Iterable[Coroutine[Any, Any, None]]]
    ) -> AsyncGenerator[Snapshot | Delta]:
        """Yield the events of a new View while `loops` update it. Their errors are raised here; none outlives this."""
        view = View()
        view.hide(self._own)
        self._views.append(view)
        tasks = [asyncio.create_task(loop) for loop in (*loops(view), log_conflicts(view, self._sleep))]
        for task in tasks:
            task.add_done_callback(lambda _: view.changed.set())
        try:
            while True:
                await view.changed.wait()
                view.changed.clear()
                for task in tasks:
                    if task.done():
                        task.result()
                began = time.monotonic()
                event = await in_slices(view.steps())
                if event is not None:
                    yield event
                    await asyncio.sleep(max(_REST_LEAST_S, min(_REST * (time.monotonic() - began), _REST_MOST_S)))
        finally:
            self._views.remove(view)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def log_conflicts(view: View, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Log each new conflict among the leases of `view`. Never returns."""
    logged: dict[Claimed, str] = {}
    quota = LogQuota("lease conflicts", LINES + 1)
    while True:
        await view.unsettled.wait()
        await sleep(SETTLE_S)
        view.unsettled.clear()
        found = await in_slices(view.conflicts.news())
        news = [reason for what, reason in found.items() if reason and logged.get(what) != reason]
        for reason in news[:LINES]:
            if quota.allows():
                log.warning("lease_conflict", reason=reason)
        if len(news) > LINES and quota.allows():
            log.warning("more_lease_conflicts", count=len(news) - LINES)
        for what, reason in found.items():
            if reason:
                logged[what] = reason
            else:
                logged.pop(what, None)
