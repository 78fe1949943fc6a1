"""Entries of the programs' maps: they find the same VTEPs as the table, in slots that no two of them share."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.overlapping import (
    OUTERS,
    PORT,
    PROBES_4,
    PROBES_6,
    PROBES_OUTER,
    SUBNETS_4,
    VTEPS,
    tables,
)
from vxland.datapath.limits import Limits
from vxland.datapath.table import Table
from vxland.fastpath.entries import MAPS, Entries, Slots, difference, entries
from vxland.fastpath.layout import PEERS, SUBNETS, pack_mac, pack_number, pack_peer, pack_prefix
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep

MTU, DEVICE, NONE = 1450, 7, -1


def entries_of(table: Table, slots: Slots | None = None, most: dict[Address, int] | None = None) -> Entries:
    """Return the entries of a table, all of whose VTEPs are behind DEVICE."""
    assigned, _ = (slots or Slots()).assign(table.vteps)
    return entries(Limits(table, most or {}), assigned, MTU, dict.fromkeys((vtep.address for vtep in VTEPS), DEVICE))


def longest(entries_by_prefix: dict[bytes, bytes], address: Address) -> int | None:
    """Return the slot of the longest prefix with the address, as the kernel finds it."""
    found, best = None, -1
    for key, value in entries_by_prefix.items():
        prefixlen, network = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:], "big")
        if prefixlen > best and (int(address) ^ network) >> (address.max_prefixlen - prefixlen) == 0:
            found, best = int.from_bytes(value, "little"), prefixlen
    return found


@given(tables)
def test_the_maps_find_what_the_table_finds(table: Table) -> None:
    """By outer source, inner address and MAC. Of two VTEPs that share a source, the program counted for the other."""
    slots = Slots()
    found = {name: dict(each) for name, each in entries_of(table, slots).items()}
    by_slot = {slot: vtep for vtep, slot in slots.assign(table.vteps)[0].items()}

    def vtep_at(index: int) -> Vtep | None:
        return None if index == NONE else table.vteps[index]

    def vtep_in(name: str, address: Address) -> Vtep | None:
        return by_slot.get(longest(found[name], address) or 0)

    for address in PROBES_OUTER:
        assert vtep_in("sources", address) == vtep_at(table.by_outer.lookup(0, int(address)))
    for address in PROBES_4:
        assert vtep_in("inner_v4", address) == table.lookup(address)
    for address in PROBES_6:
        assert vtep_in("inner_v6", address) == table.lookup(address)
    for vtep in VTEPS:
        peer = found["peers"].get(pack_mac(vtep.mac))
        to = vtep_at(table.by_mac.lookup(0, vtep.mac.value))
        wanted = None if to is None or not isinstance(to.address, IPv4Address) else to
        assert (peer is None) == (wanted is None)
        if wanted is not None:
            assert peer == pack_peer(wanted.address, slots.assign(table.vteps)[0][wanted], MTU, DEVICE)  # type: ignore[arg-type]


@given(st.lists(tables, max_size=5))
def test_a_difference_changes_one_into_the_other(found: list[Table]) -> None:
    """Applied to any state of the maps, in any order of tables; and nothing that stays is written again."""
    slots = Slots()
    maps: dict[str, dict[bytes, bytes]] = {name: {} for name in MAPS}
    before: Entries = {}
    for table in found:
        after = entries_of(table, slots)
        change = difference(before, after)
        for name in MAPS:
            assert change.delete[name] <= maps[name].keys()
            assert not change.delete[name] & change.put[name].keys()
            assert all(maps[name].get(key) != value for key, value in change.put[name].items())
            maps[name] = {key: value for key, value in maps[name].items() if key not in change.delete[name]}
            maps[name].update(change.put[name])
        assert maps == after
        before = after
    nothing = difference(before, before or entries_of(Table((), PORT)))
    assert not any(nothing.put.values())
    assert not any(nothing.delete.values())


@given(st.lists(st.lists(st.sampled_from(VTEPS), unique=True).map(tuple), max_size=12))
def test_slots_are_never_shared_and_are_kept(steps: list[tuple[Vtep, ...]]) -> None:
    """While a VTEP has a lease; after that its slot may be another's, whose counters then begin there."""
    slots = Slots()
    before: dict[Vtep, int] = {}
    for vteps in steps:
        assigned, new = slots.assign(vteps)
        assert assigned.keys() == set(vteps)
        assert len(set(assigned.values())) == len(vteps)
        assert all(1 <= slot <= PEERS for slot in assigned.values())
        kept = {vtep: slot for vtep, slot in before.items() if vtep in vteps}
        assert {vtep: assigned[vtep] for vtep in kept} == kept
        assert sorted(new) == sorted(slot for vtep, slot in assigned.items() if vtep not in before)
        before = dict(assigned)


