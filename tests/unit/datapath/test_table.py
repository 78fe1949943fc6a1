"""The subnet-to-VTEP table: longest prefix first, whatever the order the leases came in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import permutations

import pytest

from tests.frames import MAC_B, MAC_C, OUTER_B, OUTER_C, VNI, halves, lease, peers_of_a
from vxland.datapath.owners import Owners
from vxland.datapath.table import Table, table_of
from vxland.model.lease import Change, Lease, Mac, Vtep
from vxland.model.steps import at_once
from vxland.node.peer_table import PeerTable

NONE = -1
B, C = Vtep(ip_address(OUTER_B), Mac(MAC_B)), Vtep(ip_address(OUTER_C), Mac(MAC_C))


def lookup(table: Table, address: str) -> Vtep | None:
    """The owner of an inner address."""
    return table.lookup(ip_address(address))


def test_subnets_of_both_families_lead_to_their_vtep() -> None:
    """First and last address of each, and the neighbours outside."""
    table = peers_of_a()
    owners = {
        "10.244.0.255": None,
        "10.244.1.0": B,
        "10.244.1.255": B,
        "10.244.2.0": C,
        "10.244.3.0": None,
        "fd00:244::ffff:ffff:ffff:ffff": None,
        "fd00:244:0:1::": B,
        "fd00:244:0:1:ffff:ffff:ffff:ffff": B,
        "fd00:244:0:2::": C,
        "fd00:244:0:3::": None,
    }
    assert {address: lookup(table, address) for address in owners} == owners


def test_an_empty_table_owns_nothing() -> None:
    """A node whose registry is empty still runs."""
    table = table_of([], VNI)
    assert (table.count, list(table.vteps), table.underlay_v6) == (0, [], False)
    assert lookup(table, "10.244.1.1") is None
    assert lookup(table, "::") is None
    assert table.by_mac.lookup(0, MAC_B) == table.by_outer.lookup(0, 0) == NONE


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_longest_prefix_wins(order: tuple[int, ...]) -> None:
    """A default, an aggregate, a subnet and a host route, leased in any order."""
    leases = [
        lease("0.0.0.0/0", OUTER_B, MAC_B),
        lease("10.244.0.0/16", OUTER_C, MAC_C),
        lease("10.244.1.0/24", OUTER_B, MAC_B),
        lease("10.244.1.13/32", OUTER_C, MAC_C),
    ]
    table = table_of([leases[i] for i in order], 8472)
    found = [lookup(table, dst) for dst in ("192.0.2.1", "10.244.9.9", "10.244.1.12", "10.244.1.13", "10.244.1.14")]
    assert found == [B, C, B, C, B]


@pytest.mark.parametrize(("subnet", "inside"), [("0.0.0.0/0", "255.255.255.255"), ("::/0", "ffff::1")])
def test_a_default_route_owns_one_family(subnet: str, inside: str) -> None:
    """/0 covers every address of its own, and none of the other."""
    table = table_of([lease(subnet, OUTER_B, MAC_B)], 8472)
    for address in ("0.0.0.0", "10.244.1.1", "::", "ffff::1", inside):  # noqa: S104  (nothing is bound)
        same = ("." in address) == ("." in subnet)
        assert lookup(table, address) == (B if same else None)


@pytest.mark.parametrize("subnet", ["10.244.1.13/32", "fd00:244:0:1::d/128"])
def test_a_host_route_owns_one_address(subnet: str) -> None:
    """All bits of the key count."""
    table = table_of([lease(subnet, OUTER_B, MAC_B)], 8472)
    address = ip_address(subnet.partition("/")[0])
    assert table.lookup(address) == B
    assert table.lookup(address + 1) is None
    assert table.lookup(address - 1) is None


def test_a_mac_that_two_nodes_claim_names_neither() -> None:
    """The inner destination then decides; a node with two subnets still is one VTEP."""
    leases = [lease("10.244.1.0/24", OUTER_B, MAC_B), lease("fd00:244:0:1::/64", OUTER_B, MAC_B)]
    assert table_of(leases, 8472).by_mac.lookup(0, MAC_B) == 0
    table = table_of([*leases, lease("10.244.2.0/24", OUTER_C, MAC_B)], 8472)
    assert table.by_mac.lookup(0, MAC_B) == NONE
    assert lookup(table, "10.244.1.1") == B
    assert lookup(table, "10.244.2.1") == Vtep(ip_address(OUTER_C), Mac(MAC_B))


def test_a_vtep_with_several_leases_is_one_vtep() -> None:
    """Dual-stack nodes hold two; it has one index."""
    table = peers_of_a(port=4789)
    assert list(table.vteps) == [table.vtep_at(0), table.vtep_at(1)] == [B, C]
    assert table.port == 4789


def test_macs_and_outer_sources_are_matched_whole() -> None:
    """All 48 and all 128 bits."""
    table = peers_of_a()
    assert [table.by_mac.lookup(0, mac) for mac in (MAC_B, MAC_C, MAC_B ^ 1, MAC_B ^ 1 << 47)] == [0, 1, NONE, NONE]
    assert [table.by_outer.lookup(*halves(outer)) for outer in (OUTER_B, OUTER_C, "192.168.111.131")] == [0, 1, NONE]


def test_an_ipv6_underlay() -> None:
    """VTEPs that differ in the high half alone, or in the low one, are distinct."""
    outers = ["2001:db8::1", "2001:db8::2", "2001:db8:1::1"]
    leases = [lease(f"10.244.{i}.0/24", outer, MAC_B + i) for i, outer in enumerate(outers)]
    table = table_of(leases, 8472)
    assert table.underlay_v6
    assert [table.by_outer.lookup(*halves(outer)) for outer in outers] == [0, 1, 2]
    assert table.by_outer.lookup(*halves("2001:db8:1::2")) == NONE


def changed(table: Table, owners: Owners, removed: Iterable[Lease] = (), added: Iterable[Lease] = ()) -> Table:
    """Return the table after a change of leases."""
    return at_once(table.changing(owners.change(removed, added)))


def test_a_table_is_never_edited() -> None:
    """A burst goes on with the one that it began with, whose indices lead where they led."""
    owners = Owners()
    nat = ip_network("198.51.100.0/24")
    of_b, of_c = (lease("10.244.1.0/24", OUTER_B, MAC_B), lease("10.244.2.0/24", OUTER_C, MAC_C))
    first = changed(Table(8472), owners, (), (of_b, of_c))
    other = replace(of_b, vtep=Vtep(B.address, Mac(MAC_B + 2)), sources=(nat,))
    second = changed(first, owners, (of_b,), (other, *(lease(f"10.3.{i}.0/24", "192.0.2.9", 2) for i in range(200))))
    third = changed(second, owners, (other, of_c))
    for _ in range(2):
        assert [lookup(first, "10.244.1.1"), lookup(first, "10.244.2.1"), lookup(first, "10.3.1.1")] == [B, C, None]
        assert [first.by_mac.lookup(0, mac) for mac in (MAC_B, MAC_B + 2)] == [0, NONE]
        assert not first.sends_from(0, *halves("198.51.100.1"))
        assert [lookup(second, "10.244.1.1"), lookup(second, "10.244.2.1")] == [other.vtep, C]
        assert [second.by_mac.lookup(0, mac) for mac in (MAC_B, MAC_B + 2)] == [NONE, 2]
        assert second.sends_from(second.by_outer.lookup(*halves(OUTER_B)), *halves("198.51.100.1"))
        assert [lookup(third, "10.244.1.1"), lookup(third, "10.244.2.1")] == [None, None]
        assert third.by_outer.lookup(*halves("198.51.100.1")) == NONE
        changed(first, owners, (), (of_c,))  # of the same lineage, from an older table
    assert list(third.vteps) == [Vtep(ip_address("192.0.2.9"), Mac(2)), C]


def test_other_sources_are_another_index() -> None:
    """All that led to the VTEP leads to it again."""
    owners = Owners()
    before = lease("10.244.1.0/24", OUTER_B, MAC_B)
    first = changed(Table(8472), owners, (), (before, lease("fd00:244:0:1::/64", OUTER_B, MAC_B)))
    second = changed(first, owners, (before,), (replace(before, sources=(ip_network("198.51.100.7/32"),)),))
    assert [first.count, second.count] == [1, 2]
    assert [lookup(second, "10.244.1.1"), lookup(second, "fd00:244:0:1::1")] == [B, B]
    assert second.by_mac.lookup(0, MAC_B) == second.by_outer.lookup(*halves(OUTER_B)) == 1
    assert second.is_inner_source(6, *halves("fd00:244:0:1::1"), *halves("198.51.100.7"))
    assert not first.is_inner_source(6, *halves("fd00:244:0:1::1"), *halves("198.51.100.7"))


def test_a_table_with_more_dead_indices_than_live_ones_is_sparse() -> None:
    """It is then built again, so that years of changes do not grow the arrays."""
    peers = PeerTable(8472, 4)
    held = [lease(f"10.244.{i}.0/24", f"192.0.2.{i}", MAC_B + i) for i in range(100)]
    at_once(peers.changing(Change(added=frozenset(held))))
    lineage, counts = peers.table.lineage, []
    for round_ in range(3):
        for i, old in enumerate(held):
            held[i] = replace(old, vtep=replace(old.vtep, mac=Mac(MAC_C + 1000 * round_ + i)))
            owned = at_once(peers.changing(Change(frozenset({old}), frozenset({held[i]}))))
            assert (owned.gone, owned.new) == ((old.vtep,), (held[i].vtep,))
            assert lookup(peers.table, f"10.244.{i}.9") == held[i].vtep
            counts.append(peers.table.count)
    assert max(counts) == 2 * len(held)
    assert min(counts[len(held) :]) == len(held)
    assert peers.table.lineage is not lineage
    assert (
        {peers.table.lookup(each.subnet[1]) for each in held} == {each.vtep for each in held} == set(peers.table.vteps)
    )
