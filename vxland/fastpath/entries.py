"""The entries of the programs' maps, which follow the owners of the data path's keys. Pure.

Each entry depends on the owner of its key, and on the slot of that VTEP. Entries of peers also depend on the interface
that leads to the VTEP, and on the bytes that fit into one packet. A change writes the entries that depend on what has
changed, with the values of the moment in which they are written. So changes may be written in steps, between which
interfaces and limits change too.

A VTEP that has no slot, or to which no interface with an Ethernet header leads, is left to the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import Final, TypeAlias

from vxland.datapath.owners import OwnerChange, Owners
from vxland.fastpath.layout import PEERS, SUBNETS, pack_mac, pack_number, pack_peer, pack_prefix
from vxland.fastpath.longest_first import LongestFirst
from vxland.fastpath.slots import Slots
from vxland.model.lease import Address, Mac, Subnet, Vtep, host_prefix

MAPS: Final = ("inner_v4", "inner_v6", "sources", "peers")
"""The maps in the order in which they are filled: no program may carry a frame before all about its VTEP is there."""

MOST: Final = {"inner_v4": SUBNETS, "inner_v6": SUBNETS, "sources": SUBNETS, "peers": PEERS}
"""Maximum number of entries of each map."""

SUM: Final = 0
"""The slot that counts for all VTEPs."""

NOBODY: Final = 0
"""The slot of subnets whose VTEP has none: no datagram comes from it."""

Write: TypeAlias = tuple[str, bytes, bytes | None]
"""A map, a key, and its new value; None: the entry is deleted."""

Writes: TypeAlias = Iterator[Write | None]
"""Writes, each to be done before the next one is taken. None is a step without one."""


class Entries:
    """Entries of empty maps at first. `begin()` is called with a slot before entries of another VTEP have it.

    There are slots for `peers` VTEPs, and each map of prefixes holds `subnets` of them.
    """

    def __init__(self, begin: Callable[[int], None], peers: int = PEERS, subnets: int = SUBNETS) -> None:
        self._begin = begin
        self._slots = Slots(peers)
        self._prefixes = {
            "inner_v4": LongestFirst(32, subnets),
            "inner_v6": LongestFirst(128, subnets),
            "sources": LongestFirst(32, subnets),
        }
        self._targets: dict[Mac, Vtep] = {}
        """VTEPs with a slot, by the MAC that they own."""
        self._at: dict[Address, tuple[Vtep, ...]] = {}
        """The same by address."""
        self._devices: dict[Address, int] = {}
        self._narrow: Mapping[Address, int] = {}
        self._mtu = 0

    @property
    def slots(self) -> Mapping[Vtep, int]:
        """The slots of VTEPs. Borrowed: valid until the next change."""
        return self._slots.by_vtep

    def fill(self) -> dict[str, int]:
        """Return the number of entries of each map."""
        peers = sum(len(vteps) for address, vteps in self._at.items() if address in self._devices)
        return {name: len(each) for name, each in self._prefixes.items()} | {"peers": peers}

    def is_target(self, vtep: Vtep) -> bool:
        """Return whether programs send to a VTEP."""
        return vtep.address in self._devices and self._targets.get(vtep.mac) == vtep

    def is_sender(self, vtep: Vtep) -> bool:
        """Return whether programs recognize the datagrams of a VTEP."""
        own = host_prefix(vtep.address)
        return vtep in self.slots and own.version == 4 and self._prefixes["sources"].holds(own)

    def follow(self, owners: Owners, change: OwnerChange) -> Writes:
        """Follow a change, after which `owners` stay as they are until the last write."""
        for gone in change.gone:
            self._slots.remove(gone)
            yield None
        served = []
        while (waited := self._slots.serve()) is not None:
            self._begin(self.slots[waited])
            served.append(waited)
            yield None
        for new in change.new:
            if self._slots.add(new):
                self._begin(self.slots[new])
            yield None
        macs = change.macs if not served else {**change.macs, **_macs_of(owners, served)}
        was_target = {}
        for mac, vtep in macs.items():
            was_target[mac] = self._aim(mac, vtep)
            yield None
        held: dict[str, dict[Subnet, bool]] = {name: {} for name in self._prefixes}
        for name, prefix, owner in _prefixes_of(owners, change, served):
            self._move(name, prefix, owner, held[name])
            yield None
        yield from self._deletions(was_target, held)
        yield from self._additions(owners, was_target, held)

    def set_devices(self, devices: Mapping[Address, int | None]) -> Writes:
        """Follow a change of the interfaces that lead to these addresses; None: none does."""
        for address, index in devices.items():
            before = self._devices.get(address)
            if index == before:
                continue
            if index is None:
                del self._devices[address]
            else:
                self._devices[address] = index
            yield None
            for vtep in self._at.get(address, ()):
                yield "peers", pack_mac(vtep.mac), self._peer(vtep)

    def set_limits(self, narrow: Mapping[Address, int], mtu: int) -> Writes:
        """Follow a change of the device's MTU, and of the addresses whose paths carry less, in bytes."""
        before, self._narrow = self._narrow, narrow
        was, self._mtu = self._mtu, mtu
        addresses: Iterable[Address] = tuple(self._at) if mtu != was else before.keys() | narrow.keys()
        for address in addresses:
            if address in self._devices and self._most(before, was, address) != self._most(narrow, mtu, address):
                for vtep in self._at.get(address, ()):
                    yield "peers", pack_mac(vtep.mac), self._peer(vtep)

    def _aim(self, mac: Mac, vtep: Vtep | None) -> bool:
        """Send to this VTEP what is addressed to a MAC; return whether it was sent anywhere before."""
        before = self._targets.pop(mac, None)
        if before is not None:
            rest = tuple(each for each in self._at.pop(before.address) if each != before)
            if rest:
                self._at[before.address] = rest
        if vtep is not None and vtep in self.slots and isinstance(vtep.address, IPv4Address):
            self._targets[mac] = vtep
            self._at[vtep.address] = (*self._at.get(vtep.address, ()), vtep)
        return before is not None and before.address in self._devices

    def _move(self, name: str, prefix: Subnet, owner: Vtep | None, held: dict[Subnet, bool]) -> None:
        """Note in `held`, for each prefix that this may concern, whether it was in the map."""
        wanted = owner in self.slots if name == "sources" else owner is not None
        was, other = self._prefixes[name].set(prefix, wanted=wanted)
        held.setdefault(prefix, was)
        if other is not None:
            held.setdefault(other, wanted)  # it leaves the map if this one comes in, and comes in if this one leaves

    def _deletions(self, was_target: Mapping[Mac, bool], held: Mapping[str, Mapping[Subnet, bool]]) -> Writes:
        for mac, was in was_target.items():
            if was and self._peer(self._targets.get(mac)) is None:
                yield "peers", pack_mac(mac), None
        for name in reversed(self._prefixes):
            for prefix, was in held[name].items():
                if was and not self._prefixes[name].holds(prefix):
                    yield name, pack_prefix(prefix), None

    def _additions(self, owners: Owners, macs: Iterable[Mac], held: Mapping[str, Iterable[Subnet]]) -> Writes:
        for name, prefixes in held.items():
            for prefix in prefixes:
                if self._prefixes[name].holds(prefix):
                    owner = owners.owner_of_source(prefix) if name == "sources" else owners.owner_of_subnet(prefix)
                    slot = NOBODY if owner is None else self.slots.get(owner, NOBODY)
                    yield name, pack_prefix(prefix), pack_number(slot)
        for mac in macs:
            value = self._peer(self._targets.get(mac))
            if value is not None:
                yield "peers", pack_mac(mac), value

    def _peer(self, vtep: Vtep | None) -> bytes | None:
        """Return the entry of peers for a VTEP of `_targets`; None if it has none."""
        if vtep is None or not isinstance(vtep.address, IPv4Address):
            return None
        slot, device = self.slots.get(vtep), self._devices.get(vtep.address)
        if slot is None or device is None:  # without a slot, it goes in the change that is being written
            return None
        return pack_peer(vtep.address, slot, self._most(self._narrow, self._mtu, vtep.address), device)

    @staticmethod
    def _most(narrow: Mapping[Address, int], mtu: int, address: Address) -> int:
        return min(narrow.get(address, mtu), mtu)


def _macs_of(owners: Owners, vteps: Iterable[Vtep]) -> dict[Mac, Vtep]:
    return {vtep.mac: vtep for vtep in vteps if owners.owner_of_mac(vtep.mac) == vtep}


def _prefixes_of(
    owners: Owners, change: OwnerChange, served: Iterable[Vtep]
) -> Iterator[tuple[str, Subnet, Vtep | None]]:
    """Return the map, prefix and owner of each subnet and source that changes, or that one of `served` owns."""
    for subnet, owner in change.subnets.items():
        yield f"inner_v{subnet.version}", subnet, owner
    for source, owner in change.sources.items():
        if source.version == 4:
            yield "sources", source, owner
    for vtep in served:
        for lease in owners.leases_of(vtep):
            yield f"inner_v{lease.subnet.version}", lease.subnet, vtep
            for source in (host_prefix(vtep.address), *lease.sources):
                if source.version == 4 and owners.owner_of_source(source) == vtep:
                    yield "sources", source, vtep
