"""Follows whether this node still has the addresses that the tunnel's sockets are bound to.

A socket outlives its address: it carries nothing while that is gone, and works again once it is back, on whatever
interface, which is the underlay's from then on. So an address that the settings name is waited for. One that was chosen
is waited for as well, for GRACE_S; then, if a new start would choose another, the node ends, for the next one to bind
and to publish that. flanneld does not notice (flannel #408, #1052).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

import structlog

from vxland.model.errors import StartError, VxlandError
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address
from vxland.model.text import printable

PERIOD_S = 1.0  # a look takes 6 us for each address of the node
GRACE_S = 5.0
"""How long a chosen address may be gone before another one takes its place: DHCP takes some away to give them again."""

_PROBLEM_LEN = 500  # it lists what interfaces there are

_REMEDY = {
    True: "give it back to an interface of this node; or change the address in the settings, and restart",
    False: "give an interface of this node an address; where it is another one, vxland ends, and starts with that",
}

log = structlog.get_logger()


class UnderlayAddresses:
    """The addresses of the `underlays()` in use, of which the settings name the `fixed` ones.

    `here()` is what this node has, and on which interfaces; `choose()` what a new start would bind; both may raise
    VxlandError. `on_move(address, index)` is called when the interface does not have the address any more, and another
    one does. `clock` and `sleep` are for tests.
    """

    def __init__(
        self,
        underlays: Callable[[], Iterable[Underlay]],
        fixed: Collection[Address],
        here: Callable[[], Awaitable[Mapping[Address, Collection[int]]]],
        choose: Callable[[], Awaitable[Iterable[Underlay]]],
        on_move: Callable[[Address, int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._underlays = underlays
        self._fixed = frozenset(fixed)
        self._here = here
        self._choose = choose
        self._on_move = on_move
        self._clock = clock
        self._sleep = sleep
        self._gone: dict[Address, float] = {}
        self._refused = False  # a new start would be, and the log says so since the address is gone

    @property
    def problem(self) -> str:
        """Which addresses are gone; empty while none is."""
        gone = (each for each in self._underlays() if each.address in self._gone)
        return "; ".join(f"the underlay address {each.address} is gone from {each.interface}" for each in gone)

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
        for underlay in self._underlays():
            address = underlay.address
            if indices := here.get(address):
                if underlay.index not in indices:
                    self._on_move(address, min(indices))
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
        self._refused &= bool(self._gone)
        if any(now - since >= GRACE_S for address, since in self._gone.items() if address not in self._fixed):
            await self._end_if_replaced()

    async def _end_if_replaced(self) -> None:
        try:
            chosen = {underlay.address.version: underlay for underlay in await self._choose()}
        except VxlandError as exc:  # mostly ConfigError: there is no address to start with, and waiting is better
            if not self._refused:
                self._refused = True
                log.warning("underlay_not_replaced", problem=printable(str(exc), _PROBLEM_LEN))
            return
        if not self._fixed <= {underlay.address for underlay in chosen.values()}:
            return
        for was in self._underlays():
            now = chosen.get(was.address.version)
            if was.address in self._gone and now is not None and now.address != was.address:
                raise StartError(
                    f"the underlay address {was.address} is gone from {was.interface}, "
                    f"and {now.address} of {now.interface} is there",
                    "start vxland again: it takes that one and publishes it to its peers",
                )
