"""Keeps a View as the store is: lists at a revision, then follows the changes from there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

import structlog

from vxland.control.etcd.answers import CompactedError, GatewayError
from vxland.control.etcd.store import Batch, Store
from vxland.control.etcd.trouble import LAST_S, Pace, Troubles
from vxland.control.etcd.view import View
from vxland.control.oddities import oddities

SETTLE_S: Final = 5.0  # after a change, before the leases are looked through: that takes time with thousands
_LOGGED = 20

log = structlog.get_logger()


class Follower:
    """Follows `store` into `view`. `touched` hears the key of each entry that changed, and None where all may have."""

    def __init__(
        self,
        store: Store,
        view: View,
        troubles: Troubles,
        pace: Pace,
        sleep: Callable[[float], Awaitable[None]],
        touched: Callable[[bytes | None], None],
    ) -> None:
        self._store = store
        self._view = view
        self._troubles = troubles
        self._pace = pace
        self._sleep = sleep
        self._touched = touched
        self._listed = False

    async def follow(self) -> None:
        """Never returns; what the store or the network does wrong is told to `troubles`, and tried again."""
        while True:
            began = self._view.clock()
            try:
                if not self._listed:
                    await self._list()
                await self._stream()
                reason = "the store ended the watch"
            except CompactedError as exc:
                reason, self._listed = str(exc), False
            except GatewayError as exc:
                reason = str(exc)
            self._troubles.note("watch", reason)
            if self._view.clock() - began > LAST_S:  # it worked until now
                self._pace.reset()
            await self._sleep(self._pace.next())

    async def tell_oddities(self) -> None:
        """Log what is odd about the leases, each oddity once."""
        told: dict[str, str] = {}
        while True:
            await self._view.unsettled.wait()
            await self._sleep(SETTLE_S)
            self._view.unsettled.clear()
            found = oddities(self._view.all_leases())
            news = [reason for what, reason in found.items() if told.get(what) != reason]
            for reason in news[:_LOGGED]:
                log.warning("leases_odd", reason=reason)
            if len(news) > _LOGGED:
                log.warning("leases_odd", more=len(news) - _LOGGED)
            told = found

    async def _list(self) -> None:
        keys: set[bytes] = set()
        async with aclosing(self._store.pages()) as pages:
            async for page in pages:
                for entry in page.entries:
                    self._view.put(entry.key, entry.value)
                    keys.add(entry.key)
                revision, cluster = page.revision, page.cluster
                await asyncio.sleep(0)  # a page takes some 20 ms to read
        self._view.listed(keys, revision, cluster)
        self._listed = True
        self._touched(None)

    async def _stream(self) -> None:
        async with aclosing(self._store.watch(self._view.revision + 1)) as batches:
            async for batch in batches:
                if batch.opened:
                    await self._recognize(batch)
                    self._troubles.note("watch", "")
                for entry in batch.put:
                    self._view.put(entry.key, entry.value)
                    self._touched(entry.key)
                for key in batch.deleted:
                    self._view.delete(key)
                    self._touched(key)
                self._view.revision = max(self._view.revision, batch.seen)

    async def _recognize(self, batch: Batch) -> None:
        """CompactedError where the store is another one, or was set back: it would stay silent about the difference."""
        view = self._view
        same = batch.cluster == view.cluster
        # The member may just be behind the others, so all of them are asked before everything is listed again.
        if not same or (batch.revision < view.revision and await self._store.revision() < view.revision):
            raise CompactedError(
                f"the store is at revision {batch.revision} and was at {view.revision}: it was replaced"
            )
