"""Lookup of the VTEP that owns an address, in an immutable table that is replaced as a whole when leases change.

Theory of operation. Each lookup of the data path is a longest-prefix match (prefix_map.py): on the inner destination
IP, on the inner destination MAC, which is a prefix of full length, or on the outer source address, which with NAT is in
one of a prefix. The rules of who owns what are in owners.py; a table is made from the last one and an `OwnerChange`, in
time of what changes. A whole build is a change of the empty table.

The value of a lookup is the index of a VTEP in the arrays of the `Lineage`, so the compiled gear needs no object.
All tables that came from one empty table share it. It only grows: a VTEP that comes, or whose sources change, gets the
next index, and no map leads to the old one any more. Older tables, which a burst may still use, are as they were. A
table that has more dead indices than live ones `is_sparse`, and its owner builds one of a new lineage.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Generator, Iterable, Mapping
from ipaddress import IPv4Address

import cython

from vxland.datapath.owners import OwnerChange, Owners
from vxland.datapath.prefix_map import PrefixMap
from vxland.model.lease import Address, Lease, Subnet, Vtep
from vxland.model.steps import at_once

if not cython.compiled:
    from vxland.datapath.prefix_map import M64, NONE

FEW = 64  # dead indices that do no harm


class Lineage:
    """VTEPs by index, alive or not. One owner appends, while others read what their table knows."""

    def __init__(self) -> None:
        self.vteps: list[Vtep] = []
        self.index: dict[Vtep, int] = {}
        """The index of each VTEP that has a lease."""
        self.mac, self.outer_hi, self.outer_lo = (array("Q", bytes(8)) for _ in range(3))
        # VTEP i may also send from the prefixes nat_first[i] to nat_first[i + 1].
        self.nat_first = array("Q", bytes(8))
        self.nat_hi, self.nat_lo, self.nat_mask_hi, self.nat_mask_lo = (array("Q", bytes(8)) for _ in range(4))

    def add(self, vtep: Vtep, given: Iterable[Subnet]) -> None:
        """Give the next index to a VTEP that may also send from these prefixes."""
        i = len(self.vteps)
        if i + 1 >= len(self.mac):
            self.mac, self.outer_hi, self.outer_lo = _longer(self.mac), _longer(self.outer_hi), _longer(self.outer_lo)
            self.nat_first = _longer(self.nat_first)
        key = int(vtep.address)
        self.mac[i], self.outer_hi[i], self.outer_lo[i] = vtep.mac.value, key >> 64, key & M64
        end = self.nat_first[i]
        for source in given:
            if end >= len(self.nat_hi):
                self.nat_hi, self.nat_lo = _longer(self.nat_hi), _longer(self.nat_lo)
                self.nat_mask_hi, self.nat_mask_lo = _longer(self.nat_mask_hi), _longer(self.nat_mask_lo)
            key, mask = int(source.network_address), int(source.netmask)
            self.nat_hi[end], self.nat_lo[end] = key >> 64, key & M64
            self.nat_mask_hi[end], self.nat_mask_lo[end] = mask >> 64, mask & M64
            end += 1
        self.nat_first[i + 1] = end
        self.vteps.append(vtep)
        self.index[vtep] = i


class Table:
    """All leased subnets and VTEPs of a node's peers. All VTEPs are of IP version `outer`, at UDP port `port`."""

    def __init__(self, port: int, outer: int = 4) -> None:
        self.port = port
        self.underlay_v6 = outer == 6
        self.lineage = Lineage()
        self.by_mac = PrefixMap(48)
        self.by_outer = PrefixMap(32 if outer == 4 else 128)
        self.by_inner_v4 = PrefixMap(32)
        self.by_inner_v6 = PrefixMap(128)
        self.see()

    def changing(self, change: OwnerChange) -> Generator[None, None, Table]:
        """Return the table after a change, by steps. Run all of them before another change of the lineage."""
        lineage, outer = self.lineage, 6 if self.underlay_v6 else 4
        yield from _number(lineage, change, outer)
        by_mac = self.by_mac.copy() if change.macs else self.by_mac
        for mac, owner in change.macs.items():
            _set(by_mac, mac.value, 48, lineage, owner)
            yield
        by_outer = yield from _edited(self.by_outer, lineage, change.sources, outer)
        by_inner_v4 = yield from _edited(self.by_inner_v4, lineage, change.subnets, 4)
        by_inner_v6 = yield from _edited(self.by_inner_v6, lineage, change.subnets, 6)
        return self._next(by_mac, by_outer, by_inner_v4, by_inner_v6)

    def _next(self, by_mac: PrefixMap, by_outer: PrefixMap, by_inner_v4: PrefixMap, by_inner_v6: PrefixMap) -> Table:
        """Return a table of these maps, and of all VTEPs that the lineage has now."""
        table = Table.__new__(Table)
        table.port, table.underlay_v6, table.lineage = self.port, self.underlay_v6, self.lineage
        table.by_mac, table.by_outer = by_mac, by_outer
        table.by_inner_v4, table.by_inner_v6 = by_inner_v4, by_inner_v6
        table.see()
        return table

    def see(self) -> None:
        """Take the arrays that the lineage has now: it replaces them by longer ones."""
        lineage = self.lineage
        self.count = len(lineage.vteps)
        self.vtep_mac, self.outer_hi, self.outer_lo = lineage.mac, lineage.outer_hi, lineage.outer_lo
        self.nat_first, self.nat_hi, self.nat_lo = lineage.nat_first, lineage.nat_hi, lineage.nat_lo
        self.nat_mask_hi, self.nat_mask_lo = lineage.nat_mask_hi, lineage.nat_mask_lo

    @property
    def vteps(self) -> Collection[Vtep]:
        """The VTEPs that have a lease now, in no order. Borrowed: valid until the next change."""
        return self.lineage.index.keys()

    @property
    def is_sparse(self) -> bool:
        """True if more indices are dead than live."""
        live = len(self.lineage.index)
        return self.count - live > max(FEW, live)

    def vtep_at(self, index: int) -> Vtep:
        """Return the VTEP of an index that a lookup has returned."""
        return self.lineage.vteps[index]

    def owner_of_inner(self, version: int, hi: int, lo: int) -> int:
        """Return the index of the VTEP whose subnet contains the inner address, NONE if no lease does."""
        return self.by_inner_v4.lookup(hi, lo) if version == 4 else self.by_inner_v6.lookup(hi, lo)

    def sends_from(self, vtep: int, hi: int, lo: int) -> bool:
        """Whether datagrams of the VTEP may have this outer source: its own address, or one from NAT."""
        if self.outer_lo[vtep] == lo and self.outer_hi[vtep] == hi:
            return True
        for at in range(self.nat_first[vtep], self.nat_first[vtep + 1]):
            if hi & self.nat_mask_hi[at] == self.nat_hi[at] and lo & self.nat_mask_lo[at] == self.nat_lo[at]:
                return True
        return False

    def is_inner_source(self, version: int, hi: int, lo: int, outer_hi: int, outer_lo: int) -> bool:
        """Whether the node whose datagrams come from `outer` may send from this inner address.

        It may use any address of its subnets, and its own underlay address: programs on the node that are bound to
        that address send from it through the tunnel.
        """
        owner = self.owner_of_inner(version, hi, lo)
        if owner == NONE and (version == 6) == self.underlay_v6:
            owner = self.by_outer.lookup(hi, lo)
        return owner != NONE and self.sends_from(owner, outer_hi, outer_lo)

    def lookup(self, address: Address) -> Vtep | None:
        """Return the VTEP that owns an inner address; for traces and tests, not for the burst loop."""
        key = int(address)
        found = self.owner_of_inner(address.version, key >> 64, key & M64)
        return None if found == NONE else self.vtep_at(found)


