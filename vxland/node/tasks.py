"""Background tasks of a node, and the reports to its service manager. A task that ends by itself ends the node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from vxland.model.errors import VxlandError
from vxland.node.plane import Plane
from vxland.ops import notify as manager

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
    if plane.source_filter.table is not None:
        jobs[f"input filter of {device}"] = plane.source_filter.table.run()
    return jobs


class ManagerReports:
    """Reports of `status()` to the service manager, and its watchdog while `alive()` returns True.

    They go on while everything else of the node is closed and opened again.
    """

    def __init__(self, status: Callable[[], str], alive: Callable[[], Awaitable[bool]], on_end: OnEnd) -> None:
        self._status = status
        self._alive = alive
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report from now on, if there is a service manager; no effect when it already does."""
        if manager.wanted() and self._task is None:
            self._task = _start("service manager", manager.report_status(self._status, self._alive), self._on_end)

    async def stop(self) -> None:
        """End the reports."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None


def _start(name: str, job: Coroutine[Any, Any, None], on_end: OnEnd) -> asyncio.Task[None]:
    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            on_end(task.exception() or VxlandError(f"the {name} task ended"))

    task = asyncio.create_task(job, name=name)
    task.add_done_callback(ended)
    return task
