"""The entries of the programs' maps, from the table that the data path uses. Pure.

Each VTEP has a slot, which names its counters and ties its subnets to its outer sources. A slot stays with its VTEP
while that has a lease.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from vxland.datapath.limits import Limits
from vxland.fastpath.layout import PEERS, SUBNETS, pack_mac, pack_number, pack_peer, pack_prefix
from vxland.model.lease import Address, Subnet, Vtep

MAPS = ("inner_v4", "inner_v6", "sources", "peers")
"""The maps in the order in which they are filled: no program may carry a frame before all about its VTEP is there."""

MOST = {"inner_v4": SUBNETS, "inner_v6": SUBNETS, "sources": SUBNETS, "peers": PEERS}
"""Maximum number of entries of each map."""

SUM = 0
"""The slot that counts for all VTEPs."""

NOBODY = 0
"""The slot of subnets whose VTEP has none: no datagram comes from it."""

Entries = Mapping[str, Mapping[bytes, bytes]]


class Slots:
    """Slots of VTEPs: 1 to PEERS."""

    def __init__(self) -> None:
        self._slots: dict[Vtep, int] = {}
        self._free = list(range(PEERS, 0, -1))

    def assign(self, vteps: tuple[Vtep, ...]) -> tuple[Mapping[Vtep, int], list[int]]:
        """Keep the slots of these VTEPs, free those of others, and give slots to new ones while there are any.

        Return all slots in use, and those that are new to their VTEP.
        """
        wanted = set(vteps)
        for vtep in [vtep for vtep in self._slots if vtep not in wanted]:
            self._free.append(self._slots.pop(vtep))
        new = []
        for vtep in vteps:
            if vtep not in self._slots and self._free:
                self._slots[vtep] = self._free.pop()
                new.append(self._slots[vtep])
        return dict(self._slots), new


@dataclass(frozen=True, slots=True)
class Difference:
    """The change from one set of entries to another: values to put, and keys to delete."""

    put: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    delete: Mapping[str, frozenset[bytes]] = field(default_factory=dict)


def entries(limits: Limits, slots: Mapping[Vtep, int], mtu: int, devices: Mapping[Address, int]) -> Entries:
    """Return the entries of a table with its limits, on a device of this MTU in bytes.

    `devices` has the interface index by VTEP address; a VTEP without one is left to the daemon, as is a MAC that
    several VTEPs claim, and whatever exceeds the maps.
    """
    table = limits.table
    uses = Counter(vtep.mac for vtep in table.vteps)
    found: dict[str, dict[bytes, bytes]] = {name: {} for name in MAPS}
    for vtep, most in zip(table.vteps, limits.most, strict=True):
        slot, ifindex = slots.get(vtep), devices.get(vtep.address)
        if slot is not None and ifindex is not None and uses[vtep.mac] == 1 and isinstance(vtep.address, IPv4Address):
            found["peers"][pack_mac(vtep.mac)] = pack_peer(vtep.address, slot, min(most, mtu), ifindex)
    inner: dict[int, dict[Subnet, int]] = {4: {}, 6: {}}
    given: dict[Vtep, set[Subnet]] = {vtep: set() for vtep in table.vteps}
    for lease in table.leases:
        inner[lease.subnet.version][lease.subnet] = slots.get(lease.vtep, NOBODY)
        given[lease.vtep].update(lease.sources)
    sources: dict[Subnet, int] = {}
    for vtep, prefixes in given.items():  # of two VTEPs with one prefix the last wins, as in Table
        if vtep in slots:
            sources |= dict.fromkeys((each for each in prefixes if each.version == 4), slots[vtep])
    for vtep in table.vteps:
        if vtep in slots and isinstance(vtep.address, IPv4Address):
            sources[IPv4Network(vtep.address)] = slots[vtep]
    return found | {"inner_v4": _packed(inner[4]), "inner_v6": _packed(inner[6]), "sources": _packed(sources)}


def _packed(prefixes: Mapping[Subnet, int]) -> dict[bytes, bytes]:
    """Return the entries of a prefix map: the longest prefixes, as a shorter one would stand in for what is missing."""
    most = prefixes.items()
    if len(prefixes) > SUBNETS:
        most = dict(sorted(most, key=lambda entry: -entry[0].prefixlen)[:SUBNETS]).items()
    return {pack_prefix(prefix): pack_number(slot) for prefix, slot in most}


def difference(before: Entries, after: Entries) -> Difference:
    """Return what changes `before` to `after`."""
    put, delete = {}, {}
    for name in MAPS:
        old, new = before.get(name, {}), after[name]
        put[name] = {key: value for key, value in new.items() if old.get(key) != value}
        delete[name] = frozenset(old.keys() - new.keys())
    return Difference(put, delete)
