"""Entries of the programs' maps: changes end where a full computation would, and write what they must."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.overlapping import NATS, OUTERS, SUBNETS_4, SUBNETS_6, VTEPS
from vxland.datapath.owners import Owners
from vxland.fastpath.entries import MAPS, Entries, Writes
from vxland.fastpath.layout import pack_mac, pack_number, pack_peer, pack_prefix
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep
from vxland.model.steps import at_once

MTU, DEVICE = 1450, 7

Maps = dict[str, dict[bytes, bytes]]


class Kernel:
    """The maps, as the writes leave them."""

    def __init__(self) -> None:
        self.maps: Maps = {name: {} for name in MAPS}
        self.written: list[tuple[str, bytes, bytes | None]] = []
        self.exact = True
        """Only what is there is deleted. It may be gone if several changes are written at a time."""

    def take(self, writes: Writes) -> list[tuple[str, bytes, bytes | None]]:
        """Do all writes, and return them."""
        done = [self.do(write) for write in writes if write is not None]
        self.written += done
        return done

    def do(self, write: tuple[str, bytes, bytes | None]) -> tuple[str, bytes, bytes | None]:
        """Do one write, and return it."""
        name, key, value = write
        if value is None:
            assert not self.exact or key in self.maps[name]
            self.maps[name].pop(key, None)
        else:
            self.maps[name][key] = value
        return write


def full(
    owners: Owners,
    slots: Mapping[Vtep, int],
    devices: Mapping[Address, int],
    narrow: Mapping[Address, int],
    mtu: int,
    subnets: int,
) -> Maps:
    """Return the maps, computed from all leases at once."""
    leases = owners.leases.values()
    peers, sources = {}, dict[Subnet, int]()
    for vtep in {lease.vtep for lease in leases}:
        alone = sum(other.mac == vtep.mac for other in {lease.vtep for lease in leases}) == 1
        if vtep in slots and alone and vtep.address.version == 4 and vtep.address in devices:
            most = min(narrow.get(vtep.address, 1 << 20), mtu)
            peers[pack_mac(vtep.mac)] = pack_peer(vtep.address, slots[vtep], most, devices[vtep.address])
    for source in {each for lease in leases for each in (ip_network(lease.vtep.address), *lease.sources)}:
        owner = owners.owner_of_source(source)
        if owner is not None and owner in slots and source.version == 4:
            sources[source] = slots[owner]
    inner: dict[int, dict[Subnet, int]] = {4: {}, 6: {}}
    for lease in leases:
        inner[lease.subnet.version][lease.subnet] = slots.get(lease.vtep, 0)

    def fitting(found: dict[Subnet, int]) -> dict[bytes, bytes]:
        longest = sorted(found, key=lambda prefix: (-prefix.prefixlen, prefix.network_address))[:subnets]
        return {pack_prefix(prefix): pack_number(found[prefix]) for prefix in longest}

    return {
        "inner_v4": fitting(inner[4]),
        "inner_v6": fitting(inner[6]),
        "sources": fitting(sources),
        "peers": peers,
    }


class Following(RuleBasedStateMachine):
    """Leases, interfaces and limits that change, the latter also while a change is written; and small maps."""

    peers, subnets = 3, 3

    def __init__(self) -> None:
        super().__init__()
        self.owners = Owners()
        self.begun: list[int] = []
        self.entries = Entries(self.begun.append, self.peers, self.subnets)
        self.kernel = Kernel()
        self.devices: dict[Address, int] = {}
        self.narrow: dict[Address, int] = {}
        self.mtu = 0
        self.writing: Writes | None = None
        self.set_limits({}, MTU)

    @rule(
        removed=st.lists(st.sampled_from([*SUBNETS_4, *SUBNETS_6]), max_size=3),
        added=st.lists(
            st.builds(
                Lease,
                st.sampled_from([*SUBNETS_4, *SUBNETS_6]),
                st.sampled_from(VTEPS),
                st.lists(st.sampled_from([*NATS, IPv6Network("2001:db8::/64")]), max_size=2).map(tuple),
            ),
            max_size=3,
            unique_by=lambda lease: lease.subnet,
        ),
        steps=st.integers(0, 60),
    )
    @precondition(lambda self: self.writing is None)
    def change(self, removed: list[Subnet], added: list[Lease], steps: int) -> None:
        """Leases change; all but the first steps of the writes may come later."""
        gone = [lease for subnet in removed if (lease := self.owners.leases.get(subnet)) is not None]
        before = dict(self.entries.slots)
        writes = self.entries.follow(self.owners, self.owners.change(gone, added))
        for _, write in zip(range(steps), writes, strict=False):
            self.kernel.take(iter([write]))
        self.writing = writes
        if steps < 30:
            return
        self.end_of_change()
        kept = {vtep: slot for vtep, slot in before.items() if vtep in self.owners.vteps}
        assert {vtep: self.entries.slots[vtep] for vtep in kept} == kept
        assert sorted(self.begun) == sorted(slot for vtep, slot in self.entries.slots.items() if vtep not in before)

    @rule()
    @precondition(lambda self: self.writing is not None)
    def end_of_change(self) -> None:
        """The other steps."""
        assert self.writing is not None
        self.kernel.take(self.writing)
        self.writing, self.kernel.exact = None, True

    @rule(address=st.sampled_from(OUTERS), device=st.one_of(st.none(), st.integers(1, 2)))
    def set_device(self, address: Address, device: int | None) -> None:
        """Another interface leads to an address, or none."""
        if device is None:
            self.devices.pop(address, None)
        else:
            self.devices[address] = device
        self.kernel.exact = self.writing is None
        written = self.kernel.take(self.entries.set_devices({address: device}))
        assert {key for _, key, _ in written} <= {pack_mac(vtep.mac) for vtep in VTEPS if vtep.address == address}

    @rule(narrow=st.dictionaries(st.sampled_from(OUTERS), st.sampled_from([1300, 1400, 9000])), mtu=st.just(MTU))
    def set_limits(self, narrow: dict[Address, int], mtu: int) -> None:
        """Paths narrow or widen: what does not change is not written."""
        before = {address: self.narrow.get(address, 1 << 20) for address in OUTERS}
        changed = {address for address in OUTERS if min(before[address], mtu) != min(narrow.get(address, 1 << 20), mtu)}
        if mtu != self.mtu:
            changed = set(OUTERS)
        self.narrow, self.mtu = narrow, mtu
        self.kernel.exact = self.writing is None
        written = self.kernel.take(self.entries.set_limits(narrow, mtu))
        assert {key for _, key, _ in written} <= {pack_mac(vtep.mac) for vtep in VTEPS if vtep.address in changed}

    @rule(mtu=st.sampled_from([1350, MTU]))
    def set_mtu(self, mtu: int) -> None:
        """The device's MTU changes."""
        self.set_limits(self.narrow, mtu)

    @invariant()
    def the_maps_are_as_computed_at_once(self) -> None:
        """Also slots: nobody waits while one is free, no two VTEPs have one."""
        if self.writing is not None:
            return
        self.begun.clear()
        slots = self.entries.slots
        assert len(slots) == min(len(self.owners.vteps), self.peers)
        assert slots.keys() <= self.owners.vteps
        assert len(set(slots.values())) == len(slots)
        assert all(1 <= slot <= self.peers for slot in slots.values())
        wanted = full(self.owners, slots, self.devices, self.narrow, self.mtu, self.subnets)
        assert self.kernel.maps == wanted
        assert self.entries.fill() == {name: len(found) for name, found in wanted.items()}
        for vtep in VTEPS:
            peer = wanted["peers"].get(pack_mac(vtep.mac), b"")
            assert self.entries.is_target(vtep) == (vtep in slots and peer[4:8] == pack_number(slots[vtep]))

    @rule()
    @precondition(lambda self: self.writing is None and len(self.owners.vteps) <= self.peers)
    def load_again(self) -> None:
        """Empty maps are filled by a change from nothing, which writes each entry once."""
        kernel, entries = Kernel(), Entries(self.begun.append, self.peers, self.subnets)
        kernel.take(entries.set_limits(self.narrow, self.mtu))
        kernel.take(entries.set_devices(self.devices))
        assert kernel.written == []
        kernel.take(entries.follow(self.owners, at_once(self.owners.whole())))
        assert kernel.maps == full(self.owners, entries.slots, self.devices, self.narrow, self.mtu, self.subnets)
        assert len(kernel.written) == sum(map(len, kernel.maps.values()))


