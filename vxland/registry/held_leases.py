"""The leases that a reader of a registry holds, as its events change them: one on each subnet."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator

from vxland.model.lease import Change, Delta, Lease, Mac, Snapshot, Subnet
from vxland.model.steps import at_once


class HeldLeases(Collection[Lease]):
    """The leases. An event takes effect as a whole: readers see the leases before it or after it."""

    def __init__(self) -> None:
        self._by_subnet: dict[Subnet, Lease] = {}

    def __len__(self) -> int:
        return len(self._by_subnet)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_subnet.values())

    def __contains__(self, lease: object) -> bool:
        return isinstance(lease, Lease) and self._by_subnet.get(lease.subnet) == lease

    def apply(self, event: Snapshot | Delta) -> Change:
        """Apply an event and return what it changes. A Delta costs what it contains."""
        return at_once(self.steps(event))

    def steps(self, event: Snapshot | Delta) -> Generator[None, None, Change]:
        """Do the same as apply(), as work for in_slices(). It must have ended before the next event."""
        given = event.leases if isinstance(event, Snapshot) else event.added
        new = yield from _one_on_each_subnet(given)
        held = self._by_subnet
        if not held and len(new) == len(given):
            self._by_subnet = new
            return Change(added=given)
        removed, added = set[Lease](), set[Lease]()
        for subnet in event.removed if isinstance(event, Delta) else held:
            if subnet not in new and subnet in held:
                removed.add(held[subnet])
            yield
        for subnet, lease in new.items():
            before = held.get(subnet)
            if before != lease:
                added.add(lease)
                if before is not None:
                    removed.add(before)
            yield
        if isinstance(event, Snapshot):
            self._by_subnet = new
        else:
            for lease in removed:
                del held[lease.subnet]
            held.update(new)
        return Change(frozenset(removed), frozenset(added))


def _one_on_each_subnet(leases: frozenset[Lease]) -> Generator[None, None, dict[Subnet, Lease]]:
    """Return the leases by subnet. A faulty store may have several on one: then every node takes the same one."""
    found: dict[Subnet, Lease] = {}
    for lease in leases:
        other = found.setdefault(lease.subnet, lease)
        if other is not lease:
            found[lease.subnet] = min(other, lease, key=_preference)
        yield
    return found


def _preference(lease: Lease) -> tuple[Mac, int, bytes, tuple[str, ...]]:
    address = lease.vtep.address
    return lease.vtep.mac, address.version, address.packed, tuple(map(str, lease.sources))
