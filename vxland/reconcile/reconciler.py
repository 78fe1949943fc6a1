"""Keeps the kernel's state as the leases require: compares what has changed, applies the difference, compares it again.

A pass starts on a change of leases or settings, on a netlink event, and by the clock. It compares the base addresses
that a change or an event has touched (view.py), and after applying it compares these again, because one action can undo
another (a new MAC flushes the neighbours). An action that fails, or that is planned again in the pass that applied it
even after a full read, waits for its own retry time; all others go ahead without it.

Everything is read at first, when events were lost, and every five minutes. Link and addresses, of which not all has
events (accept_ra), are read every 30 s.

Nothing happens before the first follow(): unknown leases are not the same as none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Final, Literal, TypeAlias

import structlog

from vxland.model.actions import Action
from vxland.model.backoff import RetryTimes
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import Have
from vxland.model.lease import Address, Change
from vxland.model.slices import in_slices
from vxland.reconcile.action_log import ActionLog, Cause, ReconcileCounters
from vxland.reconcile.plan import OUR_KINDS, Want
from vxland.reconcile.view import OverlayKernel, View

DEBOUNCE_S: Final = 0.05  # events come in bursts: a link that goes down takes every route with it
DEVICE_S: Final = 30.0  # for changes without an event: accept_ra
RESYNC_S: Final = 300.0  # for events that we got wrong; each time shortened by up to a quarter, to spread nodes
MAX_ROUNDS: Final = 8
_REST: Final = 2  # events wait this many times as long as the last full read took: a third of one CPU at most

Obstacle: TypeAlias = Literal["", "device_missing", "device_foreign", "device_down"]
_CAUSES: Final[tuple[Cause, ...]] = ("lease", "netlink", "retry", "resync")  # if several coincide, the first is named

_READING: Final = "netlink"  # the key of a failed read among the failed actions
_JITTER = SystemRandom().random

log = structlog.get_logger()


class Reconciler:
    """Makes the kernel as it is wanted, and keeps it so. `clock`, `sleep` and `jitter` are for tests."""

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
        self.on_missing: Callable[[], None] = _nothing
        """Called when a read finds no TAP of the name, which only another part of the node can make."""
        self._kernel = kernel
        self._clock = clock
        self._sleep = sleep
        self._retries = RetryTimes(jitter)
        self._actions = ActionLog(self.counters, clock)
        self._jitter = jitter
        self._view: View | None = None
        self._ready: View | None = None  # the same, once the leases are known
        self._device = ""
        self._failing: dict[Address, None] = {}  # base addresses of actions that wait for their retry
        self._causes: set[Cause] = set()
        self._rest_until = 0.0
        self._device_at = clock() + DEVICE_S  # the next read of link and addresses by the clock
        self._resync_at = clock() + RESYNC_S  # the next read of everything
        self._wake = asyncio.Event()  # there is a cause
        self._hurry = asyncio.Event()  # something new is wanted, which waits for no further events
        self._waiting: list[asyncio.Future[None]] = []
        self._kind = ""  # of the link that has the device's name

    @property
    def on_link(self) -> Collection[Address]:
        """The VTEPs whose subnets get direct routes past the tunnel, as last read."""
        return () if self._view is None else self._view.have.on_link.keys()

    @property
    def link_problem(self) -> str:
        """The obstacle as a sentence; empty if there is none."""
        return {
            "": "",
            "device_missing": f"{self._device} is missing",
            "device_foreign": f"{self._device} is a {self._kind or 'device of an unknown kind'}, and no TAP of ours",
            "device_down": f"{self._device} is down",
        }[self.obstacle]

    def set_want(self, want: Want) -> None:
        """Replace what is wanted, except for the peers; takes effect at once if these are known."""
        if self._view is None:
            self._view, self._device = View(self._kernel, want), want.device
        else:
            self._view.set_device(want)
        if self._ready is not None:
            self._hurry.set()
            self._poke("lease")

    async def follow(self, change: Change) -> None:
        """Replace leases of peers, after set_want(); takes effect at once. The first change has all there are."""
        if self._view is None:
            msg = "set_want() comes first"
            raise RuntimeError(msg)
        await in_slices(self._view.follow(change))
        self._ready = self._view
        self._hurry.set()
        self._poke("lease")

    async def preview(self) -> list[Action]:
        """Return the actions of a comparison of everything, as the kernel is now, and take none.

        VxlandError: the kernel cannot be read.
        """
        return [] if self._ready is None else await self._ready.preview()

    async def settle(self) -> None:
        """Return after a pass that began later than this call, and has read everything."""
        if self._view is not None:
            self._view.distrust()
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._hurry.set()
        self._poke("netlink")
        await done

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._pass())

    async def _watch(self) -> None:
        while True:
            try:
                await self._kernel.wait_change()
            except VxlandError as exc:
                log.warning("netlink_watch_failed", error=str(exc))
                await self._sleep(1.0)
                if self._view is not None:
                    self._view.distrust()
            self._poke("netlink")

    async def _pass(self) -> None:
        while True:
            due = min(self._resync_at, self._device_at, max(self._retries.next_at(), self._rest_until))
            await self._wait(self._wake, due - self._clock())
            if self._causes == {"netlink"}:
                await self._wait(self._hurry, max(DEBOUNCE_S, self._rest_until - self._clock()))
            if not self._causes and self._clock() < due:  # a timer may fire a little early
                continue
            self._note_timers()
            cause: Cause = next((cause for cause in _CAUSES if cause in self._causes), "retry")
            self._causes.clear()
            self._wake.clear()
            self._hurry.clear()
            waiting, self._waiting = self._waiting, []
            if self._ready is not None:
                await self._reconcile(self._ready, cause)
                self.tried.set()
            for done in waiting:
                if not done.done():
                    done.set_result(None)
            self.counters.passes += 1

    def _note_timers(self) -> None:
        """Have read what is due by the clock."""
        now = self._clock()
        if now >= self._device_at:
            self._device_at = now + DEVICE_S
            self._causes.add("resync")
            if self._view is not None:
                self._view.distrust_device()
        if now >= self._resync_at:
            self._resync_at = now + RESYNC_S * (1 - self._jitter() / 4)
            self._causes.add("resync")
            if self._view is not None:
                self._view.distrust()

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

    async def _reconcile(self, view: View, cause: Cause) -> None:
        """Make one pass: rounds of comparing and applying, until one does nothing more."""
        bases = self._failing
        work = _Pass(cause)
        try:
            for _ in range(MAX_ROUNDS):
                work.planned, work.succeeded, work.again = [], 0, False
                if await self._do(view, await self._plan_device(view), work):
                    view.distrust_device()
                else:
                    bases |= await self._read(view, work)
                    bases = await self._compare(view, bases, work)
                    self._retries.keep(work.planned)
                if not work.again:
                    break
            else:
                log.warning("reconcile_unsettled", rounds=MAX_ROUNDS)
                self._retries.fail(_READING, self._clock())
        except VxlandError as exc:
            view.distrust()
            self.counters.failed_reads += 1
            self._retries.keep([_READING])  # an action's time, which may have passed, must not hurry the next read
            tries, retry_s = self._retries.fail(_READING, self._clock())
            log.warning("netlink_failed", error=str(exc), tries=tries, retry_s=round(retry_s, 2))
            return
        finally:
            self._actions.end(cause)
        self._failing = bases
        if view.is_dirty:  # changed meanwhile, by others
            self._poke("netlink")

    async def _plan_device(self, view: View) -> list[Action]:
        actions = await view.plan_device()
        self._note_link(view.have)
        return actions

    async def _read(self, view: View, work: _Pass) -> dict[Address, None]:
        """Read what is stale; return what this pass has to compare besides. Later changes are for the next pass."""
        started = self._clock()
        everything = await view.refresh()
        if everything:
            self._rest_until = self._clock() + _REST * (self._clock() - started)
            self.counters.reads = view.reads
        first, work.begun = not work.begun, True
        return view.take_dirty() if everything or first else {}

    async def _compare(self, view: View, bases: dict[Address, None], work: _Pass) -> dict[Address, None]:
        """Compare base addresses and apply what is due; return those that were not as wanted."""
        differ: dict[Address, None] = {}
        for part, actions in view.compare(bases):
            if actions:
                differ |= dict.fromkeys(part)
                if await self._do(view, actions, work):
                    await view.fold()  # our own events, before they overrun the socket
            await asyncio.sleep(0)
        self.counters.pending = len(work.planned) - work.succeeded
        return differ

    async def _do(self, view: View, actions: list[Action], work: _Pass) -> bool:
        """Apply the actions that are due; return whether any succeeded."""
        work.planned += actions
        due = self._due(view, actions, work)
        failures = await self._kernel.apply(due) if due else {}
        now = self._clock()
        self._actions.failed(failures, {action: self._retries.fail(action, now) for action in failures})
        succeeded = [action for action in due if action not in failures] if failures else due
        self._actions.done(succeeded, work.cause)
        work.done.update(succeeded)
        work.succeeded += len(succeeded)
        work.again |= bool(succeeded)
        return bool(succeeded)

    def _due(self, view: View, actions: list[Action], work: _Pass) -> list[Action]:
        """Return the actions that may be tried now. One that this pass has done already is doubtful."""
        now = self._clock()
        undone = [action for action in actions if action in work.done]
        if undone and not work.doubted:  # is the record wrong? Then a full read shows it
            view.distrust()
            work.doubted = work.again = True
            return [action for action in actions if action not in work.done and self._retries.ready(action, now)]
        for action in undone:  # another program undoes it at once: don't fight at full speed
            tries, retry_s = self._retries.fail(action, now)
            self._actions.undone(action, tries, retry_s)
        return [action for action in actions if self._retries.ready(action, now)]

    def _note_link(self, have: Have) -> None:
        """Record the obstacle, and log it once if only others can remove it."""
        link = have.link
        before, self._kind = self.obstacle, link.kind if link else ""
        if link is None:
            self.obstacle = "device_missing"
            if self.obstacle != before:
                log.warning("device_missing", device=self._device)
        elif link.kind not in OUR_KINDS:
            self.obstacle = "device_foreign"
            if self.obstacle != before:
                log.warning("device_foreign", device=self._device, kind=link.kind)
        else:
            self.obstacle = "" if link.up else "device_down"  # which is repaired at once
        if self.obstacle in {"device_missing", "device_foreign"}:
            self.on_missing()


@dataclass(slots=True)
class _Pass:
    """A pass: its cause, the actions done, and those planned in its present round."""

    cause: Cause
    done: set[Action] = field(default_factory=set)
    planned: list[Action] = field(default_factory=list)
    succeeded: int = 0
    begun: bool = False
    again: bool = False
    """True if another round must follow."""
    doubted: bool = False
    """True after the full read that follows when a successful action is planned again."""


def _nothing() -> None:
    """Do nothing."""
