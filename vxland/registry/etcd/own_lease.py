"""The entry of this node: taken, renewed, and restored if it was lost. flannel: local_manager.go, registry.go.

Every write is a transaction on the revision last seen, so it overwrites no change of another node. After a lost race
the node lists the entries again. Each lost race means that another node has got its subnet, so the number of races is
limited.

An entry lasts a day and is renewed in time. One without a TTL is an administrator's reservation, and gets none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog

from vxland.model.errors import LeaseLostError
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep
from vxland.model.log_quota import LogQuota
from vxland.registry.backend_data import BACKEND
from vxland.registry.entries import Own
from vxland.registry.etcd.allocation import Choice, LeaseRecord, choose, older_claim
from vxland.registry.etcd.answers import GatewayError
from vxland.registry.etcd.formats import EtcdClaim, build_key, build_value, parse_key, read
from vxland.registry.etcd.store import Entry, Store
from vxland.registry.net_conf import NetConf
from vxland.registry.time_slice import TimeSlice

TTL_S: Final = 24 * 60 * 60
NEVER: Final = float("inf")

_RACES: Final = 20
"""Lost in a row before the next try waits: each means that one more node has got its subnet."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HeldLease:
    """Our entry as last written; `ends` by the clock, NEVER for a reservation."""

    conf: NetConf
    record: LeaseRecord
    value: bytes
    leases: frozenset[Lease]
    ends: float

    @property
    def shown(self) -> str:
        """The subnets as text, for log and errors."""
        return ", ".join(map(str, self.record.subnets))

    @property
    def address(self) -> Address:
        """The address that identifies us in the store; flannel compares only PublicIP."""
        return next(lease.vtep.address for lease in self.leases if lease.subnet.version == 4)


@dataclass(frozen=True, slots=True)
class _Put:
    """A successful write: its revision, when the entry ends, and every key after it."""

    revision: int
    ends: float
    entries: tuple[Entry, ...]


