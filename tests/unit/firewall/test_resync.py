"""The loop that applies and checks, with an apply step that the test controls."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.patience import PATIENCE_S
from vxland.firewall.resync import Resync


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_change_is_applied_at_once_and_state_is_checked_again() -> None:
    """Without a change the period decides."""
    applied: asyncio.Queue[None] = asyncio.Queue()

    async def apply() -> None:
        await applied.put(None)

    async with asyncio.timeout(PATIENCE_S):
        for period_s in (86400, 0.001):
            loop = Resync(apply, period_s)
            task = asyncio.create_task(loop.run())
            for _ in range(3):
                if period_s > 1:
                    loop.notify()
                await applied.get()
            await _cancel(task)


async def test_checks_come_in_a_storm_of_changes_too() -> None:
    """Changes that never end kept the check from coming: what somebody else had changed stayed."""
    calls = asyncio.Queue[str]()
    loop: Resync

    async def apply() -> None:
        await calls.put("all")

    async def follow() -> None:
        loop.notify()
        await calls.put("change")

    async with asyncio.timeout(PATIENCE_S):
        loop = Resync(apply, 0.5, follow, lambda: 0.5)
        loop.notify()
        task = asyncio.create_task(loop.run())
        kinds = [await calls.get()]
        while kinds[-1] != "all":
            kinds.append(await calls.get())
        await _cancel(task)
    assert kinds[0] == "change"


async def test_calls_never_overlap_and_survive_a_cancelled_run() -> None:
    """A program that was started runs on when the daemon stops; the clean-up must wait for its end, or it is undone."""
    started, go = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def apply() -> None:
        started.set()
        await go.wait()
        order.append("applied")

    async with asyncio.timeout(PATIENCE_S):
        loop = Resync(apply, 86400)
        loop.notify()
        task = asyncio.create_task(loop.run())
        await started.wait()
        await _cancel(task)

        async def remove() -> None:
            async with loop.lock:
                order.append("removed")

        removing = asyncio.create_task(remove())
        await asyncio.sleep(0)
        go.set()
        await removing
        assert order == ["applied", "removed"]


async def test_a_change_during_a_call_is_applied_by_the_next_one() -> None:
    """A change that comes while the kernel is being written is not lost."""
    calls = asyncio.Queue[int]()
    go = asyncio.Event()

    async def apply() -> None:
        await calls.put(calls.qsize())
        await go.wait()

    async with asyncio.timeout(PATIENCE_S):
        loop = Resync(apply, 86400)
        task = asyncio.create_task(loop.run())
        loop.notify()
        await calls.get()
        loop.notify()
        go.set()
        await calls.get()
        await _cancel(task)
