"""What one watch knows of the entries of a store, and what of it its reader has not been told yet.

An entry is what one node has there: a key in etcd, a Node in Kubernetes. One that is not understood keeps, for each IP
version, the lease it was last understood as; only its deletion ends that.

Claims on subnets that overlap, or are the same, exclude one another: the one that came first into the store is told,
and the others are quarantined until it goes. What is this node's own came before all. So nobody can take a part of
another node's subnet, whose traffic the longest prefix would draw away and whose inner sources it would vouch for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import structlog

from vxland.model.lease import Delta, Lease, Snapshot, Subnet
from vxland.model.log_quota import LogQuota
from vxland.model.text import printable
from vxland.registry.claims import SubnetClaim, SubnetClaims
from vxland.registry.entries import MAX_REASON, Own, Reading
from vxland.registry.errors import MAX_ENTRIES, OverfullError

log = structlog.get_logger()


class View:
    """The entries by name; take() tells what is new."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self.changed = asyncio.Event()
        """Set where take() may have something."""

        self.unsettled = asyncio.Event()
        """Set where `leases` has changed."""

        self._problems: dict[str, str] = {}
        self._known: dict[str, Mapping[int, Lease]] = {}
        self._created: dict[str, str] = {}
        self._claims = SubnetClaims()
        self._refused: dict[str, dict[Subnet, str]] = {}
        self._told: dict[Subnet, Lease] = {}
        self._dirty: set[Subnet] = set()
        self._own = Own()
        self._listed = False
        self._begun = False
        self._notes: dict[str, str] = {}
        self._quota = LogQuota("entries of the registry")

    @property
    def quarantined(self) -> dict[str, str]:
        """Why an entry is not understood, or not used."""
        refused = {name: "; ".join(reasons.values()) for name, reasons in self._refused.items()}
        return refused | self._problems

    @property
    def leases(self) -> frozenset[Lease]:
        """Every claim, those on our own subnets and our own included."""
        return self._own.leases.union(*(known.values() for known in self._known.values()))

    def put(self, name: str, reading: Reading) -> None:
        """An entry is there, or has changed. StoreError, and nothing changes, where it is one too many."""
        new = name not in self._known and name not in self._notes
        if new and len(self._known) + len(self._notes) >= self._max_entries:
            raise OverfullError
        known = self._known.get(name, {})
        kept = {version: known[version] for version in reading.unread if version in known}
        self._set(name, {**kept, **reading.leases}, reading.created)
        self._note(name, reading)

    def remove(self, name: str) -> None:
        """An entry is gone."""
        self._set(name, {})
        self._note(name, Reading())

    def complete(self, names: AbstractSet[str]) -> None:
        """Every entry has been put, and there are no others than `names`."""
        for name in (self._known.keys() | self._notes.keys()) - names:
            self.remove(name)
        self._listed = True
        self._wake()

    def hide(self, own: Own) -> None:
        """From now on this belongs to this node."""
        if own != self._own:
            self._own = own
            self._dirty.update(self._claims.subnets)
            self._wake()

    def take(self) -> Snapshot | Delta | None:
        """What the reader has to be told now: a Snapshot once all is listed, then Deltas; None: nothing."""
        if not self._listed:
            return None
        added: set[Lease] = set()
        removed: set[Subnet] = set()
        for group in self._claims.touched(self._dirty):
            chosen = self._choose(group)
            for subnet in group:
                before, now = self._told.pop(subnet, None), chosen.get(subnet)
                if now is not None:
                    self._told[subnet] = now
                if now == before:
                    continue
                if now is None:
                    removed.add(subnet)
                else:
                    added.add(now)
        self._dirty.clear()
        if not self._begun:
            self._begun = True
            return Snapshot(frozenset(added))
        return Delta(frozenset(added), frozenset(removed)) if added or removed else None

    def _choose(self, group: AbstractSet[Subnet]) -> dict[Subnet, Lease]:
        """Return the lease to use of each subnet of a group that overlaps, and note why others are not used."""
        foreign: list[SubnetClaim] = []
        for claim in self._claims.on(group):
            reason = "" if claim.entry in self._own.entries else self._own.refusal(claim.lease)
            self._refuse(claim, reason)
            if not reason and claim.entry not in self._own.entries:
                foreign.append(claim)
        if len(foreign) == 1:
            return {foreign[0].lease.subnet: foreign[0].lease}
        chosen: dict[Subnet, Lease] = {}
        for claim, before in self._claims.settle(foreign):
            if before is None:
                chosen[claim.lease.subnet] = claim.lease
            else:
                held = f"{before.lease.subnet}, which {before.entry} had first"
                self._refuse(claim, f"its subnet {claim.lease.subnet} overlaps {held}: correct or delete one of them")
        return chosen

    def _set(self, name: str, after: Mapping[int, Lease], created: str = "") -> None:
        before, since = self._known.pop(name, {}), self._created.pop(name, "")
        if after:
            self._known[name], self._created[name] = after, created
        if after == before and (since == created or not after):
            return
        for lease in before.values():
            self._dirty.add(lease.subnet)
            self._claims.remove(name, lease.subnet)
            self._forget(name, lease.subnet)
        for lease in after.values():
            self._dirty.add(lease.subnet)
            self._claims.add(SubnetClaim(created, name, lease))
        self._wake()

    def _refuse(self, claim: SubnetClaim, reason: str) -> None:
        """Keep why a claim is not used, and log it when it is new; empty: it is used."""
        name, subnet = claim.entry, claim.lease.subnet
        if not reason:
            self._forget(name, subnet)
        elif (reasons := self._refused.setdefault(name, {})).get(subnet) != reason:
            reasons[subnet] = reason
            if self._quota.allows():
                log.warning("lease_quarantined", entry=name, reason=reason)

    def _forget(self, name: str, subnet: Subnet) -> None:
        reasons = self._refused.get(name, {})
        reasons.pop(subnet, None)
        if not reasons:
            self._refused.pop(name, None)

    def _wake(self) -> None:
        self.changed.set()
        self.unsettled.set()

    def _note(self, name: str, reading: Reading) -> None:
        """Keep what is wrong with an entry, and log it when it is new."""
        if reading.problem:
            self._problems[name] = printable(reading.problem, MAX_REASON)
        else:
            self._problems.pop(name, None)
        note = printable(reading.problem or reading.odd, MAX_REASON)
        if note and self._notes.get(name) != note and self._quota.allows():
            log.warning("lease_quarantined" if reading.problem else "lease_odd", entry=name, reason=note)
        if note:
            self._notes[name] = note
        else:
            self._notes.pop(name, None)
