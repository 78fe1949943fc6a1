"""Recovery of a lost overlay device: the process creates the TAP again, and every worker continues with a queue of it.

A TAP is lost when somebody deletes it, renames it or moves it to another network namespace. Until there is a new one
nobody reads the receiving sockets: datagrams wait in their buffers. Once the reconciler has given the new device its
addresses and routes, reading continues. If the name is taken by a device that vxland may not delete, datagrams are read
meanwhile and counted as `tap_write_failed`, since that may last for any time.

The first loss is repaired at once. A loss soon after that waits, longer each time, up to 5 s. A program that deletes
the device in a loop thus costs a bounded part of one CPU and a bounded number of log lines.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from random import SystemRandom
from typing import Final, Protocol

import structlog

from vxland.model.backoff import Backoff
from vxland.model.errors import FlanneldRunningError, StartError
from vxland.ops import notify as manager
from vxland.reconcile.reconciler import Reconciler

STEADY_S: Final = 10.0
"""Seconds after which the loss of a device is repaired at once again: it was not part of a loop."""

LAST_S: Final = 5.0
"""The longest pause before a repair."""

BLOCKED_S: Final = 1.0
"""Pause between two attempts while the name is taken; an attempt costs one system call."""

_JITTER = SystemRandom().random

log = structlog.get_logger()


class Queues(Protocol):
    """The workers of a device, forwarding/workers.py."""

    @property
    def descriptors(self) -> Mapping[str, int]:
        """Descriptors that a later process can take over, by name; a new TAP keeps the numbers of the old one."""
        ...

    def tap_mismatch(self) -> str:
        """Return why the queue in use belongs to no TAP of that name in this namespace; empty if it does."""
        ...

    def pause(self) -> None:
        """Leave datagrams in the receiving sockets until receive()."""
        ...

    def receive(self) -> None:
        """Read the receiving sockets from now on."""
        ...

    async def renew_taps(self) -> None:
        """Continue with the present TAP, created if there is none. StartError."""
        ...


class Recovery:
    """Creates the TAP `device` of `workers` again whenever it is lost. `clock`, `sleep` and `jitter` are for tests.

    `free_name()` deletes another program's device of this name if vxland may; it may raise StartError, as may opening
    the device. `on_recreated()` is called when the workers have the new one, and `on_set_up()` when it takes frames.
    """

    def __init__(
        self,
        device: str,
        workers: Queues,
        reconciler: Reconciler,
        free_name: Callable[[], Awaitable[None]],
        on_recreated: Callable[[], None],
        on_set_up: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = _JITTER,
    ) -> None:
        self.problem = ""
        """Reason why there is no device, and what happens next; empty while there is one."""
        self._device = device
        self._workers = workers
        self._reconciler = reconciler
        self._free_name = free_name
        self._on_recreated = on_recreated
        self._on_set_up = on_set_up
        self._clock = clock
        self._sleep = sleep
        self._backoff = Backoff(jitter, last_s=LAST_S)
        self._lost = asyncio.Event()
        self._reason = ""
        self._renewed_at = float("-inf")

    def lost(self, code: int) -> None:
        """Note that a queue cannot be read any more, with the errno `code`."""
        self._note(f"its queue cannot be read any more: {os.strerror(code)}")

    def missed(self) -> None:
        """Note that the reconciler found no TAP of ours with the name. It may have come back since."""
        if reason := self._workers.tap_mismatch():
            self._workers.pause()
            self._note(reason)

    async def run(self) -> None:
        """Recover until cancelled; FlanneldRunningError if the device has to be left to flanneld."""
        while True:
            await self._lost.wait()
            await self._recover()

    def _note(self, reason: str) -> None:
        if not self._lost.is_set():
            self._reason = reason
            self._lost.set()

    async def _recover(self) -> None:
        began = self._clock()
        self.problem = f"{self._device} is lost and will be made again: {self._reason}"
        log.warning("device_lost", device=self._device, reason=self._reason)
        queues = [name for name in self._workers.descriptors if name.startswith("tap/")]
        if manager.wanted():  # a queue that the manager keeps would keep the device
            await asyncio.to_thread(manager.forget, queues)
        if began - self._renewed_at < STEADY_S:
            await self._sleep(self._backoff.next_s())
        else:
            self._backoff.reset()
        await self._renew()
        manager.store({name: self._workers.descriptors[name] for name in queues})
        self._renewed_at = self._clock()
        self._lost.clear()  # before anything else can be lost
        self._on_recreated()
        self.problem = f"{self._device} was made again and is not set up yet"
        await self._reconciler.settle()
        if not self._lost.is_set():
            self._workers.receive()
            self.problem = ""
            self._on_set_up()
            log.warning("device_recreated", device=self._device, gone_s=round(self._clock() - began, 2))

    async def _renew(self) -> None:
        """Give the workers queues of a new device as soon as that is possible."""
        logged: set[str] = set()
        while True:
            try:
                await self._free_name()
                await self._workers.renew_taps()
            except FlanneldRunningError:  # flanneld takes more than the device
                raise
            except StartError as exc:
                self.problem = str(exc)
                if exc.cause not in logged:
                    logged.add(exc.cause)
                    log.warning(
                        "device_blocked", device=self._device, cause=exc.cause, remedy=exc.remedy, retry_s=BLOCKED_S
                    )
                self._workers.receive()  # to count what is lost: in the buffers it would grow stale
                await self._sleep(BLOCKED_S)
            else:
                return
