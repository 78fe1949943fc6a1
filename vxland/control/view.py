"""What one watch knows of the entries of a store, and what of it its reader has not been told yet.

An entry is what one node has there: a key in etcd, a Node in Kubernetes. One that is not understood keeps, for each IP
version, the lease it was last understood as; only its deletion ends that. Several entries may claim one subnet: all are
kept, and told together, so that whoever chooses sees them all (datapath/table.py and control/plan.py choose alike).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import structlog

from vxland.control.quota import Quota
from vxland.control.trouble import StoreError
from vxland.model import Delta, Lease, Snapshot, Subnet
from vxland.text import printable

MAX_ENTRIES: Final = 1 << 16
"""Entries of a store that are kept, the quarantined ones included: a 10.0.0.0/8 has as many /24 subnets."""

MAX_NAME: Final = 253
"""Characters of an entry's name: a Node's is a DNS name."""

MAX_REASON: Final = 300
"""Characters of why one is not understood."""

log = structlog.get_logger()


class OverfullError(StoreError):
    """A store has more than MAX_ENTRIES entries: what is known stays in force, and nothing is taken away."""

    def __init__(self) -> None:
        super().__init__(f"it has more than {MAX_ENTRIES} entries: delete those of nodes that are gone")


@dataclass(frozen=True, slots=True)
class Reading:
    """What an entry says. Neither leases nor `unread`: its node is no peer."""

    leases: Mapping[int, Lease] = field(default_factory=dict)
    """By IP version of the subnet."""

    unread: frozenset[int] = frozenset()
    """IP versions of which nothing can be said now, so that what was known stands."""

    problem: str = ""
    """Why something here is not understood; the entry is quarantined for it."""

    odd: str = ""
    """Why the node cannot be reached, though all is understood."""


@dataclass(frozen=True, slots=True)
class Own:
    """What belongs to this node, and so is not told: its entries, by name, and its leases."""

    entries: frozenset[str] = frozenset()
    leases: frozenset[Lease] = frozenset()

    def covers(self, entry: str, lease: Lease) -> bool:
        """Whether a reader must not see `lease`.

        One that has our address, or part of our subnets, is as bad as our own: it would lead our pods' traffic away.
        """
        return entry in self.entries or any(
            lease.vtep.address == own.vtep.address
            or (lease.subnet.version == own.subnet.version and lease.subnet.overlaps(own.subnet))
            for own in self.leases
        )


class View:
    """The entries by name; take() tells what is new."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Set where take() may have something."""

        self.unsettled = asyncio.Event()
        """Set where `leases` has changed."""

        self.quarantined: dict[str, str] = {}
        """Why an entry is not understood."""

        self._known: dict[str, Mapping[int, Lease]] = {}
        self._claims: dict[Subnet, dict[str, Lease]] = {}
        self._told: dict[Subnet, frozenset[Lease]] = {}
        self._dirty: set[Subnet] = set()
        self._own = Own()
        self._listed = False
        self._begun = False
        self._notes: dict[str, str] = {}
        self._quota = Quota("entries of the registry")

    @property
    def leases(self) -> frozenset[Lease]:
        """Every claim, those on our own subnets and our own included."""
        return self._own.leases.union(*(known.values() for known in self._known.values()))

    def put(self, name: str, reading: Reading) -> None:
        """An entry is there, or has changed. StoreError, and nothing changes, where it is one too many."""
        new = name not in self._known and name not in self._notes
        if new and len(self._known) + len(self._notes) >= MAX_ENTRIES:
            raise OverfullError
        known = self._known.get(name, {})
        kept = {version: known[version] for version in reading.unread if version in known}
        self._set(name, {**kept, **reading.leases})
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
            self._dirty.update(self._claims)
            self._wake()

    def take(self) -> Snapshot | Delta | None:
        """What the reader has to be told now: a Snapshot once all is listed, then Deltas; None: nothing."""
        if not self._listed:
            return None
        added: set[Lease] = set()
        removed: set[Subnet] = set()
        for subnet in self._dirty:
            told, now = self._told.pop(subnet, frozenset()), self._visible(subnet)
            if now:
                self._told[subnet] = now
            if now != told:  # all claims on the subnet: what is added replaces what was known of it
                added |= now
                if not now:
                    removed.add(subnet)
        self._dirty.clear()
        if not self._begun:
            self._begun = True
            return Snapshot(frozenset(added))
        return Delta(frozenset(added), frozenset(removed)) if added or removed else None

    def _visible(self, subnet: Subnet) -> frozenset[Lease]:
        claims = self._claims.get(subnet, {})
        return frozenset(lease for name, lease in claims.items() if not self._own.covers(name, lease))

    def _set(self, name: str, after: Mapping[int, Lease]) -> None:
        before = self._known.pop(name, {})
        if after:
            self._known[name] = after
        if after == before:
            return
        for lease in before.values():
            self._dirty.add(lease.subnet)
            claims = self._claims[lease.subnet]
            del claims[name]
            if not claims:
                del self._claims[lease.subnet]
        for lease in after.values():
            self._dirty.add(lease.subnet)
            self._claims.setdefault(lease.subnet, {})[name] = lease
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.unsettled.set()

    def _note(self, name: str, reading: Reading) -> None:
        """Keep what is wrong with an entry, and log it when it is new."""
        if reading.problem:
            self.quarantined[name] = printable(reading.problem, MAX_REASON)
        else:
            self.quarantined.pop(name, None)
        note = printable(reading.problem or reading.odd, MAX_REASON)
        if note and self._notes.get(name) != note and self._quota.allows():
            log.warning("lease_quarantined" if reading.problem else "lease_odd", entry=name, reason=note)
        if note:
            self._notes[name] = note
        else:
            self._notes.pop(name, None)
