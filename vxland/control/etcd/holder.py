"""The entry of this node: taken, renewed, and put back where it was lost. flannel: local_manager.go, registry.go.

Every write is a transaction on the revision last seen, so that nothing another node did meanwhile is overwritten. A
lost race is tried again from a new listing; each means that another node has its subnet now, so there is an end to it.

An entry lasts a day and is given another one in time. One without a TTL is an administrator's reservation, and stays
without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog

from vxland.control.etcd.allocation import Choice, Record, choose, rival
from vxland.control.etcd.formats import BACKEND, Reading, build_key, build_value, by_version, parse_key, read
from vxland.control.etcd.store import Entry, Store
from vxland.control.etcd.view import Hidden
from vxland.control.netconf import NetConf
from vxland.errors import LeaseLostError
from vxland.model import Address, Lease, Mac, Subnet, Vtep

TTL_S: Final = 24 * 60 * 60
NEVER: Final = float("inf")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Held:
    """Our entry as we wrote it last; `ends` by the clock, NEVER for a reservation."""

    networks: Mapping[int, Subnet]
    record: Record
    value: bytes
    leases: frozenset[Lease]
    ends: float

    @property
    def shown(self) -> str:
        """The subnets, for log and errors."""
        return ", ".join(map(str, self.record.subnets))

    @property
    def address(self) -> Address:
        """What the store knows us by; flannel compares PublicIP only."""
        return next(lease.vtep.address for lease in self.leases if lease.subnet.version == 4)


@dataclass(frozen=True, slots=True)
class _Put:
    """A write that went through: its revision, when what it wrote ends, and every key there is now."""

    revision: int
    ends: float
    entries: tuple[Entry, ...]


class Holder:
    """Holds one entry of `store`. `below(n)` is a random number under n; `changed` hears what is ours from now on.

    Methods may raise GatewayError, and can then be called again.
    """

    def __init__(
        self, store: Store, clock: Callable[[], float], below: Callable[[int], int], changed: Callable[[Hidden], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._below = below
        self._changed = changed
        self._lock = asyncio.Lock()
        self.held: Held | None = None

    @property
    def hidden(self) -> Hidden:
        """What of the store is ours."""
        return Hidden() if self.held is None else Hidden(frozenset({self.held.record.key}), self.held.leases)

    async def recall(self, networks: Mapping[int, Subnet], address: Address) -> dict[int, Mac]:
        """The MACs that the oldest entry with `address` as PublicIP tells, by the subnets' IP version."""
        own = [(record, reading) for record, reading in await self._all(networks) if _is_of(reading, address)]
        for _, reading in sorted(own, key=lambda pair: pair[0].created):
            if reading.leases:
                return {lease.subnet.version: lease.vtep.mac for lease in reading.leases}
        return {}

    async def acquire(
        self, conf: NetConf, vteps: Mapping[int, Vtep], previous: Mapping[int, Subnet]
    ) -> frozenset[Lease]:
        """Take subnets for `vteps`, by the subnets' IP version; the leases held. StartError where none is left."""
        networks = by_version(conf)
        value = build_value(vteps, conf.vni)
        async with self._lock:
            while True:
                own, others = await self._records(networks, vteps[4].address)
                choice = choose(conf.pools, own, others, previous, self._below)
                leases = frozenset(Lease(subnet, vteps[version]) for version, subnet in choice.subnets.items())
                held = await self._take(choice, networks, value, leases)
                if held is not None:
                    log.info("lease_acquired", subnets=held.shown, reused=choice.kept is not None)
                    return leases

    async def renew(self, margin_s: float) -> float:
        """Give our entry another day where `margin_s` or less is left; the seconds until that is due next."""
        async with self._lock:
            held = self.held
            if held is not None and held.ends - margin_s <= self._clock():
                done = await self._put(held.record, held.value)
                if done is None:
                    await self._settle(held)
                else:
                    self._hold(held, done)
                    log.info("lease_renewed", subnets=held.shown)
        return NEVER if self.held is None else self.held.ends - margin_s - self._clock()

    async def check(self) -> None:
        """See that our entry is as we wrote it, else put it back; LeaseLostError where another node has it."""
        async with self._lock:
            if self.held is not None:
                await self._settle(self.held)

    async def _take(
        self, choice: Choice, networks: Mapping[int, Subnet], value: bytes, leases: frozenset[Lease]
    ) -> Held | None:
        """Write what was chosen; None where another node was faster."""
        key = self._store.key(build_key(choice.subnets))
        subnets = tuple(subnet for _, subnet in sorted(choice.subnets.items()))
        record = choice.kept or Record(key, subnets, created=0, modified=0, permanent=choice.permanent)
        with self._claiming(key):
            done = await self._put(record, value, choice.dropped)
            if done is None or await self._yields(record, done):
                log.info("subnet_race_lost", key=self._store.name(key))
                return None
            return self._hold(Held(networks, record, value, leases, NEVER), done)

    async def _settle(self, held: Held) -> None:
        while True:
            entry = await self._store.get(held.record.key)
            if entry is None:
                record, event = replace(held.record, created=0, modified=0), "lease_recreated"
            elif entry.modified == held.record.modified:
                return
            else:
                reading = read(self._store.name(entry.key), entry.value, held.networks)
                _raise_if_lost(held, reading)
                reserved = not entry.lease and not reading.problem
                record = replace(held.record, modified=entry.modified, permanent=held.record.permanent or reserved)
                if held.leases == set(reading.leases):  # an administrator put it again, with or without a TTL
                    ends = min(held.ends, self._clock()) if held.ends == NEVER else held.ends
                    record = replace(record, permanent=reserved)
                    self.held = replace(held, record=record, ends=NEVER if reserved else ends)
                    return
                event = "lease_restored"
            done = await self._put(record, held.value)
            if done is None:
                continue
            if await self._yields(record, done):
                raise LeaseLostError(f"the lease on {held.shown} was deleted, and another node has the subnet now")
            log.warning(event, subnets=held.shown)
            self._hold(replace(held, record=record), done)
            return

    async def _put(self, record: Record, value: bytes, drop: Iterable[Record] = ()) -> _Put | None:
        """Write our entry over `record` as it was seen; None where it is not so any more."""
        lease, ends = 0, NEVER
        if not record.permanent:
            lease, ttl_s = await self._store.grant(TTL_S)
            ends = self._clock() + ttl_s
        gone = [(old.key, old.modified) for old in drop]
        written = await self._store.write(record.key, value, lease, record.modified, gone)
        if written is None:
            if lease:
                await self._store.revoke(lease)
            return None
        return _Put(written.revision, ends, written.entries)

    async def _yields(self, record: Record, done: _Put) -> bool:
        """Whether our new entry had to go, because an older one claims part of its subnets."""
        if record.modified:  # it was there
            return False
        others = [found for entry in done.entries if (found := self._record(entry)) is not None]
        other = rival(replace(record, created=done.revision), others)
        if other is None:
            return False
        await self._store.remove(record.key, done.revision)
        return True

    def _hold(self, held: Held, done: _Put) -> Held:
        record = replace(held.record, created=held.record.created or done.revision, modified=done.revision)
        self.held = replace(held, record=record, ends=done.ends)
        return self.held

    @contextmanager
    def _claiming(self, key: bytes) -> Iterator[None]:
        """A watch may hear of our write before we do."""
        hidden = self.hidden
        self._changed(replace(hidden, keys=hidden.keys | {key}))
        try:
            yield
        finally:
            self._changed(self.hidden)

    async def _records(self, networks: Mapping[int, Subnet], address: Address) -> tuple[list[Record], list[Record]]:
        """Our entries, and those of others."""
        own: list[Record] = []
        others: list[Record] = []
        held = None if self.held is None else (self.held.record.key, self.held.record.modified)
        for record, reading in await self._all(networks):
            ours = _is_of(reading, address) or (record.key, record.modified) == held
            (own if ours else others).append(record)
        return own, others

    async def _all(self, networks: Mapping[int, Subnet]) -> list[tuple[Record, Reading]]:
        return [
            (record, read(self._store.name(entry.key), entry.value, networks))
            async for page in self._store.pages()
            for entry in page.entries
            if (record := self._record(entry)) is not None
        ]

    def _record(self, entry: Entry) -> Record | None:
        try:
            subnets = parse_key(self._store.name(entry.key))
        except ValueError:
            return None  # it claims nothing
        return Record(entry.key, subnets, entry.created, entry.modified, permanent=not entry.lease)


def _is_of(reading: Reading, address: Address) -> bool:
    return reading.public is not None and reading.public.get(4) == address


def _raise_if_lost(held: Held, reading: Reading) -> None:
    there = (reading.public or {}).get(4, held.address)
    if there != held.address:
        raise LeaseLostError(f"the lease on {held.shown} is that of the node at {there} now")
    foreign = reading.backend not in {"", BACKEND} or any(lease not in held.leases for lease in reading.leases)
    if foreign:
        raise LeaseLostError(
            f"the lease on {held.shown} was taken by another daemon that publishes {there}: "
            "give every node an address of its own, and run one daemon on each"
        )
