"""The path MTU to each VTEP, and the name and MTU of the underlay's interface, as they change.

The kernel knows both, and sends no event when ICMP lowers a path MTU. So vxland polls: the interface and a batch of
VTEPs every second; all VTEPs after the interface has changed, or a datagram was refused as too big.

believed_mtu.py decides how far ICMP is believed. While the kernel holds a path MTU that is not believed, the sending
sockets use the interface's MTU.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Protocol

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
        self._kernel = kernel
        self._icmp_counts = icmp_counts
        self._on_change = on_change
        self._sleep = sleep
        self._vteps: tuple[Address, ...] = ()
        self._next = 0
        self._all = False
        self._periods = 0
        self._events_left = 0

    @property
    def mtus(self) -> dict[Address, int]:
        """The path MTU to each VTEP."""
        return {vtep: path.mtu for vtep, path in self.known.items()}

    @property
    def distrusted(self) -> dict[Address, int]:
        """The path MTUs from ICMP that are not believed."""
        return {vtep: path.claimed for vtep, path in self.known.items() if path.claimed is not None}

    @property
    def narrower(self) -> dict[Address, int]:
        """The path MTUs below the interface's."""
        return {vtep: mtu for vtep, mtu in self.mtus.items() if mtu < self.underlay.mtu}

    def move(self, index: int) -> None:
        """Poll another interface from the next period on: it has the underlay's address now."""
        self.underlay = replace(self.underlay, index=index)

    def set_vteps(self, vteps: Iterable[Address]) -> None:
        """Replace the VTEPs; all are polled in the next period."""
        self._vteps = tuple(dict.fromkeys(vteps))
        self.known = {vtep: self.known[vtep] for vtep in self._vteps if vtep in self.known}
        self._all = True

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
            changed = 1
        everything, self._all = self._all, False
        vteps = self._vteps
        polled = iter(vteps) if everything else islice(vteps, self._next, self._next + BATCH)
        self._next = 0 if everything or self._next + BATCH >= len(vteps) else self._next + BATCH
        while some := tuple(islice(polled, BATCH)):
            if vteps is not self._vteps:  # replaced meanwhile, and polled in the next period
                break
            for vtep in some:
                changed += self._poll_path(vtep)
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
