"""Receives at the published address, if it is not the one that the tunnel's sockets are bound to.

flannel's --public-ip, `underlay.public_address` and the annotation public-ip-overwrite name such an address: of a NAT,
or of this node, on another interface or on lo. A kernel vxlan device receives at every address of its node. vxland
binds one more receiving socket of each worker to that one address, even while the node does not have it: the socket
receives nothing until then, and works from then on. Datagrams that arrive there pass the same checks. Datagrams leave
from the bound address, as with the kernel's device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from vxland.model.errors import StartError, VxlandError
from vxland.model.lease import Address

PERIOD_S = 1.0  # two system calls

log = structlog.get_logger()


class PublicAddress:
    """The published address of `device`, whose sockets are bound to `bound`; peers send to `published()`.

    `serve()` opens sockets for an address, or closes them if it is None; `is_local()` returns whether the node has the
    address. Both may raise VxlandError. `changed()` is called when `further` has changed. `sleep` is for tests.
    """

    def __init__(
        self,
        device: str,
        bound: Address,
        published: Callable[[], Address],
        serve: Callable[[Address | None], Awaitable[None]],
        is_local: Callable[[Address], Awaitable[bool]],
        changed: Callable[[], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.problem = ""
        """Why no socket is bound to the published address; empty if one is, or none is needed."""
        self._device = device
        self._bound = bound
        self._published = published
        self._serve = serve
        self._is_local = is_local
        self._changed = changed
        self._sleep = sleep
        self._open: Address | None = None
        self._here = False

    @property
    def served(self) -> list[Address]:
        """The addresses of this node at which datagrams are received; the bound one first."""
        return [self._bound, *self.further]

    @property
    def further(self) -> list[Address]:
        """The same without the bound one."""
        return [self._open] if self._open is not None and self._here else []

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await self._sleep(PERIOD_S)

    async def check(self) -> None:
        """Receive at the address that is published now, and record whether this node has it."""
        before = self.further
        published = self._published()
        other = published if published != self._bound and published.version == self._bound.version else None
        if other != self._open or self.problem:
            await self._open_for(other)
        here = False
        if self._open is not None:
            try:
                here = await self._is_local(self._open)
            except VxlandError:  # the reconciler cannot read either, and logs it
                here = self._here
        shown = str(self._open or published)
        if here and not self._here:
            log.info("public_address_here", device=self._device, address=shown)
        if self._here and not here:
            log.info("public_address_away", device=self._device, address=shown)
        self._here = here
        if self.further != before:
            self._changed()

    async def _open_for(self, other: Address | None) -> None:
        try:
            await self._serve(other)
        except StartError as exc:
            if exc.cause != self.problem:
                log.warning(
                    "public_address_unserved",
                    device=self._device,
                    address=str(other),
                    cause=exc.cause,
                    remedy=exc.remedy,
                )
            self.problem = exc.cause
        else:
            self._open, self.problem = other, ""
