"""The subnet-to-VTEP table: longest prefix first, whatever the order the leases came in."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import permutations

import pytest

from tests.frames import MAC_B, MAC_C, OUTER_B, OUTER_C, VNI, halves, lease, number, peers_of_a
from vxland.datapath.table import PrefixMap, Table
from vxland.model.lease import Mac, Vtep

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
    table = Table([], VNI)
    assert (table.leases, table.vteps, table.destinations, table.underlay_v6) == ((), (), [], False)
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
    table = Table([leases[i] for i in order], 8472)
    found = [lookup(table, dst) for dst in ("192.0.2.1", "10.244.9.9", "10.244.1.12", "10.244.1.13", "10.244.1.14")]
    assert found == [B, C, B, C, B]


@pytest.mark.parametrize(("subnet", "inside"), [("0.0.0.0/0", "255.255.255.255"), ("::/0", "ffff::1")])
def test_a_default_route_owns_one_family(subnet: str, inside: str) -> None:
    """/0 covers every address of its own, and none of the other."""
    table = Table([lease(subnet, OUTER_B, MAC_B)], 8472)
    for address in ("0.0.0.0", "10.244.1.1", "::", "ffff::1", inside):  # noqa: S104  (nothing is bound)
        same = ("." in address) == ("." in subnet)
        assert lookup(table, address) == (B if same else None)


@pytest.mark.parametrize("subnet", ["10.244.1.13/32", "fd00:244:0:1::d/128"])
def test_a_host_route_owns_one_address(subnet: str) -> None:
    """All bits of the key count."""
    table = Table([lease(subnet, OUTER_B, MAC_B)], 8472)
    address = ip_address(subnet.partition("/")[0])
    assert table.lookup(address) == B
    assert table.lookup(address + 1) is None
    assert table.lookup(address - 1) is None


def test_of_two_leases_on_one_subnet_one_owns_it() -> None:
    """That of the lower MAC, whose neighbour entry the kernel has; its rival's other subnets are not touched."""
    claims = [
        lease("10.244.1.0/24", OUTER_B, MAC_B),
        lease("10.244.1.0/24", OUTER_C, MAC_C),
        lease("10.244.3.0/24", OUTER_B, MAC_B),
        lease("10.244.4.0/24", OUTER_C, MAC_C),
    ]
    for ordered in permutations(claims):
        table = Table(ordered, 8472)
        assert lookup(table, "10.244.1.1") == min(B, C, key=lambda vtep: vtep.mac)
        assert (lookup(table, "10.244.3.1"), lookup(table, "10.244.4.1")) == (B, C)


def test_a_mac_that_two_nodes_claim_names_neither() -> None:
    """The inner destination then decides; a node with two subnets still is one VTEP."""
    leases = [lease("10.244.1.0/24", OUTER_B, MAC_B), lease("fd00:244:0:1::/64", OUTER_B, MAC_B)]
    assert Table(leases, 8472).by_mac.lookup(0, MAC_B) == 0
    table = Table([*leases, lease("10.244.2.0/24", OUTER_C, MAC_B)], 8472)
    assert table.by_mac.lookup(0, MAC_B) == NONE
    assert lookup(table, "10.244.1.1") == B
    assert lookup(table, "10.244.2.1") == Vtep(ip_address(OUTER_C), Mac(MAC_B))


def test_a_vtep_with_several_leases_is_one_vtep() -> None:
    """Dual-stack nodes hold two; index, destination and MAC are found once."""
    table = peers_of_a(port=4789)
    assert table.vteps == (B, C)
    assert table.destinations == [(OUTER_B, 4789), (OUTER_C, 4789)]
    assert table.port == 4789


def test_macs_and_outer_sources_are_matched_whole() -> None:
    """All 48 and all 128 bits."""
    table = peers_of_a()
    assert [table.by_mac.lookup(0, mac) for mac in (MAC_B, MAC_C, MAC_B ^ 1, MAC_B ^ 1 << 47)] == [0, 1, NONE, NONE]
    assert [table.by_outer.lookup(*halves(outer)) for outer in (OUTER_B, OUTER_C, "192.168.111.131")] == [0, 1, NONE]
    assert table.by_outer.lookup(1, number(OUTER_B)) == NONE


def test_an_ipv6_underlay() -> None:
    """VTEPs that differ in the high half alone, or in the low one, are distinct."""
    outers = ["2001:db8::1", "2001:db8::2", "2001:db8:1::1"]
    leases = [lease(f"10.244.{i}.0/24", outer, MAC_B + i) for i, outer in enumerate(outers)]
    table = Table(leases, 8472)
    assert table.underlay_v6
    assert [table.by_outer.lookup(*halves(outer)) for outer in outers] == [0, 1, 2]
    assert table.by_outer.lookup(*halves("2001:db8:1::2")) == NONE


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 255, 256, 257])
def test_an_area_of_any_size_finds_its_own_and_ends_for_others(count: int) -> None:
    """Half full at most: a probe for what is not there meets a free slot."""
    table = PrefixMap(32, [(i << 8, 24, i) for i in range(count)])
    assert [table.lookup(0, i << 8 | 77) for i in range(count + 50)] == [*range(count), *[NONE] * 50]


def test_keys_that_collide_are_all_found() -> None:
    """So many small areas that in some of them probing starts at the very last slot, and goes round the end."""
    last = 0
    for start in range(200):
        keys = range(start << 8, (start << 8) + 8)
        table = PrefixMap(128, [(key, 128, value) for value, key in enumerate(keys)])
        last += sum(table.hash_of(0, key) & 31 == 31 for key in keys) > 1
        assert [table.lookup(0, key) for key in keys] == list(range(8))
        assert [table.lookup(0, key) for key in range(32)] == [*range(8), *[NONE] * 24] if start == 0 else [NONE] * 32
    assert last


def test_of_two_claims_on_a_key_the_last_counts() -> None:
    """Whatever lies between them; keys of both widths."""
    for bits in (32, 128):
        table = PrefixMap(bits, [(1, bits, 10), (2, bits, 20), (1, bits, 11), (1 << bits - 1, bits, 30)])
        assert [table.lookup(0, 1), table.lookup(0, 2)] == [11, 20]
        assert table.lookup(1 << 63 if bits == 128 else 0, 1 << 31 if bits == 32 else 0) == 30


def test_a_table_is_never_edited() -> None:
    """Leases are kept as they were, sorted; a change of the caller's list changes nothing."""
    leases = [lease("10.244.2.0/24", OUTER_C, MAC_C), lease("10.244.1.0/24", OUTER_B, MAC_B)]
    table = Table(leases, 8472)
    leases.clear()
    assert [str(held.subnet) for held in table.leases] == ["10.244.1.0/24", "10.244.2.0/24"]
