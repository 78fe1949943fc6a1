"""The entries of a store as one watch knows them, and the changes that its reader has not had yet.

An entry that becomes invalid keeps its last valid lease of each IP version until the entry is deleted.

Of several claims on equal or overlapping subnets, the one that came first into the store is used. The others are
quarantined until it goes. This node's own claims precede all others. So no node can take a part of another node's
subnet: the longest prefix would draw its traffic away, and the strict source check would accept its inner sources.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from collections.abc import Set as AbstractSet

import structlog

from vxland.model.lease import Delta, Lease, Snapshot, Subnet
from vxland.model.log_quota import LogQuota
from vxland.model.steps import at_once
from vxland.model.text import printable
from vxland.registry.claims import SubnetClaim, SubnetClaims
from vxland.registry.entries import MAX_REASON, Own, Reading
from vxland.registry.errors import MAX_ENTRIES, OverfullError
from vxland.registry.lease_conflicts import LeaseConflicts

log = structlog.get_logger()


class View:
    """The entries by name; take() returns the changes. StoreError beyond `max_entries`."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self.changed = asyncio.Event()
        """Set when take() may return something."""

        self.unsettled = asyncio.Event()
        """Set when `conflicts` has news."""

        self.conflicts = LeaseConflicts()
        """Every claimed lease, including our own and those on our own subnets."""

        self._problems: dict[str, str] = {}
        self._known: dict[str, tuple[Lease, ...]] = {}  # of each IP version, in order
        self._created: dict[str, str] = {}
        self._claims = SubnetClaims()
        self._refused: dict[str, dict[Subnet, str]] = {}
        self._reported: dict[Subnet, Lease] = {}
        self._dirty: set[Subnet] = set()
        self._own = Own()
        self._listed = False
        self._begun = False
        self._notes: dict[str, str] = {}
        self._quota = LogQuota("entries of the registry")

    @property
    def quarantined(self) -> dict[str, str]:
        """The reasons why entries are invalid or not used, by name."""
        refused = {name: "; ".join(reasons.values()) for name, reasons in self._refused.items()}
        return refused | self._problems

    @property
    def size(self) -> int:
        """The number of entries with leases, about that of the other nodes."""
        return len(self._known)

    def put(self, name: str, reading: Reading) -> None:
        """Add or replace an entry. OverfullError, and no change, if it is one too many."""
        new = name not in self._known and name not in self._notes
        if new and len(self._known) + len(self._notes) >= self._max_entries:
            raise OverfullError
        known = {lease.subnet.version: lease for lease in self._known.get(name, ())}
        after: dict[int, Lease] = {version: known[version] for version in reading.unread if version in known}
        after.update(reading.leases)
        self._set(name, tuple(after[version] for version in sorted(after)), reading.created)
        self._note(name, reading)

    def remove(self, name: str) -> None:
        """Remove an entry."""
        self._set(name, ())
        self._note(name, Reading())

    def complete(self, names: AbstractSet[str]) -> None:
        """Note that every entry has been put, and remove all but `names`."""
        for name in (self._known.keys() | self._notes.keys()) - names:
            self.remove(name)
        self._listed = True
        self._wake()

    def hide(self, own: Own) -> None:
        """Replace this node's own part, which no event contains."""
        if own != self._own:
            self.conflicts.remove(self._own.leases - own.leases)
            self.conflicts.add(own.leases - self._own.leases)
            self._own = own
            self._dirty.update(self._claims.subnets)
            self._wake()

    def take(self) -> Snapshot | Delta | None:
        """Return a Snapshot once all entries are listed, then a Delta of the changes; None if there are none."""
        return at_once(self.steps())

    def steps(self) -> Generator[None, None, Snapshot | Delta | None]:
        """Do the same as take(), as work for in_slices(). Entries that change meanwhile may wait for the next event."""
        if not self._listed:
            return None
        dirty, self._dirty = self._dirty, set()
        changed: dict[Subnet, set[Subnet]] = {}
        for subnet in dirty:
            changed.setdefault(self._claims.widest(subnet), set()).add(subnet)
            yield
        changes: dict[Subnet, Lease | None] = {}
        for place, group in changed.items():
            group.update(self._claims.inside(self._claims.widest(place)))  # claims may have changed during a rest
            chosen = self._choose(group)
            for subnet in group:
                before, now = self._reported.pop(subnet, None), chosen.get(subnet)
                if now is not None:
                    self._reported[subnet] = now
                if now != before:
                    changes[subnet] = now
            yield
        added: set[Lease] = set()
        removed: set[Subnet] = set()
        for subnet, lease in changes.items():
            if lease is None:
                removed.add(subnet)
            else:
                added.add(lease)
            yield
        if not self._begun:
            self._begun = True
            return Snapshot(frozenset(added))
        return Delta(frozenset(added), frozenset(removed)) if changes else None

    def _choose(self, group: AbstractSet[Subnet]) -> dict[Subnet, Lease]:
        """Return the lease to use for each of some overlapping subnets, and record why others are not used."""
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

    def _set(self, name: str, after: tuple[Lease, ...], created: str = "") -> None:
        before, since = self._known.pop(name, ()), self._created.pop(name, "")
        if after:
            self._known[name], self._created[name] = after, created
        if after == before and (since == created or not after):
            return
        self.conflicts.remove(before)
        self.conflicts.add(after)
        for lease in before:
            self._dirty.add(lease.subnet)
            self._claims.remove(name, lease.subnet)
            self._forget(name, lease.subnet)
        for lease in after:
            self._dirty.add(lease.subnet)
            self._claims.add(SubnetClaim(created, name, lease))
        self._wake()

    def _refuse(self, claim: SubnetClaim, reason: str) -> None:
        """Record why a claim is not used, and log a new reason; an empty reason means that it is used."""
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
        if self.conflicts.changed:
            self.unsettled.set()

    def _note(self, name: str, reading: Reading) -> None:
        """Record the problem of an entry, and log it if it is new."""
        if reading.problem:
            self._problems[name] = printable(reading.problem, MAX_REASON)
        else:
            self._problems.pop(name, None)
        note = printable(reading.problem or reading.unreachable, MAX_REASON)
        if note and self._notes.get(name) != note and self._quota.allows():
            log.warning("lease_quarantined" if reading.problem else "lease_odd", entry=name, reason=note)
        if note:
            self._notes[name] = note
        else:
            self._notes.pop(name, None)
