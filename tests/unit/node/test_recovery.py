"""Times at which a lost device is created again, and the events; tests/netns/interop has real devices."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from tests.kernel import DEV, Clock, FakeKernel, idle, set_want, want
from vxland.model.errors import StartError
from vxland.node.recovery import BLOCKED_S, STEADY_S, Recovery
from vxland.reconcile.reconciler import Reconciler


class FakeQueues:
    """Workers that note calls; `errors` are those of the next attempts to open the TAP."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {"tap/flannel.1/0": 9, "receive/flannel.1/0": 10}
        self.errors: list[StartError] = []
        self.misfit = ""
        self.done: list[str] = []

    def tap_mismatch(self) -> str:
        """Return the reason that the test set."""
        return self.misfit

    def pause(self) -> None:
        """Note the call."""
        self.done.append("pause")

    def receive(self) -> None:
        """Note the call."""
        self.done.append("receive")

    async def renew_taps(self) -> None:
        """Note the call, or raise the next error."""
        if self.errors:
            raise self.errors.pop(0)
        self.done.append("renew")


class Case:
    """A running recovery over fakes."""

    def __init__(self) -> None:
        self.clock, self.queues = Clock(), FakeQueues()
        self.reconciler = Reconciler(
            FakeKernel(), clock=lambda: self.clock.now, sleep=self.clock.sleep, jitter=lambda: 0.0
        )
        self.recovery = Recovery(
            DEV,
            self.queues,
            self.reconciler,
            _nothing,
            lambda: self.queues.done.append("resumed"),
            lambda: self.queues.done.append("set up"),
            clock=lambda: self.clock.now,
            sleep=self.clock.sleep,
            jitter=lambda: 0.0,
        )

    async def lose(self, pause_s: float) -> None:
        """Lose the device, and check that it is back after this pause and no earlier."""
        self.queues.done.clear()
        self.recovery.lost(errno.EBADFD)
        await idle()
        if pause_s:
            assert self.queues.done == []
            assert "will be made again" in self.recovery.problem
            await self.clock.pass_time(pause_s)
        await idle()
        assert self.queues.done == ["renew", "resumed", "receive", "set up"]
        assert self.recovery.problem == ""


@asynccontextmanager
async def running() -> AsyncIterator[Case]:
    """Yield the case; cancel its tasks at the end."""
    case = Case()
    tasks = [asyncio.create_task(job) for job in (case.reconciler.run(), case.recovery.run())]
    await set_want(case.reconciler, want())
    await idle()
    yield case
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_first_loss_is_repaired_at_once_and_a_loop_slows_down() -> None:
    """A device deleted in a loop is created every 5 s at most; after a longer life, at once again."""
    async with running() as case:
        for pause_s in (0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5):
            await case.lose(pause_s)
        await case.clock.pass_time(STEADY_S)
        await case.lose(0)
        await case.lose(0.1)


async def test_a_taken_name_is_logged_once_and_retried() -> None:
    """Meanwhile datagrams are read and counted, and the node is not ready for this reason."""
    taken = StartError("flannel.1 exists and is no TAP of ours", "delete it")
    async with running() as case:
        case.queues.errors = [taken, taken, StartError("no memory", "buy some"), taken]
        with capture_logs() as logs:
            case.recovery.lost(errno.EBADFD)
            await idle()
            assert case.recovery.problem == "flannel.1 exists and is no TAP of ours; delete it"
            assert case.queues.done == ["receive"]
            await case.clock.pass_time(4 * BLOCKED_S)
        assert case.recovery.problem == ""
        assert case.queues.done[-4:] == ["renew", "resumed", "receive", "set up"]
    assert events(logs) == ["device_lost", "device_blocked", "device_blocked", "device_recreated"]


@pytest.mark.parametrize("misfit", ["", "it is a queue of stolen"])
async def test_a_device_that_was_renamed_is_lost_too(misfit: str) -> None:
    """No read fails then: the reconciler finds no device. A check after the device is back changes nothing."""
    async with running() as case:
        case.queues.misfit = misfit
        case.recovery.missed()
        await idle()
        assert case.queues.done == (["pause", "renew", "resumed", "receive", "set up"] if misfit else [])


def events(logs: Iterable[object]) -> list[str]:
    """Return the names of the recovery's events."""
    return [str(entry["event"]) for entry in logs if isinstance(entry, dict) and entry["event"].startswith("device_")]


async def _nothing() -> None:
    """Do nothing: the name is free."""
