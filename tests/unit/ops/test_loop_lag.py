"""The delay of the event loop, with a fake clock."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from vxland.ops.loop_lag import PERIOD_S, WINDOW_S, LoopLag


async def test_a_delay_is_reported_at_once_and_for_a_minute() -> None:
    """Another thread sees it while the loop is stuck; later it is the worst of the window."""
    now, wake = 100.0, asyncio.Event()

    async def sleep(seconds: float) -> None:
        assert seconds == PERIOD_S
        await wake.wait()
        wake.clear()

    lag = LoopLag(lambda: now, sleep)
    assert (lag.now_s, lag.worst_s) == (0.0, 0.0)
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    now += PERIOD_S
    now += 1.0
    assert (lag.now_s, lag.problem) == (1.0, "")
    now += 2.0
    assert lag.problem == "the event loop has been stuck for 3 s"
    assert (lag.now_s, lag.worst_s) == (3.0, 3.0)
    wake.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (lag.now_s, lag.worst_s) == (0.0, 3.0)
    now += WINDOW_S
    assert lag.worst_s == lag.now_s == WINDOW_S - PERIOD_S
    wake.set()
    for _ in range(5):
        await asyncio.sleep(0)
    now += PERIOD_S
    assert lag.worst_s == WINDOW_S - PERIOD_S
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
