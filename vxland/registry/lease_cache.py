"""A registry that remembers: where its store does not answer at start, the node begins with what the store said last.

    store answers   every call goes to the registry behind; what it says is written down, at most once a minute
    store is away   the calls before watch() answer from memory, watch() tells the peers remembered, then does for real
                    what those calls put off, and goes on with the registry's own snapshot

What turns out to be otherwise by then, the network's configuration or this node's subnets, ends the node: the next
start finds the store, and takes what is true now. A running node needs none of this: it has its leases in its tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import structlog

from vxland.config import Settings
from vxland.model.errors import LeaseLostError, StartError
from vxland.model.lease import Address, Delta, Lease, RegistryHealth, Snapshot, Vtep
from vxland.registry import cache_file as file
from vxland.registry.cache_file import LIFE_S, CachedState, CacheFileError
from vxland.registry.net_conf import NetConf
from vxland.registry.protocol import Recall, Registry, followed

PATIENCE_S: Final = 5.0  # for a store at start; a dead member of etcd takes 2 s of it
WRITE_S: Final = 60.0  # between two writes: 5,000 leases are half a megabyte
FRESH_S: Final = 600.0  # how old the date in the file may be while the store answers

_REMEDY: Final = "make it writable, or name another file as registry.memory; empty: no start while the store is away"

T = TypeVar("T")

log = structlog.get_logger()


class LeaseCache:
    """`inner`, whose leases are kept in the file at `path`; `pools` is net_conf.parse()'s."""

    def __init__(self, inner: Registry, path: Path, *, pools: bool, patience_s: float = PATIENCE_S) -> None:
        self._inner = inner
        self._path = path
        self._pools = pools
        self._patience_s = patience_s
        self._looked = False
        self._memory: CachedState | None = None  # what there was at start, until it is outdated
        self._away_since = 0.0  # monotonic; 0: the store answered
        self._conf: NetConf | None = None  # as net_conf() told it
        self._vteps: Mapping[int, Vtep] = {}
        self._avoided: frozenset[Address] = frozenset()
        self._announcing = False
        self._addresses: Mapping[int, Address] = {}
        self._peers: frozenset[Lease] | None = None
        self._written: tuple[frozenset[Lease], frozenset[Lease]] | None = None
        self._written_at = 0.0
        self._complained = False

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
        """That of the registry behind; with what is used in its place."""
        health, memory = self._inner.health, self._memory
        if not self._away_since or memory is None:
            return health
        return replace(
            health,
            error=health.error or "the store does not answer",
            since=health.since or self._away_since,
            remembered=f"leases of {memory.age}, from {self._path}",
        )

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds, or held when the store was there."""
        return self._inner.published or (self._own() if self._away_since else frozenset())

    async def net_conf(self) -> NetConf | None:
        """The network, by the store or by what it said."""
        self._conf = await self._ask(self._inner.net_conf, lambda memory: memory.conf)
        return self._conf

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:
        """What the store remembers of this node, or what is remembered of the store."""
        if self._away_since and advertised and self._memory is not None:
            known = {lease.subnet.version: lease.vtep.address for lease in self._memory.own}
            if known != dict(advertised):
                self._give_up(f"it is of a node at {', '.join(map(str, known.values()))}")
                await self._same_network()
        recalled = await self._ask(
            lambda: self._inner.recall(advertised),
            lambda memory: Recall(
                {lease.subnet.version: lease.vtep.mac for lease in memory.own if advertised}, memory.addresses
            ),
        )
        self._addresses = recalled.addresses or self._addresses
        return recalled

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Claim this node's subnets, or go on with those it had."""
        self._vteps = vteps
        return await self._ask(lambda: self._inner.publish(vteps), lambda _: self._own())

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Quarantine leases with these VTEP addresses, and leave out those remembered."""
        self._avoided = addresses
        self._inner.avoid(addresses)

    async def announce(self) -> None:
        """Tell the cluster, now or once the store is there."""
        if self._away_since:
            self._announcing = True
        else:
            await self._inner.announce()

    async def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """The leases of others: as remembered, until the store tells them."""
        if self._away_since and self._memory is not None:
            yield Snapshot(frozenset(each for each in self._memory.peers if each.vtep.address not in self._avoided))
            await self._catch_up()
        writing = asyncio.create_task(self._keep_written())
        try:
            async with aclosing(self._inner.watch()) as events:
                async for event in events:
                    self._peers = followed(self._peers or frozenset(), event)
                    self._away_since, self._memory = 0.0, None
                    yield event
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    def reload(self, settings: Settings) -> Snapshot | None:
        """Pass the settings on."""
        return self._inner.reload(settings)

    async def close(self) -> None:
        """Write down what is known, and close the registry behind."""
        await self._write()
        await self._inner.close()

    async def _ask(self, call: Callable[[], Awaitable[T]], recall: Callable[[CachedState], T]) -> T:
        """What `call` returns; or what `recall` makes of the memory, where there is one and the store is away."""
        if not self._looked:
            self._looked = True
            await self._look()
        memory = self._memory
        if memory is None:
            return await call()
        if not self._away_since:
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._patience_s):
                    return await call()
            except TimeoutError:
                self._away_since = started
                log.warning("leases_remembered", path=str(self._path), of=memory.age, leases=len(memory.peers))
        return recall(memory)

    async def _look(self) -> None:
        try:
            self._memory = await asyncio.to_thread(file.load, self._path, self.source, pools=self._pools)
        except CacheFileError as exc:
            self._give_up(str(exc))

    def _give_up(self, reason: str) -> None:
        log.warning("memory_refused", path=str(self._path), reason=reason)
        self._memory, self._away_since = None, 0.0

    def _own(self) -> frozenset[Lease]:
        """The subnets remembered, with the VTEPs of now."""
        own = self._memory.own if self._memory is not None else ()
        return frozenset(Lease(each.subnet, self._vteps.get(each.subnet.version, each.vtep)) for each in own)

    async def _same_network(self) -> None:
        """Return once the store says of the network what net_conf() told; StartError where it says something else."""
        if await self._inner.net_conf() != self._conf:
            raise StartError(
                "the network's configuration changed while the store was away",
                "start vxland again: it takes the new one",
            )

    async def _catch_up(self) -> None:
        """Do what was put off; StartError and LeaseLostError where what was remembered is wrong."""
        await self._same_network()
        used = {lease.subnet for lease in self.published}
        now = {lease.subnet for lease in await self._inner.publish(self._vteps)}
        if now != used:
            was, new = (", ".join(sorted(map(str, subnets))) for subnets in (used, now))
            raise LeaseLostError(f"this node's lease on {was} ended while the store was away: start again, with {new}")
        if self._announcing:
            await self._inner.announce()

    async def _keep_written(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(WRITE_S if self._written_at else 1.0)

    async def _write(self) -> None:
        """Write down what is known, if the file does not say so yet, or says so of long ago; does not fail."""
        if self._peers is None:
            return
        known, away_since = (self._inner.published, self._peers), self._inner.health.since
        if known == self._written and (away_since or time.monotonic() - self._written_at < FRESH_S):
            return
        conf = await self._inner.net_conf()
        if conf is None:
            return
        now = time.monotonic()
        started_at = time.time() - now  # of the monotonic clock
        said_at = started_at + (away_since or now)
        until = min(said_at + LIFE_S, started_at + self._inner.ends)
        memory = CachedState(conf, self._addresses, *known, said_at, until)
        try:
            await asyncio.to_thread(file.save, self._path, memory, self.source)
        except OSError as exc:
            if not self._complained:
                log.warning("memory_not_written", path=str(self._path), error=exc.strerror or str(exc), remedy=_REMEDY)
            self._complained = True
        else:
            self._complained = False
            self._written = known
        self._written_at = time.monotonic()
