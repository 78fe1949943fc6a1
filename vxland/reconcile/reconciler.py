"""Keeps the kernel's state as the leases require: read, plan, apply, and read again until nothing is left to do.

A pass starts on a new Want, on a netlink event, and by the clock (a resync, or a retry that is due). It plans from a
fresh Have, so the number and kind of the events do not matter. After applying it reads again, because one action can
undo another (a new MAC flushes the neighbours). If only the Want is new, and the kernel was as wanted before, the first
round plans from the last Have: with 5,000 leases, reading takes most of a change's time. An action that fails, or that
is planned again in the pass that applied it, waits for its own retry time; all others go ahead without it.

Nothing happens before the first set_want(): unknown leases are not the same as none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from random import SystemRandom
from typing import Final, Literal, Protocol, TypeAlias

import structlog

from vxland.model.actions import Action
from vxland.model.backoff import RetryTimes
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import Have
from vxland.model.lease import Address, Subnet
from vxland.reconcile.action_log import ActionLog, Cause, ReconcileCounters
from vxland.reconcile.plan import OUR_KINDS, Want, plan

DEBOUNCE_S: Final = 0.05  # events come in bursts: a link that goes down takes every route with it
RESYNC_S: Final = 30.0  # for changes without an event: accept_ra
MAX_ROUNDS: Final = 5
_REST: Final = 2  # events wait this many times as long as the last read took: a third of one CPU at most

Obstacle: TypeAlias = Literal["", "device_missing", "device_foreign", "device_down"]
_CAUSES: Final[tuple[Cause, ...]] = ("lease", "netlink", "retry", "resync")  # if several coincide, the first is named

_READING: Final = "netlink"  # the key of a failed read among the failed actions
_JITTER = SystemRandom().random

log = structlog.get_logger()


class OverlayKernel(Protocol):
    """The part of the kernel that is reconciled; implemented by netlink/client.py. Methods may raise VxlandError."""

    async def read(self, device: str, networks: Sequence[Subnet], vteps: Collection[Address] = ()) -> Have:
        """Return the kernel's state now; Have.on_link covers `vteps`."""
        ...

    async def apply(self, actions: Sequence[Action]) -> dict[Action, VxlandError]:
        """Carry out actions in order, each on its own, and return the failed ones."""
        ...

    async def wait_change(self) -> None:
        """Return when the result of read() may have changed since the last call."""
        ...


