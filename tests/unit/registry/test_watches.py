"""The pause between two events of a registry."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.patience import PATIENCE_S
from vxland.model.lease import Delta, Lease, Mac, Snapshot, Vtep
from vxland.registry.entries import Reading
from vxland.registry.view import View
from vxland.registry.watches import Watches


def lease(number: int) -> Lease:
    """Return the lease of a node."""
    return Lease(IPv4Network(f"10.0.{number}.0/24"), Vtep(IPv4Address("192.168.0.0") + number, Mac(number)))


async def test_changes_of_a_pause_are_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 500 changes a second was an event of its own, of 0.85 ms of CPU: those of a pause are one."""
    paused: list[float] = []
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        """Let ten nodes appear, one by one, in a pause."""
        paused.append(seconds)
        if len(paused) == 1:
            for number in range(10, 20):
                views[0].put(f"node{number}", Reading({4: lease(number)}))
                await sleep(0)

    views: list[View] = []

    async def follow(view: View) -> None:
        views.append(view)
        view.put("node1", Reading({4: lease(1)}))
        view.complete({"node1"})
        await asyncio.Event().wait()

    watches = Watches(sleep)
    async with asyncio.timeout(PATIENCE_S), aclosing(watches.run(lambda view: [follow(view)])) as events:
        assert await anext(events) == Snapshot(frozenset({lease(1)}))
        monkeypatch.setattr("vxland.registry.watches.asyncio.sleep", recorded)
        assert await anext(events) == Delta(frozenset(map(lease, range(10, 20))))
    assert paused[0] >= 0.02
