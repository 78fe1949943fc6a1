"""A Registry that caches another one: if the store does not answer at start, the node begins with its last state.

    store answers   every call goes to the registry behind; its state is written to the file, at most once a minute
    store fails     calls before watch() answer from the cache, watch() yields the cached peers, then makes the calls
                    that were put off, and goes on with the events of the registry behind

If the network's configuration or this node's subnets have changed by then, the node ends: the next start finds the
store, and takes the new values. A running node needs none of this, because it has its leases in its tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import structlog

from vxland.config import Settings
from vxland.model.errors import LeaseLostError, StartError
from vxland.model.lease import Address, Delta, Lease, RegistryHealth, Snapshot, Vtep
from vxland.model.slices import in_slices
from vxland.registry import cache_file
from vxland.registry.cache_file import LIFE_S, CachedState, CacheFileError
from vxland.registry.held_leases import HeldLeases
from vxland.registry.net_conf import NetConf
from vxland.registry.protocol import Recall, Registry

PATIENCE_S: Final = 5.0
"""For a store at start; a dead member of etcd takes 2 s of it."""

FIRST_LOOK_S: Final = 1.0  # between looks for leases to write, until the first are written
WRITE_S: Final = 60.0
"""Between two writes of the file: 5,000 leases are half a megabyte."""

FRESH_S: Final = 600.0
"""The greatest age of the date in the file while the store answers."""

_REMEDY: Final = (
    "make it writable, or name another file as registry.memory; empty: no start while the store is unavailable"
)

T = TypeVar("T")

log = structlog.get_logger()


class LeaseCache:
    """`inner`, whose leases are cached in the file at `path`; `pools` is net_conf.parse()'s."""

    def __init__(self, inner: Registry, path: Path, *, pools: bool, patience_s: float = PATIENCE_S) -> None:
        self._inner = inner
        self._path = path
        self._pools = pools
        self._patience_s = patience_s
        self._loaded = False
        self._state: CachedState | None = None  # as loaded at start, until the store's own replaces it
        self._away_since = 0.0  # monotonic; 0: the store answered
        self._conf: NetConf | None = None  # as net_conf() returned it
        self._vteps: Mapping[int, Vtep] = {}
        self._avoided: frozenset[Address] = frozenset()
        self._announcing = False
        self._addresses: Mapping[int, Address] = {}
        self._peers: HeldLeases | None = None  # as the store has them
        self._peers_changed = False  # since the file was written
        self._own_written: frozenset[Lease] = frozenset()
        self._written_at = 0.0
        self._warned = False

    @property
    def source(self) -> str:
        """The store of the registry behind."""
        return self._inner.source

    @property
    def ends(self) -> float:
        """As the registry behind has it."""
        return self._inner.ends

    @property
    def health(self) -> RegistryHealth:
        """The health of the registry behind, and the cache that is used in its place."""
        health, state = self._inner.health, self._state
        if not self._away_since or state is None:
            return health
        return replace(
            health,
            error=health.error or "the store does not answer",
            since=health.since or self._away_since,
            cached=f"leases of {state.date}, from {self._path}",
        )

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds, or held when the store last answered."""
        return self._inner.published or (self._own() if self._away_since else frozenset())

    async def net_conf(self) -> NetConf | None:
        """Return the network's configuration, from the store or the cache."""
        self._conf = await self._ask(self._inner.net_conf, lambda state: state.conf)
        return self._conf

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:
        """Return the store's record of this node, or the cached one if it is of the same VTEP addresses."""
        state = self._state
        if self._away_since and advertised and state is not None and dict(advertised) != dict(state.advertised):
            self._refuse(f"it is of a node at {', '.join(map(str, state.advertised.values()))}")
            await self._require_same_network()
        recalled = await self._ask(
            lambda: self._inner.recall(advertised),
            lambda state: Recall(state.macs if advertised else {}, state.addresses, state.overwrites),
        )
        self._addresses = recalled.addresses or self._addresses
        return recalled

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Claim this node's subnets, or return the cached ones and claim them later."""
        self._vteps = vteps
        return await self._ask(lambda: self._inner.publish(vteps), lambda _: self._own())

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Quarantine leases with these VTEP addresses, and leave out cached ones that have them."""
        self._avoided = addresses
        self._inner.avoid(addresses)

    async def announce(self) -> None:
        """Report to the cluster that this node forwards, now or once the store answers."""
        if self._away_since:
            self._announcing = True
        else:
            await self._inner.announce()

    async def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """Yield the leases of the other nodes: cached ones first, while the store is unavailable."""
        if self._away_since and self._state is not None:
            yield Snapshot(frozenset(each for each in self._state.peers if each.vtep.address not in self._avoided))
            await self._catch_up()
        writing = asyncio.create_task(self._write_regularly())
        try:
            async with aclosing(self._inner.watch()) as events:
                async for event in events:
                    if self._peers is None:
                        self._peers, self._peers_changed = HeldLeases(), True
                    self._peers_changed |= bool(await in_slices(self._peers.steps(event)))
                    self._away_since, self._state = 0.0, None
                    yield event
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    async def pod_names(self, addresses: Collection[Address]) -> Mapping[Address, str]:
        """Return what the registry behind says; StoreError."""
        return await self._inner.pod_names(addresses)

    def reload(self, settings: Settings) -> Snapshot | None:
        """Pass the settings on."""
        return self._inner.reload(settings)

    async def close(self) -> None:
        """Write the file, and close the registry behind."""
        await self._write()
        await self._inner.close()

    async def _ask(self, call: Callable[[], Awaitable[T]], from_cache: Callable[[CachedState], T]) -> T:
        """Return the result of `call`; or of `from_cache`, if there is a cache and the store is unavailable."""
        if not self._loaded:
            self._loaded = True
            await self._load()
        state = self._state
        if state is None:
            return await call()
        if not self._away_since:
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._patience_s):
                    return await call()
            except TimeoutError:
                self._away_since = started
                log.warning("leases_remembered", path=str(self._path), of=state.date, leases=len(state.peers))
        return from_cache(state)

    async def _load(self) -> None:
        try:
            self._state = await asyncio.to_thread(cache_file.load, self._path, self.source, pools=self._pools)
        except CacheFileError as exc:
            self._refuse(str(exc))

    def _refuse(self, reason: str) -> None:
        log.warning("memory_refused", path=str(self._path), reason=reason)
        self._state, self._away_since = None, 0.0

    def _own(self) -> frozenset[Lease]:
        """Return the cached leases of this node, with its present VTEPs."""
        return frozenset() if self._state is None else self._state.own_with(self._vteps)

    async def _require_same_network(self) -> None:
        """Wait for the store; StartError if its network's configuration is not the one that net_conf() returned."""
        if await self._inner.net_conf() != self._conf:
            raise StartError(
                "the network's configuration changed while the store was unavailable",
                "start vxland again: it takes the new one",
            )

    async def _catch_up(self) -> None:
        """Make the calls that were put off; StartError or LeaseLostError if the cached values are out of date."""
        await self._require_same_network()
        used = {lease.subnet for lease in self.published}
        now = {lease.subnet for lease in await self._inner.publish(self._vteps)}
        if now != used:
            was, new = (", ".join(sorted(map(str, subnets))) for subnets in (used, now))
            raise LeaseLostError(
                f"this node's lease on {was} ended while the store was unavailable: start again, with {new}"
            )
        if self._announcing:
            await self._inner.announce()

    async def _write_regularly(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(WRITE_S if self._written_at else FIRST_LOOK_S)

    async def _write(self) -> None:
        """Write the file if it is out of date, or its date is too old. Does not fail."""
        if self._peers is None:
            return
        own, away_since = self._inner.published, self._inner.health.since
        changed = self._peers_changed or own != self._own_written
        if not changed and (away_since or time.monotonic() - self._written_at < FRESH_S):
            return
        conf = await self._inner.net_conf()
        if conf is None:
            return
        now = time.monotonic()
        started_at = time.time() - now  # of the monotonic clock
        as_of = started_at + (away_since or now)
        until = min(as_of + LIFE_S, started_at + self._inner.ends)
        advertised = {version: self._vteps[version].address for version in conf.by_version if version in self._vteps}
        state = CachedState(conf, self._addresses, advertised, own, tuple(self._peers), as_of, until)
        self._peers_changed = False
        text = await in_slices(cache_file.text_of(state, self.source))
        try:
            await asyncio.to_thread(cache_file.save, self._path, text)
        except OSError as exc:
            if not self._warned:
                log.warning("memory_not_written", path=str(self._path), error=exc.strerror or str(exc), remedy=_REMEDY)
            self._warned = self._peers_changed = True
        else:
            self._warned = False
            self._own_written = own
        self._written_at = time.monotonic()
