"""A change of the leases, as one plane takes it: its own part, and that in short parts for what follows peers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from itertools import islice
from typing import Final

from vxland.model.lease import Change, Lease, Subnet, Vtep

PART: Final = 64
"""Leases that are passed on between two rests: 1 ms."""


def part_of(change: Change, versions: Collection[int], outer: int) -> Generator[None, None, Change]:
    """Return the leases on subnets of the IP versions `versions`, over VTEPs of the version `outer`."""
    kept = []
    for leases in (change.removed, change.added):
        others = []
        for lease in leases:
            if lease.subnet.version not in versions or lease.vtep.address.version != outer:
                others.append(lease)
            yield
        kept.append(leases.difference(others))
    return Change(*kept)


def in_parts(change: Change, follow: Callable[[list[Lease], list[Lease]], None]) -> Generator[None, None, None]:
    """Call `follow(removed, added)` with PART leases at a time, without those whose subnet keeps its VTEP.

    Added leases come first, so that what is known of a VTEP or a node is not forgotten when one of its leases changes.
    """
    vteps: dict[Subnet, Vtep] = {}
    kept: set[Subnet] = set()
    for lease in change.removed:
        vteps[lease.subnet] = lease.vtep
        yield
    for lease in change.added if vteps else ():
        if vteps.get(lease.subnet) == lease.vtep:
            kept.add(lease.subnet)
        yield
    for leases, are_new in ((change.added, True), (change.removed, False)):
        rest = (lease for lease in leases if not kept or lease.subnet not in kept)
        while part := list(islice(rest, PART)):
            follow([] if are_new else part, part if are_new else [])
            yield
