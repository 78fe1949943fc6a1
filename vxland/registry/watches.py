"""The running watches of one registry: each has a View, the loops that keep it true, and a reader that takes its time.

What happens while the reader works is told in one event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

from vxland.model.lease import Address, Delta, Snapshot
from vxland.registry.lease_conflicts import tell_oddities
from vxland.registry.view import Own, View

_REST = 2  # changes wait this many times as long as the last ones took: a storm costs a third of a CPU at most
_REST_MOST_S = 2.0  # with as many entries as there may be, finding out what changed takes a second


class Watches:
    """The watches of a registry, and what of the store is this node's own. `sleep` is for tests."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._views: list[View] = []
        self._own = Own()

    @property
    def quarantined(self) -> dict[str, str]:
        """The entries that are not understood, and why."""
        return {name: reason for view in self._views for name, reason in view.quarantined.items()}

    def hide(self, own: Own) -> None:
        """From now on these entries and leases belong to this node."""
        self._take(replace(own, addresses=self._own.addresses))

    def avoid(self, addresses: frozenset[Address]) -> None:
        """From now on no other node can have these addresses."""
        self._take(replace(self._own, addresses=addresses))

    def _take(self, own: Own) -> None:
        self._own = own
        for view in self._views:
            view.hide(own)

    async def run(
        self, loops: Callable[[View], Iterable[Coroutine[Any, Any, None]]]
    ) -> AsyncGenerator[Snapshot | Delta]:
        """What a new View has to tell while `loops` keep it; their errors are raised here, and none outlives it."""
        view = View()
        view.hide(self._own)
        self._views.append(view)
        oddities = tell_oddities(view.unsettled, lambda: view.leases, self._sleep)
        tasks = [asyncio.create_task(loop) for loop in (*loops(view), oddities)]
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
                event = view.take()
                if event is not None:
                    yield event
                    await asyncio.sleep(min(_REST * (time.monotonic() - began), _REST_MOST_S))
        finally:
            self._views.remove(view)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
