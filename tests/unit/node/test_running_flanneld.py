"""Waits for a flanneld on the same node; tests/netns/cluster/test_running_flanneld.py has real processes."""

from __future__ import annotations

import pytest

from vxland.model.errors import FlanneldRunningError
from vxland.node.running_flanneld import DOWN_S, MANIFEST_PORT, MAX_S, UP_S, FlanneldWatch

DEVICE = "flannel.1"


class Case:
    """A watch with signs and clock of a test."""

    def __init__(self, port: int | None = None) -> None:
        self.now = 1000.0
        self.sign = ""
        self.asked: list[frozenset[int]] = []
        self.watch = FlanneldWatch(port, find_sign=self._find_sign, clock=lambda: self.now)

    async def _find_sign(self, ports: frozenset[int]) -> str:
        self.asked.append(ports)
        return self.sign

    async def waits(self) -> bool:
        """Return whether the device has to be left to flanneld now."""
        try:
            await self.watch.check(DEVICE)
        except FlanneldRunningError:
            return True
        return False

    async def waits_for(self) -> float:
        """Return the seconds until vxland may take the device."""
        start = self.now
        while await self.waits():
            self.now += 0.5
        return self.now - start


@pytest.mark.parametrize(("port", "ports"), [(None, {MANIFEST_PORT}), (9472, {9472, MANIFEST_PORT})])
async def test_a_sign_holds_as_long_as_it_is_seen(port: int | None, ports: set[int]) -> None:
    """The node takes the device as soon as flanneld is gone."""
    case = Case(port)
    assert not await case.waits()
    case.sign = "process 7"
    with pytest.raises(FlanneldRunningError, match=r"and flannel\.1 is its own \(process 7\)"):
        await case.watch.check(DEVICE)
    case.sign = ""
    assert not await case.waits()
    assert set(case.asked) == {frozenset(ports)}


@pytest.mark.parametrize(("up", "first_s"), [(True, UP_S), (False, DOWN_S)])
async def test_a_device_that_is_replaced_again_and_again_is_left_for_longer(up: bool, first_s: float) -> None:
    """The flanneld is invisible here, in a container; taking its device while it runs cuts the node off."""
    case = Case()
    waits = []
    for _ in range(10):
        case.watch.replaced(DEVICE, up=up)
        waits.append(await case.waits_for())
    assert waits == [min(first_s * 2**n, MAX_S) for n in range(10)]
    case.now += MAX_S + 1
    case.watch.replaced(DEVICE, up=up)
    assert await case.waits_for() == first_s


async def test_a_kernel_device_that_is_deleted_ends_the_wait() -> None:
    """It is the remedy that the log names."""
    case = Case()
    case.watch.replaced(DEVICE, up=True)
    assert await case.waits()
    case.watch.gone()
    assert not await case.waits()