def many(count: int) -> tuple[Vtep, ...]:
    """Return as many VTEPs."""
    return tuple(Vtep(IPv4Address(0x0A00_0000 + i), Mac(0x02_00_00_00_00_00 + i)) for i in range(count))


def test_vteps_beyond_the_maps_get_no_slot() -> None:
    """They get the slots of those that leave."""
    slots, vteps = Slots(), many(PEERS + 2)
    assigned, new = slots.assign(vteps)
    assert assigned.keys() == set(vteps[:PEERS])
    assert len(new) == PEERS
    assigned, new = slots.assign(vteps[1:])
    assert assigned.keys() == set(vteps[1 : PEERS + 1])
    assert len(new) == 1


def lease(subnet: Subnet, number: int = 1, sources: tuple[Subnet, ...] = ()) -> Lease:
    """Return a lease of VTEP `number`."""
    return Lease(subnet, Vtep(ip_address(f"192.0.2.{number}"), Mac(number)), sources)


@pytest.mark.parametrize(("most", "want"), [({}, MTU), ({OUTERS[0]: 1300}, 1300), ({OUTERS[0]: 9000}, MTU)])
def test_the_limit_is_the_paths_or_the_devices(most: dict[Address, int], want: int) -> None:
    """Whichever is lower."""
    table = Table([lease(SUBNETS_4[0])], PORT)
    assert entries_of(table, most=most)["peers"] == {pack_mac(Mac(1)): pack_peer(IPv4Address("192.0.2.1"), 1, want, 7)}


def test_a_vtep_without_an_interface_is_not_sent_to() -> None:
    """Its datagrams are still taken."""
    table = Table([lease(SUBNETS_4[0])], PORT)
    found = entries(Limits(table, {}), {table.vteps[0]: 1}, MTU, {})
    assert not found["peers"]
    assert found["sources"] == {pack_prefix(IPv4Network("192.0.2.1")): pack_number(1)}
    assert found["inner_v4"] == {pack_prefix(SUBNETS_4[0]): pack_number(1)}


def test_a_vtep_without_a_slot_still_owns_its_subnets() -> None:
    """Another VTEP's shorter prefix, or its claim on the same subnet, allowed it to send from there: strict check."""
    one, other = Vtep(OUTERS[0], Mac(1)), Vtep(OUTERS[1], Mac(2))
    inside, same = IPv4Network("10.1.1.0/24"), IPv4Network("10.2.0.0/24")
    table = Table(
        [Lease(IPv4Network("10.1.0.0/16"), one), Lease(inside, other), Lease(same, one), Lease(same, other)], PORT
    )
    owner = table.lookup(ip_address("10.2.0.1"))
    for without in (one, other):
        slots = {vtep: slot for slot, vtep in enumerate((one, other), 1) if vtep != without}
        found = dict(entries(Limits(table, {}), slots, MTU, {})["inner_v4"])
        assert longest(found, ip_address("10.1.1.1")) == slots.get(other, 0)
        assert longest(found, ip_address("10.1.2.1")) == slots.get(one, 0)
        assert longest(found, ip_address("10.2.0.1")) == (0 if owner == without else next(iter(slots.values())))


def test_the_longest_prefixes_stay_when_there_are_too_many() -> None:
    """A shorter one that stayed would lend the addresses of a missing one to another VTEP."""
    subnets = [IPv4Network((0x0A00_0000 + (i << 8), 24)) for i in range(SUBNETS)]
    table = Table([lease(IPv4Network("10.0.0.0/8"), 2), *(lease(subnet) for subnet in subnets)], PORT)
    found = dict(entries_of(table)["inner_v4"])
    assert len(found) == SUBNETS
    assert longest(found, subnets[-1].network_address) == longest(found, subnets[0].network_address)
    assert longest(found, ip_address("10.255.255.1")) is None


def test_sources_of_ipv6_are_left_out() -> None:
    """The underlay of the programs is IPv4."""
    table = Table([lease(SUBNETS_4[0], sources=(IPv6Network("2001:db8::/64"), IPv4Network("198.51.100.0/24")))], PORT)
    found = entries_of(table)["sources"]
    assert sorted(found) == sorted(pack_prefix(IPv4Network(each)) for each in ("192.0.2.1", "198.51.100.0/24"))
