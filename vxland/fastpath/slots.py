"""Slots of VTEPs: numbers that name a VTEP's counters and tie its subnets to its outer sources. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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

    def change(self, gone: Iterable[Vtep], new: Iterable[Vtep]) -> Iterator[Vtep]:
        """Free the slots of VTEPs that are gone, then give slots in turn; return the VTEPs that got one."""
        for vtep in gone:
            self._waiting.pop(vtep, None)
            if vtep in self._slots:
                self._free.append(self._slots.pop(vtep))
        self._waiting.update(dict.fromkeys(new))
        while self._waiting and (self._free or self._next <= self._most):
            vtep = next(iter(self._waiting))
            del self._waiting[vtep]
            if self._free:
                self._slots[vtep] = self._free.pop()
            else:
                self._slots[vtep] = self._next
                self._next += 1
            yield vtep
