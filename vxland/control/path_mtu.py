"""Follows how much the ways to the VTEPs carry: the underlay's interface, its name and MTU, and the MTU of each way.

The kernel keeps both and says nothing of a path that ICMP made narrower, so it is asked: the interface every second
and some VTEPs with it, in turn; all of them once the interface has changed, or a datagram was refused as too big.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Protocol

import structlog

from vxland.model import Address
from vxland.state import Underlay

PERIOD_S = 1.0
BATCH = 100  # VTEPs a period and a turn of the loop: 1 ms
_LOGGED = 20  # ways of a look; routers, or who forges their ICMP, can make many narrower

log = structlog.get_logger()


class Kernel(Protocol):
    """What has to be asked; kernel/paths.py has it."""

    def interface(self, index: int) -> tuple[str, int] | None:
        """Name, to be shown, and MTU in bytes of an interface now; None where it is gone."""
        ...

    def mtu_to(self, vtep: Address) -> int | None:
        """MTU in bytes of the way to a VTEP; None where there is none by now."""
        ...


class PathMtus:
    """`underlay`, and `ways`, the MTU of the way to each VTEP; `on_change()` is called when any of it changed.

    The interface is known by its index, and keeps it when it is renamed. `sleep` is for tests.
    """

    def __init__(
        self,
        kernel: Kernel,
        underlay: Underlay,
        on_change: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.underlay = self._seen = underlay
        self.ways: dict[Address, int] = {}
        self._kernel = kernel
        self._on_change = on_change
        self._sleep = sleep
        self._vteps: tuple[Address, ...] = ()
        self._next = 0
        self._all = False

    @property
    def narrower(self) -> dict[Address, int]:
        """The ways that carry less than the interface."""
        return {vtep: mtu for vtep, mtu in self.ways.items() if mtu < self.underlay.mtu}

    def move(self, index: int) -> None:
        """Follow another interface from the next period on: it has the underlay's address now."""
        self.underlay = replace(self.underlay, index=index)

    def set_vteps(self, vteps: Iterable[Address]) -> None:
        """Follow these from now on; all are asked about in the next period."""
        self._vteps = tuple(dict.fromkeys(vteps))
        self.ways = {vtep: self.ways[vtep] for vtep in self._vteps if vtep in self.ways}
        self._all = True

    def look_soon(self) -> None:
        """Ask about all VTEPs in the next period: a way turned out to be too narrow."""
        self._all = True

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._look()
            await self._sleep(PERIOD_S)

    async def _look(self) -> None:
        changed = 0
        found = self._kernel.interface(self.underlay.index)
        if found is not None:
            self.underlay = replace(self.underlay, interface=found[0], mtu=found[1])
        if self.underlay != self._seen:
            self._all |= self.underlay.mtu != self._seen.mtu
            self._seen = self.underlay
            changed = 1
        everything, self._all = self._all, False
        vteps = self._vteps
        asked = iter(vteps) if everything else islice(vteps, self._next, self._next + BATCH)
        self._next = 0 if everything or self._next + BATCH >= len(vteps) else self._next + BATCH
        while some := tuple(islice(asked, BATCH)):
            if vteps is not self._vteps:  # replaced meanwhile, and asked about in the next period
                break
            for vtep in some:
                changed += self._ask(vtep, changed < _LOGGED)
            await asyncio.sleep(0)
        if changed:
            self._on_change()

    def _ask(self, vtep: Address, logged: bool) -> bool:
        """Whether the way to a VTEP is another one by now."""
        mtu, before = self._kernel.mtu_to(vtep), self.ways.get(vtep)
        if mtu is None or mtu == before:
            return False
        self.ways[vtep] = mtu
        if logged and min(mtu, before or mtu) < self.underlay.mtu:
            log.info("path_mtu_changed", vtep=str(vtep), mtu=mtu, interface_mtu=self.underlay.mtu)
        return True
