"""Rules of ownership of MACs, sources and subnets, one by one; tests/property has any sequence of changes."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from tests.frames import MAC_B, MAC_C, OUTER_B, OUTER_C, lease
from vxland.datapath.owners import OwnerChange, Owners
from vxland.model.lease import Lease, Mac, Vtep

B, C = Vtep(ip_address(OUTER_B), Mac(MAC_B)), Vtep(ip_address(OUTER_C), Mac(MAC_C))
OF_B, OF_C = lease("10.244.1.0/24", OUTER_B, MAC_B), lease("10.244.2.0/24", OUTER_C, MAC_C)
NAT = IPv4Network("198.51.100.0/24")


@pytest.fixture
def owners() -> Owners:
    """Two nodes with a lease each."""
    owners = Owners()
    owners.change((), (OF_B, OF_C))
    return owners


def test_a_build_is_a_change_from_nothing() -> None:
    """All keys are new, and all VTEPs."""
    found = Owners().change((), (OF_B, OF_C))
    assert found == OwnerChange(
        {B.mac: B, C.mac: C},
        {ip_network(B.address): B, ip_network(C.address): C},
        {OF_B.subnet: B, OF_C.subnet: C},
        new=(B, C),
    )


def test_a_changed_mac_touches_three_kinds_of_key(owners: Owners) -> None:
    """The address stays and gets another owner, since a VTEP is an address with a MAC."""
    other = Vtep(B.address, Mac(MAC_B + 2))
    changed = Lease(OF_B.subnet, other)
    assert owners.change((OF_B,), (changed,)) == OwnerChange(
        {B.mac: None, other.mac: other}, {ip_network(B.address): other}, {OF_B.subnet: other}, (B,), (other,)
    )
    assert owners.change((), (changed,)) == OwnerChange()
    assert owners.leases_of(other) == [changed]


def test_a_mac_of_two_vteps_is_nobodys_until_one_goes(owners: Owners) -> None:
    """The inner destination decides meanwhile."""
    twin = lease("10.244.3.0/24", OUTER_C, MAC_B)
    assert owners.change((), (twin,)).macs == {B.mac: None}
    assert owners.change((twin,), ()).macs == {B.mac: B}


def test_an_own_address_goes_before_a_named_one(owners: Owners) -> None:
    """A lease cannot take the datagrams of another node away, whatever its MAC."""
    thief = Lease(IPv4Network("10.244.3.0/24"), Vtep(ip_address("192.0.2.9"), Mac(2)), (ip_network(B.address), NAT))
    found = owners.change((), (thief,))
    assert found.sources == {ip_network("192.0.2.9"): thief.vtep, NAT: thief.vtep}
    assert found.given == {thief.vtep: tuple(sorted(thief.sources))}
    assert owners.change((OF_B,), ()).sources == {ip_network(B.address): thief.vtep}


def test_nodes_behind_one_address_are_ordered_by_mac(owners: Owners) -> None:
    """The order in which they come makes no difference."""
    high, low = (
        Lease(each.subnet, each.vtep, (NAT,)) for each in sorted((OF_B, OF_C), key=lambda each: -each.vtep.mac.value)
    )
    assert owners.change((), (high,)).sources[NAT] == high.vtep
    assert owners.change((), (low,)).sources[NAT] == low.vtep
    assert owners.change((low,), ()).sources[NAT] == high.vtep


def test_other_sources_bring_all_keys_of_the_vtep(owners: Owners) -> None:
    """Its row in the table is another, so all that leads there changes."""
    found = owners.change((), (Lease(OF_B.subnet, B, (NAT,)),))
    own = {ip_network(B.address): B, NAT: B}
    assert found == OwnerChange({B.mac: B}, own, {OF_B.subnet: B}, given={B: (NAT,)})


def test_a_long_change_has_short_steps() -> None:
    """One lease or one key each, so that a caller can do something else between any two."""
    leases = [lease(f"10.{i >> 8}.{i & 255}.0/24", f"192.0.2.{i & 127}", MAC_B + i) for i in range(500)]
    steps = Owners().changing((), leases)
    assert sum(1 for _ in steps) >= 4 * len(leases)