class Reconciler:
    """Applies a Want to the kernel, again and again. `clock`, `sleep` and `jitter` are for tests."""

    def __init__(
        self,
        kernel: OverlayKernel,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = _JITTER,
    ) -> None:
        self.counters = ReconcileCounters()
        self.obstacle: Obstacle = ""
        """Why the device cannot carry frames, as last read; empty if it can."""
        self.tried = asyncio.Event()
        """Set when the first Want has been applied, as far as that was possible."""
        self.on_link: Collection[Address] = ()
        """The VTEPs whose subnets get direct routes past the tunnel, as last read."""
        self.on_missing: Callable[[], None] = _nothing
        """Called when a read finds no TAP of the name, which only another part of the node can make."""
        self._kernel = kernel
        self._clock = clock
        self._sleep = sleep
        self._retries = RetryTimes(jitter)
        self._actions = ActionLog(self.counters, clock)
        self._want: Want | None = None
        self._settled: Have | None = None  # as last read, with nothing left to do
        self._causes: set[Cause] = set()
        self._rest_until = 0.0
        self._wake = asyncio.Event()  # there is a cause
        self._hurry = asyncio.Event()  # there is a new Want, which waits for no further events
        self._waiting: list[asyncio.Future[None]] = []
        self._kind = ""  # of the link that has the device's name

    @property
    def link_problem(self) -> str:
        """The obstacle as a sentence; empty if there is none."""
        device = "" if self._want is None else self._want.device
        return {
            "": "",
            "device_missing": f"{device} is missing",
            "device_foreign": f"{device} is a {self._kind or 'device of an unknown kind'}, and no TAP of ours",
            "device_down": f"{device} is down",
        }[self.obstacle]

    def set_want(self, want: Want) -> None:
        """Replace the Want; takes effect at once."""
        self._want = want
        self._hurry.set()
        self._poke("lease")

    async def preview(self) -> list[Action]:
        """Return the actions that a pass would take now, and take none. VxlandError if the kernel cannot be read."""
        want = self._want
        return [] if want is None else plan(want, await self._read(want))

    async def settle(self) -> None:
        """Return after a pass that began later than this call."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._hurry.set()
        self._poke("netlink")
        await done

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._follow())

    async def _watch(self) -> None:
        while True:
            try:
                await self._kernel.wait_change()
            except VxlandError as exc:
                log.warning("netlink_watch_failed", error=str(exc))
                await self._sleep(1.0)
            self._poke("netlink")

    async def _follow(self) -> None:
        resync_at = self._clock() + RESYNC_S
        while True:
            due = min(resync_at, max(self._retries.next_at(), self._rest_until))
            await self._wait(self._wake, due - self._clock())
            if self._causes == {"netlink"}:
                await self._wait(self._hurry, max(DEBOUNCE_S, self._rest_until - self._clock()))
            started = self._clock()
            if not self._causes and started < due:  # a timer may fire a little early
                continue
            if started >= resync_at:
                self._causes.add("resync")
                resync_at = started + RESYNC_S
            cause: Cause = next((cause for cause in _CAUSES if cause in self._causes), "retry")
            if self._causes != {"lease"}:
                self._settled = None
            self._causes.clear()
            self._wake.clear()
            self._hurry.clear()
            waiting, self._waiting = self._waiting, []
            await self._reconcile(cause)
            for done in waiting:
                if not done.done():
                    done.set_result(None)
            self.counters.passes += 1
            if self._want is not None:
                self.tried.set()

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return when `event` is set, or after `seconds`."""
        if seconds <= 0 or event.is_set():
            return
        tasks = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(event.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _poke(self, cause: Cause) -> None:
        self._causes.add(cause)
        self._wake.set()

    async def _reconcile(self, cause: Cause) -> None:
        """Make one pass."""
        done: set[Action] = set()
        for _ in range(MAX_ROUNDS):
            want = self._want
            if want is None:
                return
            try:
                actions = await self._read_and_plan(want)
                failures = await self._kernel.apply(actions) if (actions := self._due(actions, done)) else {}
            except VxlandError as exc:
                self.counters.failed_reads += 1
                self._retries.keep([_READING])  # an action's time, which may have passed, must not hurry the next read
                tries, retry_s = self._retries.fail(_READING, self._clock())
                log.warning("netlink_failed", error=str(exc), tries=tries, retry_s=round(retry_s, 2))
                return
            now = self._clock()
            self._actions.failed(failures, {action: self._retries.fail(action, now) for action in failures}, cause)
            succeeded = [action for action in actions if action not in failures]
            self._actions.done(succeeded, cause)
            done.update(succeeded)
            if not succeeded:  # nothing changed, or there was nothing to do
                return
        log.warning("reconcile_unsettled", rounds=MAX_ROUNDS)
        self._retries.fail(_READING, self._clock())

    async def _read_and_plan(self, want: Want) -> list[Action]:
        started = self._clock()
        settled, self._settled = self._settled, None
        if settled is not None and not want.vteps:  # its on_link does not cover new VTEPs
            have = settled
        else:
            have = await self._read(want)
            self._note_link(want, have)
            self.on_link = have.on_link.keys()
        actions = plan(want, have)
        if not actions:
            self._settled = have
        self._retries.keep(actions)
        self.counters.pending = len(actions)
        self._rest_until = self._clock() + _REST * (self._clock() - started)
        return actions

    async def _read(self, want: Want) -> Have:
        return await self._kernel.read(want.device, want.watched, want.vteps)

    def _due(self, actions: list[Action], done: set[Action]) -> list[Action]:
        """Return the actions that may be tried now; `done` are those that this pass has already carried out."""
        now = self._clock()
        undone = [action for action in actions if action in done] if done else []
        for action in undone:  # another program undoes it at once: don't fight at full speed
            tries, retry_s = self._retries.fail(action, now)
            self._actions.undone(action, tries, retry_s)
        return [action for action in actions if self._retries.ready(action, now)]

    def _note_link(self, want: Want, have: Have) -> None:
        """Record the obstacle, and log it once if only others can remove it."""
        link = have.link
        before, self._kind = self.obstacle, link.kind if link else ""
        if link is None:
            self.obstacle = "device_missing"
            if self.obstacle != before:
                log.warning("device_missing", device=want.device)
        elif link.kind not in OUR_KINDS:
            self.obstacle = "device_foreign"
            if self.obstacle != before:
                log.warning("device_foreign", device=want.device, kind=link.kind)
        else:
            self.obstacle = "" if link.up else "device_down"  # which is repaired at once
        if self.obstacle in {"device_missing", "device_foreign"}:
            self.on_missing()


def _nothing() -> None:
    """Do nothing."""
