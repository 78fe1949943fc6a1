"""Addresses that go, come back, or are replaced, with a fake kernel and a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest
from structlog.testing import capture_logs

from vxland.model.errors import ConfigError, StartError, VxlandError
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address
from vxland.netlink.rtnl import KernelRefusedError
from vxland.reconcile.addresses import GRACE_S, PERIOD_S, UnderlayAddresses

V4, OTHER_V4 = ip_address("192.168.111.128"), ip_address("192.168.111.200")
V6, OTHER_V6 = ip_address("fd00:111::128"), ip_address("fd00:111::200")
PERIODS = int(GRACE_S / PERIOD_S)


def on(address: Address, interface: str = "e0") -> Underlay:
    """Return an underlay with this address."""
    return Underlay(interface, 2, address, 1500)


class Node:
    """The node's addresses, and the underlays, or the error, of a new start."""

    def __init__(self, bound: list[Address], fixed: list[Address]) -> None:
        self.has: set[Address] = set(bound)
        self.unreadable = False
        self.choice: list[Underlay] | VxlandError = ConfigError("underlay.interface", "e0", "it has no address")
        self.asked = 0
        self._now = 1000.0
        self._turn = asyncio.Semaphore(0)
        self._slept = asyncio.Event()
        self.underlays = {address: on(address) for address in bound}
        self.index = 2  # of the interface that has them all
        self.moves: list[tuple[Address, int]] = []
        self.follower = UnderlayAddresses(
            self.underlays.values,
            fixed,
            self._here,
            self._choose,
            self._moved,
            clock=lambda: self._now,
            sleep=self._sleep,
        )
        self.task = asyncio.create_task(self.follower.run())

    async def _here(self) -> dict[Address, set[int]]:
        if self.unreadable:
            raise KernelRefusedError("RTM_GETADDR", 105)
        return {address: {self.index} for address in self.has}

    def _moved(self, address: Address, index: int) -> None:
        self.moves.append((address, index))
        self.underlays[address] = replace(self.underlays[address], interface=f"e{index}", index=index)

    async def _choose(self) -> list[Underlay]:
        self.asked += 1
        if isinstance(self.choice, VxlandError):
            raise self.choice
        return self.choice

    async def _sleep(self, seconds: float) -> None:
        assert seconds == PERIOD_S
        self._slept.set()
        await self._turn.acquire()
        self._now += seconds

    async def looked(self) -> None:
        """Wait for the end of a check, and raise its error."""
        slept = asyncio.ensure_future(self._slept.wait())
        await asyncio.wait({slept, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            slept.cancel()
            self.task.result()

    async def periods(self, count: int = 1) -> None:
        """Let periods pass, each with its check."""
        for _ in range(count):
            self._slept.clear()
            self._turn.release()
            await self.looked()


@asynccontextmanager
async def following(*bound: Address, fixed: tuple[Address, ...] = ()) -> AsyncIterator[Node]:
    """Watch a node's addresses meanwhile, after one check."""
    node = Node(list(bound), list(fixed))
    try:
        await node.looked()
        yield node
    finally:
        node.task.cancel()
        await asyncio.gather(node.task, return_exceptions=True)


@pytest.mark.parametrize("fixed", [True, False])
async def test_an_address_goes_and_comes_back(fixed: bool) -> None:
    """Each is logged once, with interface, remedy and time; meanwhile it is a reason not to be ready."""
    async with following(V4, fixed=(V4,) if fixed else ()) as node:
        with capture_logs() as logs:
            await node.periods()
            assert (logs, node.follower.problem) == ([], "")
            node.has = {OTHER_V4}
            await node.periods(PERIODS + 3)
            assert node.follower.problem == "the underlay address 192.168.111.128 is gone from e0"
            node.has = {OTHER_V4, V4}
            await node.periods(2)
        assert node.follower.problem == ""
    gone, back = (event for event in logs if event["event"] != "underlay_not_replaced")
    remedy = gone.pop("remedy")
    assert remedy.startswith("give it back" if fixed else "give an interface")
    assert gone == {
        "event": "underlay_address_gone",
        "log_level": "warning",
        "address": "192.168.111.128",
        "interface": "e0",
    }
    assert back == {
        "event": "underlay_address_back",
        "log_level": "info",
        "address": "192.168.111.128",
        "interface": "e0",
        "gone_s": (PERIODS + 3) * PERIOD_S,
    }


async def test_another_address_takes_its_place() -> None:
    """The node ends after the grace period; the error names both addresses and the remedy."""
    async with following(V4) as node:
        node.has, node.choice = {OTHER_V4}, [on(OTHER_V4, "br0")]
        await node.periods(PERIODS)
        assert node.asked == 0
        with pytest.raises(StartError, match=r"192\.168\.111\.128 is gone from e0, and 192\.168\.111\.200 of br0"):
            await node.periods()


async def test_none_takes_its_place() -> None:
    """A start would fail: the node stays, checks again, and ends as soon as there is an address."""
    async with following(V4) as node:
        node.has = set()
        await node.periods(PERIODS + 10)
        assert node.asked == 10
        node.choice = [on(V4)]  # it came back between the two looks
        await node.periods()
        node.choice = [on(V6)]  # of a static node, which would take either
        await node.periods()
        node.choice = [on(OTHER_V4)]
        with pytest.raises(StartError):
            await node.periods()


async def test_a_named_address_is_waited_for() -> None:
    """Vxland does not look for another one."""
    async with following(V4, fixed=(V4,)) as node:
        node.has, node.choice = set(), [on(OTHER_V4)]
        await node.periods(PERIODS + 10)
        assert node.asked == 0
        assert node.follower.problem


async def test_a_plane_of_each_family() -> None:
    """Both are reported. A chosen one does not end the node while a named one is missing: a start would fail."""
    async with following(V4, V6, fixed=(V4,)) as node:
        node.has, node.choice = set(), [on(OTHER_V4), on(OTHER_V6)]
        await node.periods(PERIODS + 2)
        assert node.follower.problem.count("is gone from e0") == 2
        node.has, node.choice = {V4}, [on(V4), on(OTHER_V6)]
        with pytest.raises(StartError, match=r"fd00:111::128 is gone from e0, and fd00:111::200 of e0"):
            await node.periods()


async def test_a_kernel_that_cannot_be_read() -> None:
    """An unreadable kernel is not one without addresses."""
    async with following(V4) as node:
        node.has, node.unreadable = set(), True
        await node.periods(PERIODS + 2)
        assert node.follower.problem == ""


async def test_an_address_moves_to_another_interface() -> None:
    """Vxland kept polling the MTU of the first interface, and named it when the address was gone.

    A recreated interface has another index; an address on two interfaces stays with its own.
    """
    async with following(V4, V6) as node:
        await node.periods(2)
        assert node.moves == []
        node.index = 7
        await node.periods(3)
        assert node.moves == [(V4, 7), (V6, 7)]
        node.has = {V6}
        await node.periods()
        assert node.follower.problem == "the underlay address 192.168.111.128 is gone from e7"


async def test_why_no_other_takes_its_place() -> None:
    """The reason is logged once until the address is back: for example, the settings have an interface's old name."""
    async with following(V4) as node:
        with capture_logs() as logs:
            for _ in range(2):
                node.has = set()
                await node.periods(PERIODS + 5)
                node.has = {V4}
                await node.periods()
    problems = [event["problem"] for event in logs if event["event"] == "underlay_not_replaced"]
    assert problems == ["underlay.interface: 'e0': it has no address"] * 2
