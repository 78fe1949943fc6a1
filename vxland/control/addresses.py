"""Follows whether this node still has the addresses that the tunnel's sockets are bound to.

A socket outlives its address: it carries nothing while that is gone, and works again once it is back, on whatever
interface. So an address that the settings name is waited for. One that was chosen is waited for as well, for GRACE_S;
then, if a new start would choose another, the node ends, for the next one to bind and to publish that. flanneld does
not notice (flannel #408, #1052).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable

import structlog

from vxland.errors import StartError, VxlandError
from vxland.model import Address
from vxland.state import Underlay

PERIOD_S = 1.0  # a look takes 6 us for each address of the node
GRACE_S = 5.0
"""How long a chosen address may be gone before another one takes its place: DHCP takes some away to give them again."""

_REMEDY = {
    True: "give it back to an interface of this node; or change the address in the settings, and restart",
    False: "give an interface of this node an address; where it is another one, vxland ends, and starts with that",
}

log = structlog.get_logger()


class UnderlayAddresses:
    """The addresses of `underlays`, of which the settings name the `fixed` ones.

    `here()` is what this node has, `choose()` what a new start would bind; both may raise VxlandError. `clock` and
    `sleep` are for tests.
    """

    def __init__(
        self,
        underlays: Iterable[Underlay],
        fixed: Collection[Address],
        here: Callable[[], Awaitable[Collection[Address]]],
        choose: Callable[[], Awaitable[Iterable[Underlay]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._underlays = {underlay.address: underlay for underlay in underlays}
        self._fixed = frozenset(fixed)
        self._here = here
        self._choose = choose
        self._clock = clock
        self._sleep = sleep
        self._gone: dict[Address, float] = {}

    @property
    def problem(self) -> str:
        """Which addresses are gone; empty while none is."""
        gone = (f"{address} is gone from {self._underlays[address].interface}" for address in self._gone)
        return "; ".join(f"the underlay address {each}" for each in gone)

    async def run(self) -> None:
        """Follow until cancelled; StartError once another address has taken the place of one."""
        while True:
            await self._look()
            await self._sleep(PERIOD_S)

    async def _look(self) -> None:
        try:
            here = await self._here()
        except VxlandError:  # what the reconciler reads is refused too, and it says so
            return
        now = self._clock()
        for address, underlay in self._underlays.items():
            if address in here:
                since = self._gone.pop(address, None)
                if since is not None:
                    log.info(
                        "underlay_address_back",
                        address=str(address),
                        interface=underlay.interface,
                        gone_s=round(now - since, 1),
                    )
            elif address not in self._gone:
                self._gone[address] = now
                log.warning(
                    "underlay_address_gone",
                    address=str(address),
                    interface=underlay.interface,
                    remedy=_REMEDY[address in self._fixed],
                )
        if any(now - since >= GRACE_S for address, since in self._gone.items() if address not in self._fixed):
            await self._end_if_replaced()

    async def _end_if_replaced(self) -> None:
        try:
            chosen = {underlay.address.version: underlay for underlay in await self._choose()}
        except VxlandError:  # mostly ConfigError: there is no address to start with, and waiting is better
            return
        if not self._fixed <= {underlay.address for underlay in chosen.values()}:
            return
        for address in self._gone:
            now = chosen.get(address.version)
            if now is not None and now.address != address:
                was = self._underlays[address].interface
                raise StartError(
                    f"the underlay address {address} is gone from {was}, and {now.address} of {now.interface} is there",
                    "start vxland again: it takes that one, and tells its peers",
                )
