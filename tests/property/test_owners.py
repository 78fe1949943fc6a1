"""Owners after any sequence of changes, against a naive scan of the leases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vxland.datapath.owners import Owners
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep
from vxland.model.steps import at_once

K = TypeVar("K")

# Few values of each kind, so that they meet: VTEPs with one address or one MAC, sources that are addresses of others.
ADDRESSES: list[Address] = [IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv6Address("2001:db8::1")]
MACS = [Mac(2), Mac(4), Mac(6)]
SOURCES: list[Subnet] = [
    ip_network("192.0.2.0/30"),
    ip_network("2001:db8::/64"),
    *(ip_network(each) for each in ADDRESSES),
]
SUBNETS: list[Subnet] = [
    *(IPv4Network((0x0AF4_0000 + (i << 8), 24)) for i in range(5)),
    ip_network("10.244.0.0/16"),
    ip_network("fd00:244::/64"),
]

leases = st.builds(
    Lease,
    st.sampled_from(SUBNETS),
    st.builds(Vtep, st.sampled_from(ADDRESSES), st.sampled_from(MACS)),
    st.lists(st.sampled_from(SOURCES), max_size=3).map(tuple),
)


def order(vtep: Vtep) -> tuple[int, int]:
    """Of several claimants of a source, the first one has it."""
    return vtep.mac.value, int(vtep.address)


def naive(held: Iterable[Lease]) -> tuple[dict[Mac, Vtep], dict[Subnet, Vtep], dict[Subnet, Vtep]]:
    """Return the owners of MACs, sources and subnets, found by trying every lease."""
    held = list(held)
    vteps = {lease.vtep for lease in held}
    macs = {vtep.mac: vtep for vtep in vteps if sum(other.mac == vtep.mac for other in vteps) == 1}
    sources: dict[Subnet, Vtep] = {}
    for source in SOURCES:
        own = [vtep for vtep in vteps if ip_network(vtep.address) == source]
        naming = [lease.vtep for lease in held if source in lease.sources]
        if own or naming:
            sources[source] = min(own or naming, key=order)
    return macs, sources, {lease.subnet: lease.vtep for lease in held}


class OwnersMachine(RuleBasedStateMachine):
    """Changes of several leases at a time, which may replace leases or remove some that nobody holds."""

    def __init__(self) -> None:
        super().__init__()
        self.owners = Owners()
        self.held: dict[Subnet, Lease] = {}
        self.macs: dict[Mac, Vtep] = {}
        self.sources: dict[Subnet, Vtep] = {}
        self.subnets: dict[Subnet, Vtep] = {}

    @rule(removed=st.lists(leases, max_size=4), added=st.lists(leases, max_size=4))
    def change(self, removed: list[Lease], added: list[Lease]) -> None:
        """Apply a change, and what it reports to the copy that a follower has."""
        before = {lease.vtep: self.names_of(lease.vtep) for lease in self.held.values()}
        for lease in removed:
            self.held.pop(lease.subnet, None)
        for lease in added:
            self.held[lease.subnet] = lease
        found = self.owners.change(removed, added)
        now = {lease.vtep for lease in self.held.values()}
        assert set(found.gone) == before.keys() - now
        assert set(found.new) == now - before.keys()
        assert {vtep: set(names) for vtep, names in found.given.items()} == {
            vtep: names for vtep in now if (names := self.names_of(vtep)) != before.get(vtep, set())
        }
        self.follow(found.macs, self.macs, found.given)
        self.follow(found.sources, self.sources, found.given)
        self.follow(found.subnets, self.subnets, found.given)

    def names_of(self, vtep: Vtep) -> set[Subnet]:
        """Return the sources that the leases of a VTEP name."""
        return {source for lease in self.held.values() if lease.vtep == vtep for source in lease.sources}

    def follow(self, changed: Mapping[K, Vtep | None], copy: dict[K, Vtep], given: Collection[Vtep]) -> None:
        """Apply the change of one kind of key.

        Keys whose owner stays are reported if its sources are others than before, and then all of them.
        """
        for key, owner in changed.items():
            assert owner in given or copy.get(key) != owner
            if owner is None:
                del copy[key]
            else:
                copy[key] = owner
        assert all(key in changed for key, owner in copy.items() if owner in given)

    @invariant()
    def agrees_with_a_scan(self) -> None:
        """The rules, and a follower of nothing but changes."""
        macs, sources, subnets = naive(self.held.values())
        assert (self.macs, self.sources, self.subnets) == (macs, sources, subnets)
        assert {mac: self.owners.owner_of_mac(mac) for mac in MACS} == {mac: macs.get(mac) for mac in MACS}
        assert {each: self.owners.owner_of_source(each) for each in SOURCES} == {
            each: sources.get(each) for each in SOURCES
        }
        assert dict(self.owners.leases) == self.held
        again = Owners().change((), self.held.values())
        whole = at_once(self.owners.whole())
        assert (whole.macs, whole.sources, whole.subnets, whole.given) == (self.macs, sources, subnets, again.given)
        assert set(whole.new) == set(again.new)
        assert set(self.owners.vteps) == {lease.vtep for lease in self.held.values()}
        for vtep in self.owners.vteps:
            assert {lease.subnet for lease in self.owners.leases_of(vtep)} == {
                subnet for subnet, owner in subnets.items() if owner == vtep
            }
            assert vtep in self.owners.at(vtep.address)


TestOwners = OwnersMachine.TestCase
TestOwners.settings = settings(deadline=None, max_examples=120, stateful_step_count=20)
