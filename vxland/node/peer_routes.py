"""The interface that leads to each VTEP, as routes, rules and links change.

A route is looked up for each new VTEP. For all VTEPs they are looked up after an event of netlink, but not all the
time, and on a slow timer: some changes come without an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from random import SystemRandom
from typing import Final

from vxland.datapath.owners import OwnerChange, Owners
from vxland.model.lease import Address
from vxland.netlink.client import Netlink
from vxland.netlink.features import is_ethernet
from vxland.netlink.path_events import PathEvents

PERIOD_S: Final = 300.0
"""Seconds between two looks at all routes, shortened by up to a fifth, at random."""

PAUSE_S: Final = 1.0
"""Seconds between two such looks at least, and as many more for each 1000 VTEPs: those take 10 ms."""

_BATCH: Final = 512  # VTEPs whose routes are looked up in a row; other tasks run in between

_JITTER: Final = SystemRandom().random


class PeerRoutes:
    """Routes to the VTEPs of `owners`: to none at first. `clock` and `jitter` are for tests."""

    def __init__(
        self,
        netlink: Netlink,
        owners: Owners,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = _JITTER,
    ) -> None:
        self.devices: dict[Address, int] = {}
        """The interface to each VTEP, by its address, if it has an Ethernet header."""
        self._netlink = netlink
        self._owners = owners
        self._clock = clock
        self._jitter = jitter
        self._new: set[Address] = set()
        self._stale = False
        self._not_before = self._due = clock()

    def follow(self, change: OwnerChange) -> Generator[None, None, Mapping[Address, None]]:
        """Follow a change of the owners, in steps; return the addresses that no VTEP has any more."""
        gone: dict[Address, None] = {}
        for vtep in change.gone:
            if not self._owners.at(vtep.address):
                gone[vtep.address] = None
                self.devices.pop(vtep.address, None)
                self._new.discard(vtep.address)
            yield
        for vtep in change.new:
            if vtep.address not in self.devices:
                self._new.add(vtep.address)
            yield
        return gone

    @property
    def are_due(self) -> bool:
        """True if a route must be looked up."""
        return bool(self._new) or self._are_all_due

    @property
    def _are_all_due(self) -> bool:
        now = self._clock()
        return now >= self._due or (self._stale and now >= self._not_before)

    async def look_up(self) -> Mapping[Address, int | None]:
        """Return the interface to each VTEP whose route is due; None: there is none with an Ethernet header.

        KernelRefusedError.
        """
        now, everything = self._clock(), self._are_all_due
        addresses = [vtep.address for vtep in self._owners.vteps] if everything else list(self._new)
        if everything:
            self._stale = False
            self._not_before = now + PAUSE_S * (1 + len(addresses) / 1000)
            self._due = now + PERIOD_S * (1 - self._jitter() / 5)
        self._new.clear()
        ethernet: dict[int, bool] = {}
        found: dict[Address, int | None] = {}
        try:
            for at in range(0, len(addresses), _BATCH):
                some = addresses[at : at + _BATCH]
                devices = await self._netlink.interfaces_to(some)
                ethernet |= {index: is_ethernet(index) for index in set(devices.values()).difference(ethernet)}
                for address in some:
                    index = devices.get(address)
                    found[address] = index if index is not None and ethernet[index] else None
        except BaseException:
            self._due = now if everything else self._due
            self._new.update(addresses)
            raise
        return found

    def take(self, found: Mapping[Address, int | None]) -> Generator[None, None, Mapping[Address, int | None]]:
        """Take over what look_up() has found, in steps; return it without the VTEPs that have gone meanwhile."""
        here = {}
        for address, index in found.items():
            if self._owners.at(address):
                here[address] = index
                if index is None:
                    self.devices.pop(address, None)
                else:
                    self.devices[address] = index
            yield
        return here

    async def watch(self, read_scope: Callable[[], tuple[int, Collection[int]]]) -> None:
        """Have all routes looked up after events, until cancelled; `read_scope` as in PathEvents.wait()."""
        with closing(PathEvents()) as events:
            while True:
                await events.wait(self._netlink.portid, read_scope)
                self._stale = True
