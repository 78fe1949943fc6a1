"""Recovery of a lost overlay device: the process makes the TAP again, and every worker goes on with a queue of it.

A TAP is lost when somebody deletes it, renames it or moves it to another network namespace. Until there is one again
nobody reads the receiving sockets: datagrams wait in their buffers. Once the reconciler has given the new device its
addresses and routes, reading goes on. Where the name is taken, by a device that is not ours to delete, datagrams are
read and counted as `tap_write_failed` meanwhile, since nobody knows how long that lasts.

The first loss is repaired at once. One that follows soon waits, longer each time, up to 5 s: whoever deletes the device
in a loop costs a bounded part of one CPU and a bounded number of log lines.
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
"""A device that has lasted so long was no part of a loop: its loss is repaired at once again."""

LAST_S: Final = 5.0
"""The longest pause before a repair."""

BLOCKED_S: Final = 1.0
"""Pause between two tries while the name is taken; a try costs one system call."""

_JITTER = SystemRandom().random

log = structlog.get_logger()


class Queues(Protocol):
    """What moves the frames of a device; workers.py has it."""

    @property
    def descriptors(self) -> Mapping[str, int]:
        """Those that a later process can take over, by name; the TAP's numbers stay when the device is renewed."""
        ...

    def tap_misfit(self) -> str:
        """Why the queue in use is none of this namespace's TAP of that name; empty if it is one."""
        ...

    def pause(self) -> None:
        """Leave in the receiving sockets what comes, until receive()."""
        ...

    def receive(self) -> None:
        """Read the receiving sockets from now on."""
        ...

    async def renew_taps(self) -> None:
        """Go on with the TAP as it is now, made where there is none. StartError."""
        ...


class Recovery:
    """Makes the TAP `device` of `workers` again whenever it is lost. `clock`, `sleep` and `jitter` are for tests.

    `make_room()` removes what may be removed of another's device with this name; it may raise StartError, as does
    opening the device. `on_renewed()` is called when the workers have the new one.
    """

    def __init__(
        self,
        device: str,
        workers: Queues,
        reconciler: Reconciler,
        make_room: Callable[[], Awaitable[None]],
        on_renewed: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = _JITTER,
    ) -> None:
        self.problem = ""
        """Why there is no device, and what happens next; empty while there is one."""
        self._device = device
        self._workers = workers
        self._reconciler = reconciler
        self._make_room = make_room
        self._on_renewed = on_renewed
        self._clock = clock
        self._sleep = sleep
        self._backoff = Backoff(jitter, last_s=LAST_S)
        self._lost = asyncio.Event()
        self._reason = ""
        self._renewed_at = float("-inf")

    def lost(self, code: int) -> None:
        """Note that a queue cannot be read any more, for the errno `code`."""
        self._note(f"its queue cannot be read any more: {os.strerror(code)}")

    def missed(self) -> None:
        """Note that no TAP of ours has the name: the reconciler found none. It may have come back since."""
        if reason := self._workers.tap_misfit():
            self._workers.pause()
            self._note(reason)

    async def run(self) -> None:
        """Recover until cancelled; FlanneldRunningError where the device has to be left to flanneld."""
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
        self._on_renewed()
        self.problem = f"{self._device} was made again and is not set up yet"
        await self._reconciler.settle()
        if not self._lost.is_set():
            self._workers.receive()
            self.problem = ""
            log.warning("device_recreated", device=self._device, gone_s=round(self._clock() - began, 2))

    async def _renew(self) -> None:
        """Give the workers queues of a new device, as soon as that is possible."""
        said: set[str] = set()
        while True:
            try:
                await self._make_room()
                await self._workers.renew_taps()
            except FlanneldRunningError:  # which takes more than the device
                raise
            except StartError as exc:
                self.problem = str(exc)
                if exc.cause not in said:
                    said.add(exc.cause)
                    log.warning(
                        "device_blocked", device=self._device, cause=exc.cause, remedy=exc.remedy, retry_s=BLOCKED_S
                    )
                self._workers.receive()  # to count what is lost, instead of keeping it until nobody wants it
                await self._sleep(BLOCKED_S)
            else:
                return
