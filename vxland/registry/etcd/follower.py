"""Keeps a View up to date with etcd: lists the entries at a revision, then watches the changes from there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

from vxland.registry.errors import StoreError, guarded
from vxland.registry.etcd import formats
from vxland.registry.etcd.answers import CompactedError, RefusedError, UnreachableError
from vxland.registry.etcd.store import Batch, Entry, Store
from vxland.registry.net_conf import NetConf
from vxland.registry.retry import LAST_S, Retrier
from vxland.registry.time_slice import TimeSlice
from vxland.registry.view import View


class EtcdFollower:
    """Follows `store` into `view`. `touched` is called with each changed key, and with None if all may have changed."""

    def __init__(
        self, store: Store, view: View, conf: NetConf, retrier: Retrier, touched: Callable[[bytes | None], None]
    ) -> None:
        self._store = store
        self._view = view
        self._conf = conf
        self._retrier = retrier
        self._touched = touched
        self._listed = False
        self._revision = 0  # up to which the view is complete
        self._cluster = 0

    async def follow(self) -> None:
        """Follow until cancelled. Errors of the store and the network go to `retrier`, and are retried."""
        backoff = self._retrier.backoff()
        while True:
            began = time.monotonic()
            try:
                with guarded():
                    if not self._listed:
                        await self._list()
                    await self._stream()
                reason = "the store ended the watch"
            except (UnreachableError, RefusedError) as exc:
                reason = str(exc)
            except StoreError as exc:  # the revision is lost, or the changes cannot be read
                reason, self._listed = str(exc), False
            self._retrier.note("peers", reason)
            if time.monotonic() - began > LAST_S:  # it worked until now
                backoff.reset()
            await self._retrier.pause(backoff, self._retrier.turn_s(self._view.size))

    async def _list(self) -> None:
        names: set[str] = set()
        turns = TimeSlice()
        async with aclosing(self._store.pages()) as pages:
            async for page in pages:
                turns.begin()
                for entry in page.entries:
                    names.add(self._put(entry))
                    await turns.pause()
                self._revision, self._cluster = page.revision, page.cluster
        self._view.complete(names)
        self._listed = True
        self._touched(None)

    async def _stream(self) -> None:
        turns = TimeSlice()
        async with aclosing(self._store.watch(self._revision + 1)) as batches:
            async for batch in batches:
                if batch.opened:
                    await self._recognize(batch)
                    self._retrier.note("peers", "")
                turns.begin()
                for entry in batch.put:
                    self._put(entry)
                    self._touched(entry.key)
                    await turns.pause()
                for key in batch.deleted:
                    self._view.remove(self._store.name(key))
                    self._touched(key)
                    await turns.pause()
                self._revision = max(self._revision, batch.seen)

    def _put(self, entry: Entry) -> str:
        """Put an entry into the view, and return its name."""
        name = self._store.name(entry.key)
        reading = formats.read(name, entry.value, self._conf).reading
        self._view.put(name, replace(reading, created=f"{entry.created:020}"))
        return name

    async def _recognize(self, batch: Batch) -> None:
        """Raise CompactedError if the store was replaced or restored: its watch would not report the difference."""
        same = batch.cluster == self._cluster
        # The member may just be behind the others, so all of them are asked before everything is listed again.
        if not same or (batch.revision < self._revision and await self._store.revision() < self._revision):
            raise CompactedError(
                f"the store is at revision {batch.revision} and was at {self._revision}: it was replaced"
            )
