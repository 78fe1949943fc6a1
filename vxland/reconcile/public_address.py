"""Keeps the address that peers send to served, where that is another one than the tunnel's sockets are bound to.

flannel's --public-ip, `underlay.public_address` and the annotation public-ip-overwrite name such an address: of a NAT,
or of this node itself, on another interface or on lo. A kernel vxlan device receives at every address of its node. Here
one more receiving socket of each worker is bound to that one address, and to no other, whether the node has it or not:
it hears nothing until the node has it, and at once from then on. What comes there passes the same checks, and what is
sent leaves from the bound address, as with the kernel's device.
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
    """Of `device`, whose sockets are bound to `bound`, while `published()` is what peers know.

    `serve()` opens sockets for an address, or closes them with None, and `is_local()` says whether the node has it;
    both may raise VxlandError. `sleep` is for tests.
    """

    def __init__(
        self,
        device: str,
        bound: Address,
        published: Callable[[], Address],
        serve: Callable[[Address | None], Awaitable[None]],
        is_local: Callable[[Address], Awaitable[bool]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.problem = ""
        """Why datagrams for the published address are not received although the node may have it."""
        self._device = device
        self._bound = bound
        self._published = published
        self._serve = serve
        self._is_local = is_local
        self._sleep = sleep
        self._open: Address | None = None
        self._here = False

    @property
    def served(self) -> list[Address]:
        """The addresses at which datagrams are received, as far as this node has them; the bound one first."""
        return [self._bound, self._open] if self._open is not None and self._here else [self._bound]

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self.look()
            await self._sleep(PERIOD_S)

    async def look(self) -> None:
        """Serve what is published now, and see whether this node has it."""
        published = self._published()
        other = published if published != self._bound and published.version == self._bound.version else None
        if other != self._open or self.problem:
            await self._open_for(other)
        here = False
        if self._open is not None:
            try:
                here = await self._is_local(self._open)
            except VxlandError:  # what the reconciler reads is refused too, and it says so
                here = self._here
        shown = str(self._open or published)
        if here and not self._here:
            log.info("public_address_here", device=self._device, address=shown)
        if self._here and not here:
            log.info("public_address_away", device=self._device, address=shown)
        self._here = here

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