def table_of(leases: Iterable[Lease], port: int) -> Table:
    """Return a table of these leases, built at once."""
    held = tuple(leases)
    outer = 4 if all(isinstance(lease.vtep.address, IPv4Address) for lease in held) else 6
    return at_once(Table(port, outer).changing(Owners().change((), held)))


def _number(lineage: Lineage, change: OwnerChange, outer: int) -> Generator[None, None, None]:
    """Give indices to the VTEPs that come, and to those with other sources; forget those that go."""
    first_new = len(lineage.vteps)
    for vtep in change.gone:
        del lineage.index[vtep]
        yield
    for vtep in change.new:
        lineage.add(vtep, [source for source in change.given.get(vtep, ()) if source.version == outer])
        yield
    for vtep, given in change.given.items():
        if lineage.index[vtep] < first_new:
            lineage.add(vtep, [source for source in given if source.version == outer])
        yield


def _edited(
    found: PrefixMap, lineage: Lineage, owned: Mapping[Subnet, Vtep | None], version: int
) -> Generator[None, None, PrefixMap]:
    """Return a map in which the prefixes of an IP version have these owners."""
    draft = found
    for prefix, owner in owned.items():
        if prefix.version == version:
            if draft is found:
                draft = found.copy()
            _set(draft, int(prefix.network_address), prefix.prefixlen, lineage, owner)
        yield
    return draft


def _set(found: PrefixMap, key: int, length: int, lineage: Lineage, owner: Vtep | None) -> None:
    if owner is None:
        found.drop(key >> 64, key & M64, length)
    else:
        found.put(key >> 64, key & M64, length, lineage.index[owner])


def _longer(short: array[int]) -> array[int]:
    """Return a longer array that begins alike. Older tables keep the short one."""
    return _copied(short, array("Q", bytes(16 * len(short))))


def _copied(short: array[int], longer: array[int]) -> array[int]:
    longer[: len(short)] = short
    return longer