class FollowingInLargeMaps(Following):
    """The same with maps that hold all."""

    peers, subnets = 10, 20


TestFollowing = Following.TestCase
TestFollowingInLargeMaps = FollowingInLargeMaps.TestCase


def lease(subnet: Subnet, number: int = 1, sources: tuple[Subnet, ...] = ()) -> Lease:
    """Return a lease of VTEP `number`."""
    return Lease(subnet, vtep(number), sources)


def vtep(number: int) -> Vtep:
    """Return a VTEP."""
    return Vtep(IPv4Address(0x0A00_0000 + number), Mac(0x02_00_00_00_00_00 + number))


class Node:
    """Entries with owners and maps, and all VTEPs behind DEVICE."""

    def __init__(self, leases: Iterable[Lease], peers: int = 10, subnets: int = 10) -> None:
        self.owners, self.kernel = Owners(), Kernel()
        self.begun: list[int] = []
        self.entries = Entries(self.begun.append, peers, subnets)
        self.change((), leases)
        self.kernel.take(self.entries.set_limits({}, MTU))
        self.kernel.take(self.entries.set_devices({each.address: DEVICE for each in self.owners.vteps}))

    def change(self, removed: Iterable[Lease], added: Iterable[Lease]) -> list[tuple[str, bytes, bytes | None]]:
        """Return what a change writes."""
        return self.kernel.take(self.entries.follow(self.owners, self.owners.change(removed, added)))


