"""Follows how much the ways to the VTEPs carry: the underlay's interface, its name and MTU, and the MTU of each way.

The kernel keeps both and says nothing of a path that ICMP made narrower, so it is asked: the interface every second
and some VTEPs with it, in turn; all of them once the interface has changed, or a datagram was refused as too big.

An ICMP error "fragmentation needed" is a datagram that anybody can forge, and the kernel's cache of them is one for all
programs of the node. So what ICMP says of a way is believed only where it can be true: where vxland sets DF, or over
IPv6 (a router sends no such error about a datagram that it may fragment: RFC 792, RFC 8200 section 5), and never below
LEAST. While the kernel holds a path MTU that is not believed, the sending sockets go by the interface's MTU.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, Protocol, TypeAlias

import structlog

from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address

PERIOD_S = 1.0
BATCH = 100  # VTEPs a period and a turn of the loop: 1 ms
LEAST = 1280
"""Bytes that every way is taken to carry whatever ICMP says: what IPv6 asks of any link (RFC 8200 section 5)."""

_LOGGED = 20  # events in _LOGGED_LOOKS; routers, or who forges their ICMP, can make many ways narrower again and again
_LOGGED_LOOKS = 60

Source: TypeAlias = Literal["interface", "route", "icmp"]

log = structlog.get_logger()


class PathMtuSource(Protocol):
    """What has to be asked; node/path_mtu_kernel.py has it."""

    def interface(self, index: int) -> tuple[str, int] | None:
        """Name, to be shown, and MTU in bytes of an interface now; None where it is gone."""
        ...

    def mtu_to(self, vtep: Address) -> int | None:
        """MTU in bytes of the way to a VTEP; None where there is none by now."""
        ...

    def learned(self, vtep: Address) -> tuple[int, int | None] | None:
        """The part of it that ICMP taught, and the route's MTU without it (None: not set); None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class WayMtu:
    """How much the way to a VTEP carries in bytes, and what says so."""

    mtu: int
    source: Source
    claimed: int | None = None
    """What ICMP says instead, where that is not believed."""
    since: float = 0.0
    """time.monotonic() of when this was found."""


class PathMtus:
    """`underlay`, and `ways`, the MTU of the way to each VTEP; `on_change()` is called when any of it changed.

    The interface is known by its index, and keeps it when it is renamed. `icmp_counts` says whether an ICMP error about
    a datagram of ours can be true. `sleep` is for tests.
    """

    def __init__(
        self,
        kernel: PathMtuSource,
        underlay: Underlay,
        on_change: Callable[[], None],
        icmp_counts: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.underlay = self._seen = underlay
        self.known: dict[Address, WayMtu] = {}
        self._kernel = kernel
        self._icmp_counts = icmp_counts
        self._on_change = on_change
        self._sleep = sleep
        self._vteps: tuple[Address, ...] = ()
        self._next = 0
        self._all = False
        self._looks = 0
        self._events_left = 0

    @property
    def ways(self) -> dict[Address, int]:
        """The MTU of the way to each VTEP."""
        return {vtep: way.mtu for vtep, way in self.known.items()}

    @property
    def distrusted(self) -> dict[Address, int]:
        """What ICMP says of the ways where that is not believed."""
        return {vtep: way.claimed for vtep, way in self.known.items() if way.claimed is not None}

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
        self.known = {vtep: self.known[vtep] for vtep in self._vteps if vtep in self.known}
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
        if self._looks % _LOGGED_LOOKS == 0:
            self._events_left = _LOGGED
        self._looks += 1
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
                changed += self._ask(vtep)
            await asyncio.sleep(0)
        if changed:
            self._on_change()

    def _ask(self, vtep: Address) -> bool:
        """Ask about the way to a VTEP; whether it is another one by now."""
        mtu, before = self._kernel.mtu_to(vtep), self.known.get(vtep)
        if mtu is None:
            return False
        interface_mtu = self.underlay.mtu
        learned = self._kernel.learned(vtep) if mtu < interface_mtu else None
        now = believe(mtu, interface_mtu, learned, icmp_counts=self._icmp_counts)
        if before is not None and (now.mtu, now.source, now.claimed) == (before.mtu, before.source, before.claimed):
            return False
        self.known[vtep] = replace(now, since=time.monotonic())
        claim_is_new = now.claimed is not None and (before is None or now.claimed != before.claimed)
        if claim_is_new and self._may_log():
            log.warning("path_mtu_disbelieved", vtep=str(vtep), claimed=now.claimed, mtu=now.mtu)
        narrow = min(now.mtu, before.mtu if before is not None else now.mtu) < interface_mtu
        if narrow and (before is None or now.mtu != before.mtu) and self._may_log():
            log.info("path_mtu_changed", vtep=str(vtep), mtu=now.mtu, interface_mtu=interface_mtu, source=now.source)
        return True

    def _may_log(self) -> bool:
        self._events_left -= 1
        return self._events_left >= 0


def believe(mtu: int, interface_mtu: int, learned: tuple[int, int | None] | None, *, icmp_counts: bool) -> WayMtu:
    """What to take for the MTU of a way of which the kernel says `mtu`, `learned` from ICMP in part. Pure."""
    if learned is None:
        return WayMtu(mtu, "interface" if mtu >= interface_mtu else "route")
    claimed, route_mtu = learned
    base = interface_mtu if route_mtu is None else min(route_mtu, interface_mtu)
    rest = max(base - max(claimed - mtu, 0), 0)  # without ICMP, but with what IPsec takes
    least = min(LEAST, rest) if icmp_counts else rest
    if mtu >= least:
        return WayMtu(mtu, "icmp")
    source: Source = "icmp" if least < rest else "route" if rest < interface_mtu else "interface"
    return WayMtu(least, source, claimed=claimed)
