"""Slots of VTEPs: numbers that name a VTEP's counters and tie its subnets to its outer sources. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vxland.model.lease import Vtep


class Slots:
    """Slots 1 to `most`. A VTEP has one from when it comes until it goes; those beyond them wait for one."""

    def __init__(self, most: int) -> None:
        self._slots: dict[Vtep, int] = {}
        self._waiting: dict[Vtep, None] = {}
        self._free: list[int] = []
        self._next = 1
        self._most = most

    @property
    def by_vtep(self) -> Mapping[Vtep, int]:
        """The slots in use. Borrowed: valid until the next change."""
        return MappingProxyType(self._slots)

    def add(self, vtep: Vtep) -> bool:
        """Give a new VTEP a slot, or have it wait; return whether it got one. Call it when serve() has nobody left."""
        if not self._free and self._next > self._most:
            self._waiting[vtep] = None
            return False
        if self._free:
            self._slots[vtep] = self._free.pop()
        else:
            self._slots[vtep] = self._next
            self._next += 1
        return True

    def remove(self, vtep: Vtep) -> None:
        """Free the slot of a VTEP that is gone, if it had one."""
        self._waiting.pop(vtep, None)
        if vtep in self._slots:
            self._free.append(self._slots.pop(vtep))

    def serve(self) -> Vtep | None:
        """Give a free slot to the VTEP that has waited longest, and return it; None if there is no slot or no VTEP."""
        if not self._waiting or not self._free:
            return None
        vtep = next(iter(self._waiting))
        del self._waiting[vtep]
        self.add(vtep)
        return vtep
