"""Owners of the keys of the data path: the VTEP of each MAC, source of datagrams, and subnet. Pure.

Theory of operation. The lookup table and the maps of the fast path say the same in two forms. Both follow `Owners`,
which has the rules:

- A subnet belongs to the VTEP of its lease. There is one lease on each subnet.
- A MAC that several VTEPs claim belongs to none: the inner destination decides.
- A source is a VTEP's own address, as a prefix of full length, or a prefix that a lease names, behind NAT. It belongs
  to the VTEP whose own address it is, else to the claimant with the lowest MAC and address.

No rule depends on what was before, so any sequence of changes ends where a build from nothing would. A change takes
time in proportion to its leases. Long changes are worked off in steps, between which the caller may do something else.

Nearly all keys have one claimant, which is stored without a list around it. Lists are sorted, so that thousands of
claims on one key, which a writer of the store may make, take a binary search each.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Generator, Iterable, KeysView, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep, host_prefix
from vxland.model.steps import at_once

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnerChange:
    """Keys with another owner than before, and VTEPs that came and went. None: nobody owns the key any more."""

    macs: Mapping[Mac, Vtep | None] = field(default_factory=dict)
    sources: Mapping[Subnet, Vtep | None] = field(default_factory=dict)
    subnets: Mapping[Subnet, Vtep | None] = field(default_factory=dict)

    gone: Collection[Vtep] = ()
    """VTEPs that have no lease any more."""

    new: Collection[Vtep] = ()
    """VTEPs that had no lease before."""

    given: Mapping[Vtep, tuple[Subnet, ...]] = field(default_factory=dict)
    """All prefixes named by the leases of a VTEP, if these are others than before.

    The keys that such a VTEP owns are in the mappings above, whether or not it has owned them before.
    """


class Owners:
    """The VTEP that owns each key. One owner changes it; all others read."""

    def __init__(self) -> None:
        self._leases: dict[Subnet, Lease] = {}
        self._subnets: _Claims[Vtep, Subnet] = _Claims(_subnet_order)
        self._macs: _Claims[Mac, Vtep] = _Claims(_vtep_order)
        self._addresses: _Claims[Address, Vtep] = _Claims(_vtep_order)
        # Of prefixes that leases name, by prefix and by VTEP. Each lease of a VTEP has a claim of its own.
        self._naming: _Claims[Subnet, Lease] = _Claims(_lease_order)
        self._named: _Claims[Vtep, tuple[Subnet, Subnet]] = _Claims(_named_order)

    @property
    def leases(self) -> Mapping[Subnet, Lease]:
        """The lease on each subnet. Borrowed: valid until the next change."""
        return self._leases

    @property
    def vteps(self) -> KeysView[Vtep]:
        """All VTEPs that have a lease. Borrowed: valid until the next change."""
        return self._subnets.keys()

    def at(self, address: Address) -> tuple[Vtep, ...]:
        """Return the VTEPs that have this address: several, if the store has several MACs for it."""
        return self._addresses.of(address)

    def leases_of(self, vtep: Vtep) -> list[Lease]:
        """Return the leases of a VTEP, ordered by subnet."""
        return [self._leases[subnet] for subnet in self._subnets.of(vtep)]

    def owner_of_subnet(self, subnet: Subnet) -> Vtep | None:
        """Return the VTEP whose lease is on this subnet."""
        lease = self._leases.get(subnet)
        return None if lease is None else lease.vtep

    def owner_of_mac(self, mac: Mac) -> Vtep | None:
        """Return the VTEP that a MAC identifies, None if that is none or more than one."""
        return self._macs.only(mac)

    def owner_of_source(self, source: Subnet) -> Vtep | None:
        """Return the owner of a source: a prefix that leases name, or a VTEP's address as a prefix of full length."""
        own = self._addresses.first(source.network_address) if source.prefixlen == source.max_prefixlen else None
        if own is not None:
            return own
        naming = self._naming.first(source)
        return None if naming is None else naming.vtep

    def change(self, removed: Iterable[Lease], added: Iterable[Lease]) -> OwnerChange:
        """Drop the leases on the subnets of `removed`, then take `added`; return what has another owner now.

        A lease on a subnet that has one already replaces it.
        """
        return at_once(self.changing(removed, added))

    def changing(self, removed: Iterable[Lease], added: Iterable[Lease]) -> Generator[None, None, OwnerChange]:
        """Do change() in steps, which end before the next change. Readers see some of it between two steps."""
        before = _Before()
        for lease in removed:
            self._drop(lease.subnet, before)
            yield
        for lease in added:
            self._drop(lease.subnet, before)
            self._take(lease, before)
            yield
        return (yield from self._compared(before))

    def whole(self) -> Generator[None, None, OwnerChange]:
        """Return the change from no lease to those there now, in steps; no other change may come between them."""
        macs: dict[Mac, Vtep | None] = {}
        sources: dict[Subnet, Vtep | None] = {}
        given: dict[Vtep, tuple[Subnet, ...]] = {}
        for vtep in self.vteps:
            owned = (vtep.mac,) if self.owner_of_mac(vtep.mac) == vtep else ()
            macs.update(dict.fromkeys(owned, vtep))
            named = self._given(vtep)
            if named:
                given[vtep] = named
            own = (host_prefix(vtep.address), *named)
            sources.update((source, vtep) for source in own if self.owner_of_source(source) == vtep)
            yield
        subnets: dict[Subnet, Vtep | None] = {}
        for subnet, lease in self._leases.items():
            subnets[subnet] = lease.vtep
            yield
        return OwnerChange(macs, sources, subnets, (), tuple(self.vteps), given)

    def _take(self, lease: Lease, before: _Before) -> None:
        vtep = lease.vtep
        if vtep not in self._subnets:
            self._note(vtep, before)
            self._macs.add(vtep.mac, vtep)
            self._addresses.add(vtep.address, vtep)
        before.subnets.setdefault(lease.subnet, None)
        self._leases[lease.subnet] = lease
        self._subnets.add(vtep, lease.subnet)
        for source in self._note_sources(lease, before):
            self._naming.add(source, lease)
            self._named.add(vtep, (source, lease.subnet))

    def _drop(self, subnet: Subnet, before: _Before) -> None:
        lease = self._leases.pop(subnet, None)
        if lease is None:
            return
        vtep = lease.vtep
        before.subnets.setdefault(subnet, vtep)
        for source in self._note_sources(lease, before):
            self._naming.remove(source, lease)
            self._named.remove(vtep, (source, subnet))
        if self._subnets.only(vtep) is not None:
            self._note(vtep, before)
            self._macs.remove(vtep.mac, vtep)
            self._addresses.remove(vtep.address, vtep)
        self._subnets.remove(vtep, subnet)

    def _note(self, vtep: Vtep, before: _Before) -> None:
        """Record what the coming or going of a VTEP may change."""
        own = host_prefix(vtep.address)
        before.vteps.setdefault(vtep, vtep in self._subnets)
        before.macs.setdefault(vtep.mac, self.owner_of_mac(vtep.mac))
        before.sources.setdefault(own, self.owner_of_source(own))

    def _note_sources(self, lease: Lease, before: _Before) -> set[Subnet]:
        """Record what a change of this lease's sources may change; return them."""
        sources = set(lease.sources)
        if sources:
            before.given.setdefault(lease.vtep, self._given(lease.vtep))
        for source in sources:
            before.sources.setdefault(source, self.owner_of_source(source))
        return sources

    def _given(self, vtep: Vtep) -> tuple[Subnet, ...]:
        return tuple(dict.fromkeys(source for source, _ in self._named.of(vtep)))

    def _compared(self, before: _Before) -> Generator[None, None, OwnerChange]:
        """Return the difference between `before` and now."""
        gone, new = [], []
        for vtep, was in before.vteps.items():
            if was and vtep not in self._subnets:
                gone.append(vtep)
            if not was and vtep in self._subnets:
                new.append(vtep)
            yield
        macs = yield from _changed(before.macs, self.owner_of_mac)
        sources = yield from _changed(before.sources, self.owner_of_source)
        subnets = yield from _changed(before.subnets, self.owner_of_subnet)
        given = {}
        for vtep, named in before.given.items():
            now = self._given(vtep)
            if now == named or vtep not in self._subnets:
                continue
            given[vtep] = now
            macs |= {mac: vtep for mac in (vtep.mac,) if self.owner_of_mac(mac) == vtep}
            own = (host_prefix(vtep.address), *now)
            sources |= {source: vtep for source in own if self.owner_of_source(source) == vtep}
            for subnet in self._subnets.of(vtep):
                subnets[subnet] = vtep
                yield
        return OwnerChange(macs, sources, subnets, tuple(gone), tuple(new), given)