class OwnLease:
    """Holds one entry of `store`. `below(n)` returns a random number below n; `changed` is called with each new Own.

    Methods may raise StoreError, and can then be called again.
    """

    def __init__(
        self, store: Store, clock: Callable[[], float], below: Callable[[int], int], changed: Callable[[Own], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._below = below
        self._changed = changed
        self._lock = asyncio.Lock()
        self._quota = LogQuota("this node's lease")
        self.held: HeldLease | None = None

    @property
    def own(self) -> Own:
        """Our part of the store."""
        if self.held is None:
            return Own()
        return Own(frozenset({self._store.name(self.held.record.key)}), self.held.leases)

    async def recall(self, conf: NetConf, address: Address) -> dict[int, Mac]:
        """Return the MACs of the oldest entry with `address` as PublicIP, by the subnets' IP version."""
        own: list[tuple[int, EtcdClaim]] = []
        async for record, value in self._all():
            claim = self._claim(record, value, conf) if _mentions(value, address) else None
            if claim is not None and _is_of(claim, address):
                own.append((record.created, claim))
        for _, claim in sorted(own, key=lambda pair: pair[0]):
            if claim.reading.leases:
                return {version: lease.vtep.mac for version, lease in claim.reading.leases.items()}
        return {}

    async def acquire(
        self, conf: NetConf, vteps: Mapping[int, Vtep], previous: Mapping[int, Subnet]
    ) -> frozenset[Lease]:
        """Take subnets for `vteps`, by subnet version, and return the leases. StartError if no subnet is free."""
        value = build_value(vteps, conf.vni)
        async with self._lock:
            for _ in range(_RACES):
                own, others = await self._records(conf, vteps, previous)
                # In a thread: of 5,000 entries it takes 11 ms.
                choice = await asyncio.to_thread(choose, conf.pools, own, others, previous, self._below)
                leases = frozenset(Lease(subnet, vteps[version]) for version, subnet in choice.subnets.items())
                held = await self._take(choice, conf, value, leases)
                if held is not None:
                    if self._quota.allows():
                        log.info("lease_acquired", subnets=held.shown, reused=choice.kept is not None)
                    return leases
            raise GatewayError(f"it said {_RACES} times that another node was faster to take a subnet")

    async def renew(self, margin_s: float) -> float:
        """Renew our entry if `margin_s` or less is left; return the seconds until the next renewal."""
        async with self._lock:
            held = self.held
            if held is not None and held.ends - margin_s <= self._clock():
                done = await self._put(held.record, held.value)
                if done is None:
                    await self._restore(held)
                else:
                    self._hold(held, done)
                    if self._quota.allows():
                        log.info("lease_renewed", subnets=held.shown)
        return NEVER if self.held is None else self.held.ends - margin_s - self._clock()

    async def check(self) -> None:
        """Restore our entry if it is not as written; LeaseLostError if another node has taken it."""
        async with self._lock:
            if self.held is not None:
                await self._restore(self.held)

    async def _take(self, choice: Choice, conf: NetConf, value: bytes, leases: frozenset[Lease]) -> HeldLease | None:
        """Write the chosen entry; None if another node was faster."""
        key = self._store.key(build_key(choice.subnets))
        subnets = tuple(subnet for _, subnet in sorted(choice.subnets.items()))
        record = choice.kept or LeaseRecord(key, subnets, created=0, modified=0, permanent=choice.permanent)
        with self._claiming(key):
            done = await self._put(record, value, choice.dropped)
            if done is None or await self._yields(record, done):
                if self._quota.allows():
                    log.info("subnet_race_lost", key=self._store.name(key))
                return None
            return self._hold(HeldLease(conf, record, value, leases, NEVER), done)

    async def _restore(self, held: HeldLease) -> None:
        for _ in range(_RACES):
            entry = await self._store.get(held.record.key)
            if entry is None:
                record = replace(held.record, created=0, modified=0)
            elif entry.modified == held.record.modified:
                return
            else:
                claim = read(self._store.name(entry.key), entry.value, held.conf)
                _raise_if_lost(held, claim)
                reserved = not entry.lease and not claim.reading.problem
                record = replace(held.record, modified=entry.modified, permanent=held.record.permanent or reserved)
                if held.leases == set(claim.reading.leases.values()):
                    # An administrator has written it again, with or without a TTL.
                    ends = min(held.ends, self._clock()) if held.ends == NEVER else held.ends
                    record = replace(record, permanent=reserved)
                    self.held = replace(held, record=record, ends=NEVER if reserved else ends)
                    return
            done = await self._put(record, held.value)
            if done is None:
                continue
            if await self._yields(record, done):
                raise LeaseLostError(f"the lease on {held.shown} was deleted, and another node has the subnet now")
            if self._quota.allows():
                log.warning("lease_recreated" if entry is None else "lease_restored", subnets=held.shown)
            self._hold(replace(held, record=record), done)
            return
        raise GatewayError(f"it said {_RACES} times that this node's entry changed while it was written")

    async def _put(self, record: LeaseRecord, value: bytes, drop: Iterable[LeaseRecord] = ()) -> _Put | None:
        """Write our entry over `record`; None if it has changed since it was read."""
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

    async def _yields(self, record: LeaseRecord, done: _Put) -> bool:
        """Remove our new entry if an older one claims a part of its subnets, and return whether it was removed."""
        if record.modified:  # it is not new
            return False
        new, turns = replace(record, created=done.revision), TimeSlice()
        for entry in done.entries:
            other = self._record(entry)
            if other is not None and older_claim(new, [other]) is not None:
                break
            await turns.pause()
        else:
            return False
        await self._store.remove(record.key, done.revision)
        return True

    def _hold(self, held: HeldLease, done: _Put) -> HeldLease:
        record = replace(held.record, created=held.record.created or done.revision, modified=done.revision)
        self.held = replace(held, record=record, ends=done.ends)
        return self.held

    @contextmanager
    def _claiming(self, key: bytes) -> Iterator[None]:
        """Own a key while it is written: a watch may see the write before its answer arrives."""
        own = self.own
        self._changed(replace(own, entries=own.entries | {self._store.name(key)}))
        try:
            yield
        finally:
            self._changed(self.own)

    async def _records(
        self, conf: NetConf, vteps: Mapping[int, Vtep], previous: Mapping[int, Subnet]
    ) -> tuple[list[LeaseRecord], list[LeaseRecord]]:
        """Return our entries, and those of others."""
        own: list[LeaseRecord] = []
        others: list[LeaseRecord] = []
        held = None if self.held is None else (self.held.record.key, self.held.record.modified)
        async for record, value in self._all():
            ours = (record.key, record.modified) == held
            kept = {subnet.version: subnet for subnet in record.subnets} == previous
            if not ours and (kept or _mentions(value, vteps[4].address)):
                claim = self._claim(record, value, conf)
                ours = _is_of(claim, vteps[4].address) or _is_from_before(claim, vteps, previous)
            (own if ours else others).append(record)
        return own, others

    async def _all(self) -> AsyncIterator[tuple[LeaseRecord, bytes]]:
        """Yield every entry that claims something, in slices: thousands are never in memory at once."""
        turns = TimeSlice()
        async with aclosing(self._store.pages()) as pages:
            async for page in pages:
                turns.begin()
                for entry in page.entries:
                    record = self._record(entry)
                    if record is not None:
                        yield record, entry.value
                    await turns.pause()

    def _claim(self, record: LeaseRecord, value: bytes, conf: NetConf) -> EtcdClaim:
        return read(self._store.name(record.key), value, conf)

    def _record(self, entry: Entry) -> LeaseRecord | None:
        try:
            subnets = parse_key(self._store.name(entry.key))
        except ValueError:
            return None  # it claims nothing
        return LeaseRecord(entry.key, subnets, entry.created, entry.modified, permanent=not entry.lease)


def _mentions(value: bytes, address: Address) -> bool:
    """Return whether an entry can be that of `address`; then it is parsed. All 5,000 of a cluster would take 90 ms.

    A JSON string with an escape can hide the address.
    """
    return str(address).encode() in value or b"\\" in value


def _is_of(claim: EtcdClaim, address: Address) -> bool:
    return claim.public is not None and claim.public.get(4) == address


def _is_from_before(claim: EtcdClaim, vteps: Mapping[int, Vtep], previous: Mapping[int, Subnet]) -> bool:
    """Return whether the entry is ours, from before our address changed: it has our subnets and our devices' MACs.

    flannel compares only the address, and moves the node to another subnet although its pods have the old one.
    """
    macs = {version: lease.vtep.mac for version, lease in claim.reading.leases.items()}
    subnets = {subnet.version: subnet for subnet in claim.subnets}
    return subnets == previous and macs == {version: vtep.mac for version, vtep in vteps.items()}


def _raise_if_lost(held: HeldLease, claim: EtcdClaim) -> None:
    there = (claim.public or {}).get(4, held.address)
    if there != held.address:
        raise LeaseLostError(f"the lease on {held.shown} is that of the node at {there} now")
    foreign = claim.backend not in {"", BACKEND} or not held.leases.issuperset(claim.reading.leases.values())
    if foreign:
        raise LeaseLostError(
            f"the lease on {held.shown} was taken by another daemon that publishes {there}: "
            "give every node an address of its own, and run one daemon on each"
        )
