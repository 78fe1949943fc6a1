"""Claims on subnets. If several overlap, the one that came first holds. Pure.

Two prefixes overlap only if one contains the other. So all that overlap a subnet lie in the widest claimed subnet
around it, and a change is settled among those alone. Every node settles alike: by the time when an entry came into the
store (etcd's create revision, a Node's creation time), then by the lower MAC, which flannel's nodes cannot choose.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from vxland.model.lease import Lease, Subnet


@dataclass(frozen=True, slots=True)
class SubnetClaim:
    """The lease of an entry in one IP version; `created` sorts by time."""

    created: str
    entry: str
    lease: Lease

    @property
    def rank(self) -> tuple[str, int, str]:
        """The sort key: the first of several overlapping claims holds."""
        return self.created, self.lease.vtep.mac.value, self.entry


class SubnetClaims:
    """All claims, by subnet."""

    def __init__(self) -> None:
        # Nearly all subnets are claimed once: a dictionary around each claim would take 1 MB with 5,000.
        self._by_subnet: dict[Subnet, SubnetClaim | dict[str, SubnetClaim]] = {}
        self._ordered: dict[int, list[tuple[int, int, Subnet]]] = {4: [], 6: []}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}

    @property
    def subnets(self) -> AbstractSet[Subnet]:
        """The claimed subnets."""
        return self._by_subnet.keys()

    def add(self, claim: SubnetClaim) -> None:
        """Add a claim, or replace the entry's claim on the same subnet."""
        subnet = claim.lease.subnet
        claims = self._by_subnet.get(subnet)
        if isinstance(claims, dict):
            claims[claim.entry] = claim
        elif claims is None or claims.entry == claim.entry:
            self._by_subnet[subnet] = claim
        else:
            self._by_subnet[subnet] = {claims.entry: claims, claim.entry: claim}
        if claims is None:
            insort(self._ordered[subnet.version], (*_place(subnet), subnet))
            self._lengths[subnet.version][subnet.prefixlen] += 1

    def remove(self, entry: str, subnet: Subnet) -> None:
        """Remove the claim of an entry on a subnet."""
        claims = self._by_subnet[subnet]
        if isinstance(claims, dict):
            del claims[entry]
            if len(claims) == 1:
                (self._by_subnet[subnet],) = claims.values()
            return
        del self._by_subnet[subnet]
        ordered, lengths = self._ordered[subnet.version], self._lengths[subnet.version]
        del ordered[bisect_left(ordered, _place(subnet))]
        lengths[subnet.prefixlen] -= 1
        if not lengths[subnet.prefixlen]:
            del lengths[subnet.prefixlen]

    def on(self, subnets: Iterable[Subnet]) -> Iterator[SubnetClaim]:
        """Yield every claim on exactly these subnets."""
        for subnet in subnets:
            claims = self._by_subnet.get(subnet)
            if isinstance(claims, dict):
                yield from claims.values()
            elif claims is not None:
                yield claims

    def widest(self, subnet: Subnet) -> Subnet:
        """Return the widest claimed subnet that contains this one, or this one."""
        return next(self._around(subnet), subnet)

    def inside(self, subnet: Subnet) -> Iterator[Subnet]:
        """Yield the subnet if it is claimed, and the claimed subnets inside it."""
        ordered = self._ordered[subnet.version]
        first, length = _place(subnet)
        last = first + (1 << subnet.max_prefixlen - length) - 1
        at = bisect_left(ordered, (first, length))
        while at < len(ordered) and ordered[at][0] <= last:
            yield ordered[at][2]
            at += 1

    def settle(self, claims: Iterable[SubnetClaim]) -> Iterator[tuple[SubnetClaim, SubnetClaim | None]]:
        """Yield each claim with the earlier one that it overlaps; None if it holds."""
        held = SubnetClaims()
        for claim in sorted(claims, key=lambda claim: claim.rank):
            before = next(held.on(held.overlapping(claim.lease.subnet)), None)
            if before is None:
                held.add(claim)
            yield claim, before

    def overlapping(self, subnet: Subnet) -> Iterator[Subnet]:
        """Yield claimed subnets that contain the subnet, widest first, then itself and those inside it."""
        yield from self._around(subnet)
        yield from self.inside(subnet)

    def _around(self, subnet: Subnet) -> Iterator[Subnet]:
        for length in sorted(self._lengths[subnet.version]):
            if length >= subnet.prefixlen:
                return
            if (wider := subnet.supernet(new_prefix=length)) in self._by_subnet:
                yield wider


def _place(subnet: Subnet) -> tuple[int, int]:
    return int(subnet.network_address), subnet.prefixlen
