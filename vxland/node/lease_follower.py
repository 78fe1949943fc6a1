"""Leases on their way from the registry into a node's state and its planes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import structlog

from vxland.model.lease import Delta, Snapshot
from vxland.node.state import NodeState

log = structlog.get_logger()


class LeaseFollower:
    """Applies the events of the registry to `state` and its planes, in their order."""

    def __init__(self, state: NodeState) -> None:
        self.known = asyncio.Event()
        """Set once the planes have the registry's first snapshot."""
        self._state = state

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        async with aclosing(self._state.registry.watch()) as events:
            async for event in events:
                await self.apply(event)
                self.known.set()

    async def apply(self, event: Snapshot | Delta) -> None:
        """Apply an event, with the sources that the settings name now. Log it if it changes any plane's table."""
        self._state.follow(event)
        sources = dict(self._state.settings.security.sources)
        changed = [await plane.follow(self._state.leases, sources) for plane in self._state.planes]
        if any(changed):
            log.info("leases_changed", leases=len(self._state.leases))