def test_a_changed_mac_writes_the_entries_of_its_vtep() -> None:
    """Of a thousand others none is read or written; peers are deleted first and put last."""
    leases = [lease(IPv4Network((0x0B00_0000 + (i << 8), 24)), i) for i in range(1, 1001)]
    node = Node(leases, 2000, 2000)
    old = leases[500]
    new = Lease(old.subnet, Vtep(old.vtep.address, Mac(0x02_00_00_00_99_99)))
    slot = node.entries.slots[old.vtep]
    node.begun.clear()
    assert node.change([old], [new]) == [
        ("peers", pack_mac(old.vtep.mac), None),
        ("inner_v4", pack_prefix(old.subnet), pack_number(slot)),
        ("sources", pack_prefix(ip_network(old.vtep.address)), pack_number(slot)),
        ("peers", pack_mac(new.vtep.mac), pack_peer(IPv4Address(old.vtep.address), slot, MTU, DEVICE)),
    ]
    assert node.begun == [slot]


def test_a_vtep_without_an_interface_is_not_sent_to() -> None:
    """Its datagrams are still taken."""
    node = Node([lease(SUBNETS_4[0])])
    node.kernel.take(node.entries.set_devices({vtep(1).address: None}))
    assert not node.kernel.maps["peers"]
    assert node.kernel.maps["sources"] == {pack_prefix(ip_network(vtep(1).address)): pack_number(1)}
    assert node.kernel.maps["inner_v4"] == {pack_prefix(SUBNETS_4[0]): pack_number(1)}
    assert (node.entries.is_target(vtep(1)), node.entries.is_sender(vtep(1))) == (False, True)


def test_a_vtep_without_a_slot_still_owns_its_subnets() -> None:
    """Another VTEP's shorter prefix allowed it to send from there: strict check. A slot that gets free is its own."""
    outer, inside = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.1.0/24")
    node = Node([lease(outer, 1)], peers=1)
    node.change((), [lease(inside, 2)])
    assert node.kernel.maps["inner_v4"] == {pack_prefix(outer): pack_number(1), pack_prefix(inside): pack_number(0)}
    assert not node.entries.is_sender(vtep(2))
    node.change([lease(outer, 1)], ())
    assert node.kernel.maps["inner_v4"] == {pack_prefix(inside): pack_number(1)}
    assert node.entries.is_sender(vtep(2))


def test_the_longest_prefixes_stay_when_there_are_too_many() -> None:
    """A shorter one that stayed would lend the addresses of a missing one to another VTEP."""
    subnets = [IPv4Network((0x0A00_0000 + (i << 8), 24)) for i in range(10)]
    node = Node([lease(IPv4Network("10.0.0.0/8"), 2), *(lease(subnet) for subnet in subnets)])
    assert node.kernel.maps["inner_v4"].keys() == set(map(pack_prefix, subnets))
    node.change([lease(subnets[3])], ())
    assert pack_prefix(IPv4Network("10.0.0.0/8")) in node.kernel.maps["inner_v4"]


@pytest.mark.parametrize(("most", "want"), [({}, MTU), ({vtep(1).address: 1300}, 1300), ({vtep(1).address: 9000}, MTU)])
def test_the_limit_is_the_paths_or_the_devices(most: dict[Address, int], want: int) -> None:
    """Whichever is lower."""
    node = Node([lease(SUBNETS_4[0])])
    node.kernel.take(node.entries.set_limits(most, MTU))
    assert node.kernel.maps["peers"] == {
        pack_mac(vtep(1).mac): pack_peer(IPv4Address(vtep(1).address), 1, want, DEVICE)
    }
