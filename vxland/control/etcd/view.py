"""What one watch knows of the entries under `subnets`, and what of it its reader has not been told yet.

An entry that is not understood keeps, subnet by subnet, the lease it was last understood as; only its deletion ends
that. Several entries may claim one subnet: all are kept, and told together, so that whoever chooses sees them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from vxland.control.etcd.formats import BACKEND, Reading
from vxland.model import Delta, Lease, Snapshot, Subnet

_LOGGED = 20  # notes a minute: whoever can write to the store must not fill the log
_MINUTE = 60.0
_SHOWN = 120  # characters of a stranger's key

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hidden:
    """What belongs to this node, and so is not told: its keys, its leases."""

    keys: frozenset[bytes] = frozenset()
    leases: frozenset[Lease] = frozenset()

    def covers(self, key: bytes, lease: Lease) -> bool:
        """Whether a reader must not see `lease`.

        One that has our address, or part of our subnets, is as bad as our own: it would lead our pods' traffic away.
        """
        return key in self.keys or any(
            lease.vtep.address == own.vtep.address
            or (lease.subnet.version == own.subnet.version and lease.subnet.overlaps(own.subnet))
            for own in self.leases
        )


@dataclass(slots=True)
class View:
    """The entries by key. `read` judges one; `name` is what logs and health call it; `vni` is ours."""

    read: Callable[[str, bytes], Reading]
    name: Callable[[bytes], str]
    vni: int
    clock: Callable[[], float]

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set where take() may have something."""

    unsettled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set where all_leases() has changed."""

    revision: int = 0
    """The store's, up to which nothing is missing here; 0 before the first listing."""

    cluster: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)
    """Why an entry is not understood, by its name."""

    _known: dict[bytes, dict[Subnet, Lease]] = field(default_factory=dict)
    _claims: dict[Subnet, dict[bytes, Lease]] = field(default_factory=dict)
    _told: dict[Subnet, frozenset[Lease]] = field(default_factory=dict)
    _dirty: set[Subnet] = field(default_factory=set)
    _begun: bool = False
    _hidden: Hidden = Hidden()
    _notes: dict[bytes, str] = field(default_factory=dict)
    _logged: list[float] = field(default_factory=list)

    def put(self, key: bytes, value: bytes) -> None:
        """An entry is there, or has another value."""
        reading = self.read(self.name(key), value)
        before = self._known.get(key, {})
        after = {subnet: before[subnet] for subnet in reading.waiting if subnet in before}
        after |= {lease.subnet: lease for lease in reading.leases}
        self._claim(key, before, after)
        self._note(key, reading)

    def delete(self, key: bytes) -> None:
        """An entry is gone."""
        self._claim(key, self._known.get(key, {}), {})
        self._known.pop(key, None)
        self._notes.pop(key, None)
        self.quarantined.pop(self._shown(key), None)

    def listed(self, keys: set[bytes], revision: int, cluster: int) -> None:
        """Every entry that is there has been put, and no others are."""
        for key in self._known.keys() - keys:
            self.delete(key)
        self.revision, self.cluster = revision, cluster
        self.changed.set()
        self.unsettled.set()

    def hide(self, hidden: Hidden) -> None:
        """From now on this belongs to this node."""
        if hidden != self._hidden:
            self._hidden = hidden
            self._dirty.update(self._claims)
            self.changed.set()

    def all_leases(self) -> frozenset[Lease]:
        """Every lease, those on our own subnets and our own included."""
        return frozenset(lease for claims in self._claims.values() for lease in claims.values())

    def take(self) -> Snapshot | Delta | None:
        """What the reader has to be told now: a Snapshot once all is listed, then Deltas; None: nothing."""
        if not self.revision:
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
        return frozenset(lease for key, lease in claims.items() if not self._hidden.covers(key, lease))

    def _claim(self, key: bytes, before: dict[Subnet, Lease], after: dict[Subnet, Lease]) -> None:
        self._known[key] = after
        for subnet in before.keys() - after.keys():
            claims = self._claims[subnet]
            del claims[key]
            if not claims:
                del self._claims[subnet]
            self._dirty.add(subnet)
        for subnet, lease in after.items():
            if before.get(subnet) != lease:
                self._claims.setdefault(subnet, {})[key] = lease
                self._dirty.add(subnet)
        if self._dirty:
            self.changed.set()
            self.unsettled.set()

    def _note(self, key: bytes, reading: Reading) -> None:
        """Say once what is odd about an entry."""
        name = self._shown(key)
        if reading.problem:
            self.quarantined[name] = reading.problem
        else:
            self.quarantined.pop(name, None)
        others = [vni for vni in reading.vnis if vni != self.vni]
        note = reading.problem
        if not note and reading.backend not in {"", BACKEND}:
            note = f"its backend is {reading.backend!r}: vxland reaches {BACKEND} nodes only"
        elif not note and others:
            note = f"its VNI is {others[0]} and ours {self.vni}: neither takes the other's frames"
        if note and self._notes.get(key) != note and self._may_log():
            log.warning("lease_quarantined" if reading.problem else "lease_odd", key=name, reason=note)
        if note:
            self._notes[key] = note
        else:
            self._notes.pop(key, None)

    def _shown(self, key: bytes) -> str:
        return self.name(key)[:_SHOWN]

    def _may_log(self) -> bool:
        now = self.clock()
        self._logged = [at for at in self._logged if now - at < _MINUTE]
        if len(self._logged) >= _LOGGED:
            return False
        self._logged.append(now)
        return True
