"""The longest hold of the event loop, with a fake clock."""

from __future__ import annotations

import asyncio

import pytest

from vxland.kernel.event_loop import new_event_loop
from vxland.ops.loop_hold import LoopHold


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.mark.parametrize("make_loop", [new_event_loop, asyncio.new_event_loop])
def test_the_longest_step_is_kept_with_its_coroutine(make_loop: object) -> None:
    """Waits between two steps do not count; steps that end in an error or a cancellation do."""
    clock = Clock()
    hold = LoopHold(clock)

    async def worker() -> str:
        clock.now += 1.0
        await asyncio.sleep(0)
        clock.now += 2.0
        return "done"

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            clock.now += 5.0

    async def quick() -> None:
        await asyncio.sleep(0)
        clock.now += 0.5

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(hold.new_task)
        assert await asyncio.create_task(worker(), name="a name") == "done"
        assert (hold.longest_s, hold.holder.rpartition(".")[2]) == (2.0, "worker")
        task = asyncio.create_task(failing())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (hold.longest_s, hold.holder.rpartition(".")[2]) == (5.0, "failing")
        await asyncio.create_task(quick())
        assert (hold.longest_s, hold.holder.rpartition(".")[2]) == (5.0, "failing")

    with asyncio.Runner(loop_factory=make_loop) as runner:  # type: ignore[arg-type]  # a parameter of the test
        runner.run(main())


async def test_a_task_keeps_name_error_and_context() -> None:
    """As asyncio's own factory."""

    async def broken() -> None:
        raise ValueError("broken")

    loop = asyncio.get_running_loop()
    loop.set_task_factory(LoopHold().new_task)
    task = asyncio.create_task(broken(), name="a name")
    assert task.get_name() == "a name"
    assert "broken" in repr(task)
    with pytest.raises(ValueError, match="broken"):
        await task
    loop.set_task_factory(None)
