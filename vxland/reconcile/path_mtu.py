"""The path MTU to each VTEP, and the name and MTU of the underlay's interface, as they change.

The kernel knows both, and sends no event when ICMP lowers a path MTU. So vxland polls every second: the interface, new
VTEPs, and a batch of the others; all VTEPs after the interface has changed, or a datagram was refused as too big.

believed_mtu.py decides how far ICMP is believed. While the kernel holds a path MTU that is not believed, the sending
sockets use the interface's MTU.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import structlog

from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address
from vxland.reconcile.believed_mtu import PathMtu, believe

PERIOD_S = 1.0
BATCH = 100  # VTEPs of one period, and between two yields to the event loop: 1 ms

_LOGGED = 20  # events in _LOGGED_PERIODS: routers, or forged ICMP, can change many path MTUs again and again
_LOGGED_PERIODS = 60

log = structlog.get_logger()


class PathMtuSource(Protocol):
    """The kernel's MTUs; implemented by node/path_mtu_kernel.py."""

    def interface(self, index: int) -> tuple[str, int] | None:
        """Return the printable name and the MTU in bytes of an interface; None if it is gone."""
        ...

    def mtu_to(self, vtep: Address) -> int | None:
        """Return the path MTU to a VTEP in bytes; None if there is no route."""
        ...

    def learned(self, vtep: Address) -> tuple[int, int | None] | None:
        """Return the path MTU from ICMP, and the route's own (None: not set); None if ICMP has set none."""
        ...


class PathMtus:
    """The `underlay` and the path MTU to each VTEP; `on_change()` is called when any of them has changed.

    The interface is known by its index, which survives a rename. `icmp_counts`: an ICMP error about one of our
    datagrams can be true. `sleep` is for tests.
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
        self.known: dict[Address, PathMtu] = {}
        """The path MTU to each VTEP that was polled."""
        self.narrower: dict[Address, int] = {}
        """The path MTUs below the interface's."""
        self.distrusted: dict[Address, int] = {}
        """The path MTUs from ICMP that are not believed."""
        self._kernel = kernel
        self._icmp_counts = icmp_counts
        self._on_change = on_change
        self._sleep = sleep
        self._vteps: Counter[Address] = Counter()  # the leases of each
        self._new: dict[Address, None] = {}  # those not polled yet, in order
        self._made: dict[PathMtu, PathMtu] = {}  # in this poll; VTEPs share them, since nearly all have the same
        self._next = 0
        self._all = False
        self._periods = 0
        self._events_left = 0

    def below(self, mtu: int) -> dict[Address, int]:
        """Return the path MTUs below this one."""
        if mtu <= self.underlay.mtu:
            return {vtep: narrow for vtep, narrow in self.narrower.items() if narrow < mtu}
        return {vtep: path.mtu for vtep, path in self.known.items() if path.mtu < mtu}

    def move(self, index: int) -> None:
        """Poll another interface from the next period on: it has the underlay's address now."""
        self.underlay = replace(self.underlay, index=index)

    def follow(self, *, removed: Iterable[Address] = (), added: Iterable[Address] = ()) -> None:
        """Follow the VTEPs of added leases too, and forget those that have only removed ones."""
        for vtep in added:
            if vtep not in self._vteps:
                self._new[vtep] = None
            self._vteps[vtep] += 1
        for vtep in removed:
            self._vteps[vtep] -= 1
            if not self._vteps[vtep]:
                states: tuple[dict[Address, Any], ...] = (
                    self._vteps,
                    self._new,
                    self.known,
                    self.narrower,
                    self.distrusted,
                )
                for state in states:
                    state.pop(vtep, None)

    def poll_all_soon(self) -> None:
        """Poll all VTEPs in the next period: a datagram was too big for its path."""
        self._all = True

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._poll()
            await self._sleep(PERIOD_S)

    async def _poll(self) -> None:
        changed = 0
        if self._periods % _LOGGED_PERIODS == 0:
            self._events_left = _LOGGED
        self._periods += 1
        found = self._kernel.interface(self.underlay.index)
        if found is not None:
            self.underlay = replace(self.underlay, interface=found[0], mtu=found[1])
        if self.underlay != self._seen:
            self._all |= self.underlay.mtu != self._seen.mtu
            self._seen = self.underlay
            self.narrower = {vtep: path.mtu for vtep, path in self.known.items() if path.mtu < self.underlay.mtu}
            changed = 1
        everything, self._all = self._all, False
        vteps = self._vteps if everything else [*self._new, *islice(self._vteps, self._next, self._next + BATCH)]
        self._next = 0 if everything or self._next + BATCH >= len(self._vteps) else self._next + BATCH
        self._new.clear()
        self._made.clear()
        polled = iter(tuple(dict.fromkeys(vteps)))
        while some := tuple(islice(polled, BATCH)):
            changed += sum(self._poll_path(vtep) for vtep in some if vtep in self._vteps)
            await asyncio.sleep(0)
        if changed:
            self._on_change()

    def _poll_path(self, vtep: Address) -> bool:
        """Update the path MTU to a VTEP, and return whether it has changed."""
        mtu, before = self._kernel.mtu_to(vtep), self.known.get(vtep)
        if mtu is None:
            return False
        interface_mtu = self.underlay.mtu
        learned = self._kernel.learned(vtep) if mtu < interface_mtu else None
        now = believe(mtu, interface_mtu, learned, icmp_counts=self._icmp_counts)
        if before is not None and (now.mtu, now.source, now.claimed) == (before.mtu, before.source, before.claimed):
            return False
        self._set(vtep, self._made.setdefault(now, replace(now, since=time.monotonic())))
        claim_is_new = now.claimed is not None and (before is None or now.claimed != before.claimed)
        if claim_is_new and self._may_log():
            log.warning("path_mtu_disbelieved", vtep=str(vtep), claimed=now.claimed, mtu=now.mtu)
        narrow = min(now.mtu, before.mtu if before is not None else now.mtu) < interface_mtu
        if narrow and (before is None or now.mtu != before.mtu) and self._may_log():
            log.info("path_mtu_changed", vtep=str(vtep), mtu=now.mtu, interface_mtu=interface_mtu, source=now.source)
        return True

    def _set(self, vtep: Address, path: PathMtu) -> None:
        self.known[vtep] = path
        for exceptions, mtu in (
            (self.narrower, path.mtu if path.mtu < self.underlay.mtu else None),
            (self.distrusted, path.claimed),
        ):
            if mtu is None:
                exceptions.pop(vtep, None)
            else:
                exceptions[vtep] = mtu

    def _may_log(self) -> bool:
        self._events_left -= 1
        return self._events_left >= 0
