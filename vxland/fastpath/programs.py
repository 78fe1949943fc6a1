"""The programs of one overlay device: loaded, attached, fed, and left behind when the process ends."""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Collection, Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from vxland.datapath.owners import OwnerChange, Owners
from vxland.fastpath.choice import HUNG_NS, ON_THE_WAY_NS
from vxland.fastpath.entries import MAPS, SUM, Entries, Writes
from vxland.fastpath.layout import (
    ATTENDED_AT,
    CARRY_AFTER_AT,
    DRAINED_AT,
    NEVER_NS,
    TIME_LEN,
    TIMES_LEN,
    ProgramSettings,
    pack_number,
    pack_time,
    sum_traffic,
)
from vxland.fastpath.libbpf import (
    BpfError,
    BpfObject,
    OpenedObject,
    Place,
    detach,
    is_attached,
    library,
    opens_with_memfd,
)
from vxland.model.lease import Address, Vtep

OBJECT: Final = Path(__file__).with_name("programs.o")
RESERVE: Final = 8
"""Objects to open at the start: each device loads one, and another one whenever the fast path was off."""

PRIORITY: Final = 8472
"""Of our filters, on every interface."""

Carried = tuple[int, int, int, int]
"""Frames and bytes that programs encapsulated, then frames and bytes that they decapsulated."""

NOTHING: Final = (0, 0, 0, 0)


_reserve: Final[list[OpenedObject]] = []
"""Objects that reserve() has opened."""


def reserve() -> None:
    """Open objects for the devices of this process, if a filter will refuse what libbpf needs for that."""
    lib = library()
    with suppress(BpfError):  # the reason is reported when an object is needed
        while lib is not None and opens_with_memfd(lib) and len(_reserve) < RESERVE:
            _reserve.append(OpenedObject(lib, OBJECT.read_bytes()))


