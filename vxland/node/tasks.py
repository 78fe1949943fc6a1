"""Background tasks of a node, and the reports to its service manager. A task that ends by itself ends the node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from vxland.model.errors import VxlandError
from vxland.node.plane import Plane
from vxland.ops import notify as manager

HUNG_S: Final = 30.0
"""Seconds without an answer of event loop and workers after which the process counts as hung, as in the unit."""

Jobs = Mapping[str, Coroutine[Any, Any, None]]
"""Coroutines of tasks, by name."""

OnEnd = Callable[[BaseException], None]
"""Called with the error of a task that ended by itself."""


@asynccontextmanager
async def background_tasks(jobs: Jobs, on_end: OnEnd) -> AsyncIterator[None]:
    """Run jobs, by name, until the block ends; then cancel them and wait for their end."""
    tasks = [_start(name, job, on_end) for name, job in jobs.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def plane_jobs(plane: Plane) -> Jobs:
    """Return the jobs that follow kernel, pods and peers for a plane with an open device."""
    device, tried = plane.settings.device, plane.reconciler.tried
    jobs = {
        f"reconciler of {device}": plane.reconciler.run(),
        f"recovery of {device}": plane.recovery.run(),
        f"public address of {device}": plane.public.run(),
        f"path MTUs of {device}": plane.path_mtus.run(),
        f"forwarding of {device}": plane.forwarding.run(tried),
        f"fast path of {device}": plane.fast_path.run(tried),
        f"prober of {device}": plane.prober.run(tried),
        f"responder of {device}": plane.responder.run(tried),
    }
    if plane.settings.datapath.fast_path == "auto":
        jobs[f"signs of life of {device}"] = plane.fast_path.live()
        jobs[f"routes to peers of {device}"] = plane.fast_path.watch_routes()
    if plane.source_filter.table is not None:
        jobs[f"input filter of {device}"] = plane.source_filter.table.run()
    return jobs


class ManagerReports:
    """Reports of `status()` to the service manager, and its watchdog while `alive()` returns True.

    They go on while everything else of the node is closed and opened again. Without a service manager nothing is sent,
    and /healthz alone shows `hung`. `clock` is for tests.
    """

    def __init__(
        self,
        status: Callable[[], str],
        alive: Callable[[], Awaitable[bool]],
        on_end: OnEnd,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._alive = alive
        self._on_end = on_end
        self._clock = clock
        self._answered_at = float("inf")
        self._task: asyncio.Task[None] | None = None

    def hung(self) -> str:
        """Return why only a restart helps; "" while event loop and workers answer. Any thread may call it."""
        silent_s = self._clock() - self._answered_at
        return f"the data path has not answered for {silent_s:.0f} s" if silent_s > HUNG_S else ""

    async def _answers(self) -> bool:
        found = await self._alive()
        self._answered_at = self._clock()
        return found

    def start(self) -> None:
        """Report from now on; no effect when it already does."""
        if self._task is None:
            self._answered_at = self._clock()
            self._task = _start("service manager", manager.report_status(self._status, self._answers), self._on_end)

    async def stop(self) -> None:
        """End the reports."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self._answered_at = float("inf")


def _start(name: str, job: Coroutine[Any, Any, None], on_end: OnEnd) -> asyncio.Task[None]:
    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            on_end(task.exception() or VxlandError(f"the {name} task ended"))

    task = asyncio.create_task(job, name=name)
    task.add_done_callback(ended)
    return task
