"""Watches whether this node still has the addresses that the tunnel's sockets are bound to.

A socket outlives its address. It carries nothing while the address is gone, and works again when any interface has it,
which is the underlay interface from then on. So vxland waits for an address that the settings name. It also waits for
one that it chose, but only GRACE_S: then, if a new start would choose another address, the node ends, so that the next
start binds and publishes that one. flanneld does not notice (flannel #408, #1052).
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

PERIOD_S = 1.0  # a check takes 6 us for each address of the node
GRACE_S = 5.0
"""A chosen address may be gone this long before another replaces it: DHCP removes some and assigns them again."""

_PROBLEM_LEN = 500  # characters; it lists the interfaces

_REMEDY = {
    True: "give it back to an interface of this node; or change the address in the settings, and restart",
    False: "give an interface of this node an address; where it is another one, vxland ends, and starts with that",
}

log = structlog.get_logger()


class UnderlayAddresses:
    """The addresses of the `underlays()` in use; the settings name the `fixed` ones.

    `here()` returns this node's addresses and their interfaces, `choose()` the underlays that a new start would bind;
    both may raise VxlandError. `on_move(address, index)` is called when another interface has the address. `clock` and
    `sleep` are for tests.
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
        self._refused = False  # a new start would be, and the log says so

    @property
    def problem(self) -> str:
        """The addresses that are gone, as a sentence; empty if none is."""
        gone = (each for each in self._underlays() if each.address in self._gone)
        return "; ".join(f"the underlay address {each.address} is gone from {each.interface}" for each in gone)

    async def run(self) -> None:
        """Check until cancelled; StartError once another address has replaced one."""
        while True:
            await self._check()
            await self._sleep(PERIOD_S)

    async def _check(self) -> None:
        try:
            here = await self._here()
        except VxlandError:  # the reconciler cannot read either, and logs it
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
        except VxlandError as exc:  # mostly ConfigError: there is no address to start with
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