@dataclass(slots=True)
class _Before:
    """The owners before a change, of keys that it may affect; `vteps`: whether they were there."""

    vteps: dict[Vtep, bool] = field(default_factory=dict)
    macs: dict[Mac, Vtep | None] = field(default_factory=dict)
    sources: dict[Subnet, Vtep | None] = field(default_factory=dict)
    subnets: dict[Subnet, Vtep | None] = field(default_factory=dict)
    given: dict[Vtep, tuple[Subnet, ...]] = field(default_factory=dict)


def _changed(
    before: Mapping[K, Vtep | None], owner_of: Callable[[K], Vtep | None]
) -> Generator[None, None, dict[K, Vtep | None]]:
    """Return the keys that have another owner now, and that owner."""
    found = {}
    for key, was in before.items():
        owner = owner_of(key)
        if owner != was:
            found[key] = owner
        yield
    return found


class _Claims(Generic[K, T]):
    """Claims on each key, sorted by `order`. A single claim is stored without a list around it."""

    def __init__(self, order: Callable[[T], Any]) -> None:
        self._order = order
        self._claims: dict[K, T | list[T]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._claims

    def keys(self) -> KeysView[K]:
        """Return the keys that have claims."""
        return self._claims.keys()

    def of(self, key: K) -> tuple[T, ...]:
        """Return the claims on a key."""
        found = self._claims.get(key)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, list) else (found,)

    def first(self, key: K) -> T | None:
        """Return the first claim on a key."""
        found = self._claims.get(key)
        return found[0] if isinstance(found, list) else found

    def only(self, key: K) -> T | None:
        """Return the only claim on a key; None if there is none, or more than one."""
        found = self._claims.get(key)
        return None if isinstance(found, list) else found

    def add(self, key: K, claim: T) -> None:
        """Add a claim that is not there yet."""
        found = self._claims.setdefault(key, claim)
        if isinstance(found, list):
            insort(found, claim, key=self._order)
        elif found is not claim:
            self._claims[key] = sorted((found, claim), key=self._order)

    def remove(self, key: K, claim: T) -> None:
        """Remove a claim that is there."""
        found = self._claims[key]
        if not isinstance(found, list):
            del self._claims[key]
            return
        del found[bisect_left(found, self._order(claim), key=self._order)]
        if len(found) == 1:
            self._claims[key] = found[0]


def _vtep_order(vtep: Vtep) -> tuple[int, int]:
    return vtep.mac.value, int(vtep.address)


def _subnet_order(subnet: Subnet) -> tuple[int, int, int]:
    return subnet.version, int(subnet.network_address), subnet.prefixlen


def _lease_order(lease: Lease) -> tuple[tuple[int, ...], ...]:
    return _vtep_order(lease.vtep), _subnet_order(lease.subnet)


def _named_order(claim: tuple[Subnet, Subnet]) -> tuple[tuple[int, ...], ...]:
    source, subnet = claim
    return _subnet_order(source), _subnet_order(subnet)
