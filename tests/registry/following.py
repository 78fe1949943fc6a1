"""Readers of a registry, and waits for their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Self

from tests.patience import PATIENCE_S
from vxland.model.lease import Delta, Lease, Snapshot, Subnet
from vxland.registry.protocol import Registry


class Follower:
    """Keeps the leases of a watch, as the daemon does."""

    def __init__(self, events: AsyncGenerator[Snapshot | Delta]) -> None:
        self._events = events
        self.leases: dict[Subnet, Lease] = {}
        self.ever_seen: set[Subnet] = set()

    async def next(self) -> Snapshot | Delta:
        """Return the next event, after applying it to `leases`."""
        event = await anext(self._events)
        if isinstance(event, Snapshot):
            self.leases = {lease.subnet: lease for lease in event.leases}
        else:
            self.leases = {subnet: lease for subnet, lease in self.leases.items() if subnet not in event.removed}
            self.leases |= {lease.subnet: lease for lease in event.added}
        self.ever_seen |= self.leases.keys()
        return event

    async def until(self, *leases: Lease) -> None:
        """Follow until exactly `leases` are known."""
        async with asyncio.timeout(PATIENCE_S):
            while set(self.leases.values()) != set(leases):
                await self.next()


class Reading:
    """A follower that reads in the background, as the daemon does; an async context manager that raises its errors."""

    def __init__(self, registry: Registry) -> None:
        self._events = registry.watch()
        self._follower = Follower(self._events)

    async def __aenter__(self) -> Self:
        """Wait for the first event."""
        await self._follower.next()
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            pass
        finally:
            await self._events.aclose()

    @property
    def ever_seen(self) -> set[Subnet]:
        """Every subnet that an event has added."""
        return self._follower.ever_seen

    def knows(self, *leases: Lease) -> bool:
        """Return whether it has exactly these leases."""
        return set(self._follower.leases.values()) == set(leases)

    async def until(self, *leases: Lease) -> None:
        """Wait until it has exactly these leases."""
        await until(lambda: self.knows(*leases))

    async def _read(self) -> None:
        while True:
            await self._follower.next()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition without an event, such as a registry's health."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  (what is waited for may be in another process)
            await asyncio.sleep(0.01)
