"""VTEP addresses and MACs that several nodes claim. view.py handles overlapping subnets. Pure.

A node has one subnet of each IP version, so only leases of one version are compared. A change of a lease is compared
with the others that claim the same address or MAC.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from heapq import nsmallest
from typing import TypeAlias

from vxland.model.lease import Address, Lease, Mac, Subnet

_NAMED = 3  # subnets that a sentence names

Claimed: TypeAlias = tuple[int, Address | Mac]
"""An IP version of subnets, and the VTEP address or the MAC."""


class LeaseConflicts:
    """All leases of a store, by the VTEP addresses and MACs that they claim. A lease may be added several times."""

    def __init__(self) -> None:
        # Nearly all are claimed once, and have their subnet here without a Counter around it.
        self._subnets: dict[int, dict[Address | Mac, Subnet | Counter[Subnet]]] = {4: {}, 6: {}}
        self._changed: set[Claimed] = set()

    @property
    def changed(self) -> bool:
        """Whether news() has anything."""
        return bool(self._changed)

    def add(self, leases: Iterable[Lease]) -> None:
        """Add leases."""
        for lease in leases:
            version, subnet = lease.subnet.version, lease.subnet
            for claimed in (lease.vtep.address, lease.vtep.mac):
                before = self._subnets[version].get(claimed)
                if before is None:
                    self._subnets[version][claimed] = subnet
                    continue
                if isinstance(before, Counter):
                    before[subnet] += 1
                else:
                    self._subnets[version][claimed] = Counter((before, subnet))
                self._changed.add((version, claimed))

    def remove(self, leases: Iterable[Lease]) -> None:
        """Remove leases that have been added."""
        for lease in leases:
            version, subnet = lease.subnet.version, lease.subnet
            for claimed in (lease.vtep.address, lease.vtep.mac):
                before = self._subnets[version][claimed]
                if not isinstance(before, Counter):
                    del self._subnets[version][claimed]
                    continue
                before[subnet] -= 1
                if not before[subnet]:
                    del before[subnet]
                if len(before) == 1 and (last := next(iter(before.items())))[1] == 1:
                    self._subnets[version][claimed] = last[0]
                self._changed.add((version, claimed))

    def news(self) -> Generator[None, None, Mapping[Claimed, str]]:
        """Return a sentence for each address and MAC whose claims have changed; empty: several nodes have it no more.

        Work for in_slices().
        """
        changed, self._changed = self._changed, set()
        found: dict[Claimed, str] = {}
        for version, claimed in changed:
            subnets = self._subnets[version].get(claimed)
            several = subnets if isinstance(subnets, Counter) and len(subnets) > 1 else None
            found[version, claimed] = _sentence(claimed, several) if several else ""
            yield
        return found


def _sentence(claimed: Address | Mac, subnets: Counter[Subnet]) -> str:
    what = "MAC" if isinstance(claimed, Mac) else "VTEP address"
    named = ", ".join(map(str, nsmallest(_NAMED, subnets, key=_order)))
    more = f" and {len(subnets) - _NAMED} more" if len(subnets) > _NAMED else ""
    return f"the {what} {claimed} is that of the nodes of {named}{more}: every node needs its own"


def _order(subnet: Subnet) -> tuple[int, int]:
    return int(subnet.network_address), subnet.prefixlen
