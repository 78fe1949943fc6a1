"""Leases on their way from the registry into a node's state and its planes."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import aclosing
from dataclasses import replace

import structlog

from vxland.model.lease import Address, Change, Delta, Lease, Snapshot, Subnet
from vxland.model.slices import in_slices
from vxland.node.state import NodeState

log = structlog.get_logger()


class LeaseFollower:
    """Applies the events of the registry to `state` and its planes, in their order.

    The planes get each lease with the sources that `security.sources` adds to it.
    """

    def __init__(self, state: NodeState) -> None:
        self.known = asyncio.Event()
        """Set once the planes have the registry's first snapshot."""
        self._state = state
        self._applying = asyncio.Lock()
        self._sources: Mapping[Address, tuple[Subnet, ...]] = {}  # as the planes have them

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        async with aclosing(self._state.registry.watch()) as events:
            async for event in events:
                await self.apply(event)
                self.known.set()

    async def apply(self, event: Snapshot | Delta) -> None:
        """Apply an event, with the sources that the settings name now. Log it if it changes any plane's table."""
        async with self._applying:
            with_new_sources = await in_slices(self._with_new_sources())
            changed = await self._follow(with_new_sources) if with_new_sources else False
            changed |= await self._follow(await in_slices(self._admitted(await self._state.follow(event))))
            if changed:
                log.info("leases_changed", leases=len(self._state.leases))

    async def _follow(self, change: Change) -> bool:
        """Pass a change on; return whether any plane has a part in it."""
        return any([await plane.follow(change) for plane in self._state.planes])

    def _with_new_sources(self) -> Generator[None, None, Change]:
        """Take the settings' sources, and return the leases that had others before."""
        before, now = self._sources, dict(self._state.settings.security.sources)
        self._sources = now
        if now == before:
            return Change()
        vteps = {vtep for vtep in before.keys() | now.keys() if before.get(vtep) != now.get(vtep)}
        changed = []
        for lease in self._state.leases:
            if lease.vtep.address in vteps:
                changed.append(lease)
            yield
        return Change(
            frozenset(_with_sources(lease, before) for lease in changed),
            frozenset(_with_sources(lease, now) for lease in changed),
        )

    def _admitted(self, change: Change) -> Generator[None, None, Change]:
        """Return the change with the settings' sources."""
        if not self._sources:
            return change
        removed, added = set[Lease](), set[Lease]()
        for leases, found in ((change.removed, removed), (change.added, added)):
            for lease in leases:
                found.add(_with_sources(lease, self._sources))
                yield
        return Change(frozenset(removed), frozenset(added))


def _with_sources(lease: Lease, sources: Mapping[Address, tuple[Subnet, ...]]) -> Lease:
    further = sources.get(lease.vtep.address)
    return replace(lease, sources=lease.sources + further) if further else lease