class Programs:
    """Programs for the overlay device `device`, loaded at once. BpfError. Nothing is attached yet.

    They carry once set(), follow() and attach() have been called.
    """

    def __init__(self, device: str) -> None:
        lib = library()
        if lib is None:
            raise BpfError("libbpf is not installed", 0)
        self._lib = lib
        self._device = device
        self._settings: ProgramSettings | None = None
        self._object = BpfObject(_reserve.pop() if _reserve else OpenedObject(lib, OBJECT.read_bytes()))
        self._memory = self._object.map(".data.settings").memory()
        self._traffic = self._object.map("traffic")
        self._maps = {name: self._object.map(name) for name in MAPS}
        self._entries = Entries(self._begin_count)
        self._highest = 0
        self._before: dict[int, Carried] = {}  # what a slot had counted for other VTEPs when its VTEP got it
        self._tap = 0
        self._underlays: frozenset[int] = frozenset()
        self._diverted = False

    def close(self) -> None:
        """Leave attached programs to themselves: from now on they carry what the daemon would have taken too."""
        self._set_time(ATTENDED_AT, time.monotonic_ns() - HUNG_NS - 1)
        self._memory.close()
        self._object.close()

    def beat(self) -> None:
        """Give a sign of life, at least every HUNG_NS."""
        self._set_time(ATTENDED_AT, time.monotonic_ns())

    def attach(self, tap: int, underlays: Collection[int]) -> None:
        """Carry from the TAP of this interface index, and from these interfaces; no longer from others. BpfError.

        0: there is no TAP now, and the daemon gets everything.
        """
        if not (self._tap or self._underlays):
            self.beat()
        new = tap != self._tap or not self._underlays.issuperset(underlays)
        if new:
            self._set_time(CARRY_AFTER_AT, NEVER_NS)  # the daemon has what came from there until now
        if tap != self._tap:
            self._set_tap(tap)
        for index in underlays:
            if index not in self._underlays:
                self._object.attach("vxland_decap", place(self._device, index, "ingress"))
                self._underlays |= {index}
        for index in self._underlays.difference(underlays):
            detach(self._lib, place(self._device, index, "ingress"))
            self._underlays -= {index}
        if new:
            self.divert(self._diverted)

    def _set_tap(self, tap: int) -> None:
        entry = self._object.map("tap")
        if tap:
            self._object.attach("vxland_encap", place(self._device, tap, "egress"))
            entry.put(pack_number(0), pack_number(tap))
        else:
            entry.delete(pack_number(0))
        self._tap = tap

    def follow(self, owners: Owners, change: OwnerChange) -> Generator[None, None, None]:
        """Carry by these owners, of which `change` are new to the programs. BpfError.

        The owners stay as they are until the last step. The other methods may be called between two steps.
        """
        return self._apply(self._entries.follow(owners, change))

    def set_devices(self, devices: Mapping[Address, int | None]) -> Generator[None, None, None]:
        """Send to these VTEPs through interfaces with these indices; None: leave them to the daemon. BpfError."""
        return self._apply(self._entries.set_devices(devices))

    def set_limits(self, narrow: Mapping[Address, int], mtu: int) -> Generator[None, None, None]:
        """Carry packets that fit into the device's MTU, and into that of a narrower path to a VTEP. BpfError."""
        return self._apply(self._entries.set_limits(narrow, mtu))

    def _apply(self, writes: Writes) -> Generator[None, None, None]:
        for write in writes:
            if self._memory.closed:  # meanwhile
                return
            if write is not None:
                name, key, value = write
                if value is None:
                    self._maps[name].delete(key)
                else:
                    self._maps[name].put(key, value)
            yield

    def set(self, settings: ProgramSettings) -> None:
        """Carry by these settings from the next frame on."""
        if settings != self._settings:
            self._settings = settings
            self._write(settings)

    def divert(self, wanted: bool) -> None:
        """Leave all frames to the daemon until this is called with False, and until its queues are empty then."""
        self._diverted = wanted
        self._set_time(CARRY_AFTER_AT, NEVER_NS if wanted else time.monotonic_ns())

    def drained(self, encap_ns: int, decap_ns: int) -> None:
        """Carry flows again whose last packet was left to the daemon before these times, when its queues were empty.

        They are of the monotonic clock, by direction; 0: a queue was not empty.
        """
        for at, seen_ns in ((DRAINED_AT, encap_ns), (DRAINED_AT + TIME_LEN, decap_ns)):
            if seen_ns:
                self._set_time(at, seen_ns - ON_THE_WAY_NS)

    def is_target(self, vtep: Vtep) -> bool:
        """Return whether programs send to a VTEP."""
        return self._entries.is_target(vtep)

    def is_sender(self, vtep: Vtep) -> bool:
        """Return whether programs recognize the datagrams of a VTEP."""
        return self._entries.is_sender(vtep)

    def carried(self) -> Carried:
        """Return what the programs have carried since they were loaded."""
        return self._counts(SUM)[0]

    def peers(self) -> dict[Vtep, Carried]:
        """Return what they have carried to and from each VTEP since it got its lease."""
        counts = self._counts(0, self._highest + 1)
        for slot, before in self._before.items():
            now = counts[slot]
            counts[slot] = (now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3])
        return {vtep: counts[slot] for vtep, slot in self._entries.slots.items()}

    def fill(self) -> dict[str, int]:
        """Return the number of entries of each map."""
        return self._entries.fill()

    def _begin_count(self, slot: int) -> None:
        """Begin to count at zero for the VTEP that gets this slot."""
        if slot > self._highest:  # the first one that has it
            self._highest = slot
        else:
            (self._before[slot],) = self._counts(slot)

    def _counts(self, first: int, slots: int = 1) -> list[Carried]:
        """Return the counts of so many slots."""
        return sum_traffic(self._traffic.per_cpu(first, slots), slots)

    def _write(self, settings: ProgramSettings) -> None:
        packed = settings.pack()
        self._memory[TIMES_LEN : TIMES_LEN + len(packed)] = packed

    def _set_time(self, at: int, now_ns: int) -> None:
        packed = pack_time(now_ns)
        self._memory[at : at + len(packed)] = packed


def are_attached(device: str) -> bool:
    """Return whether the TAP of this name has programs, of this process or an earlier one."""
    lib = library()
    try:
        return lib is not None and is_attached(lib, place(device, socket.if_nametoindex(device), "egress"))
    except OSError:  # there is no such device
        return False


def place(device: str, ifindex: int, point: str) -> Place:
    """Return where the programs of an overlay device are attached: its name distinguishes them from another's."""
    return Place(ifindex, point, zlib.crc32(device.encode()) & 0x7FFF_FFFF | 1, PRIORITY)


def remove(device: str, interfaces: Collection[int]) -> bool:
    """Detach the programs of an overlay device from these interfaces; return whether there were any. BpfError."""
    lib = library()
    if lib is None:
        return False
    found = [detach(lib, place(device, index, point)) for index in interfaces for point in ("ingress", "egress")]
    return any(found)
