"""Keeps the kernel as the leases want it: read, plan, apply, and read again until there is nothing to do.

Three things start a pass: a new Want, a netlink event, and the clock (a resync, or a retry that is due). A pass plans
from a fresh Have, so it does not matter what the event was or how many there were; and it goes round again after
applying, because an action can undo others (a new MAC flushes the neighbours). Where only the Want is new, and all was
as wanted before, the first round plans from the Have of then: among 5,000 leases, reading takes most of a change's
time. An action that fails, or is applied and planned again in the same pass, waits for its own retry date; all others
go ahead without it.

Nothing happens before the first set_want(): not to know the leases is not the same as to have none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Literal, Protocol, TypeAlias

import structlog

from vxland.model.actions import Action
from vxland.model.backoff import RetryTimes
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import Have
from vxland.model.lease import Address, Subnet
from vxland.model.log_quota import LINES, ROUTINE, LogQuota
from vxland.reconcile.plan import OUR_KINDS, Want, plan

DEBOUNCE_S = 0.05  # events come in bursts: a link that goes down takes every route along
RESYNC_S = 30.0  # finds what raises no event: accept_ra
MAX_ROUNDS = 5
_REST = 2  # events wait this many times as long as looking took: a storm costs a third of one CPU at most
_UNDONE_S = 60.0
"""Once repaired, what needs the same repair again so soon has been undone by somebody."""

Cause: TypeAlias = Literal["lease", "netlink", "retry", "resync"]
Obstacle: TypeAlias = Literal["", "device_missing", "device_foreign", "device_down"]
_CAUSES: tuple[Cause, ...] = ("lease", "netlink", "retry", "resync")  # when several coincide, the first is named

_READING = "netlink"  # its place among the actions that failed
_JITTER = SystemRandom().random

log = structlog.get_logger()


class OverlayKernel(Protocol):
    """What reconciling needs of the kernel; netlink/client.py has it. Every method may raise VxlandError."""

    async def read(self, device: str, networks: Sequence[Subnet], vteps: Collection[Address] = ()) -> Have:
        """The kernel's state now; `vteps` are the addresses that Have.on_link is to tell of."""
        ...

    async def apply(self, actions: Sequence[Action]) -> dict[Action, VxlandError]:
        """Carry out actions in order, each on its own; the failed ones."""
        ...

    async def wait_change(self) -> None:
        """Return when what read() says may have changed since the last call."""
        ...


@dataclass(slots=True)
class ReconcileCounters:
    """Since start: passes, failed reads, actions done by (verb, cause), refused by verb; `pending`: waiting now."""

    passes: int = 0
    failed_reads: int = 0
    mended: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    pending: int = 0


class Reconciler:
    """Follows a Want. `clock`, `sleep` and `jitter` are for tests."""

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
        """Why the device cannot carry frames, as last read; empty while it can."""
        self.tried = asyncio.Event()
        """Set once the first want has been carried out, as far as that was possible."""
        self._kernel = kernel
        self._clock = clock
        self._sleep = sleep
        self._retries = RetryTimes(jitter)
        self._repairs: dict[Action, tuple[int, float]] = {}  # of late: how often each was undone, and when it was done
        self._quotas = {
            event: LogQuota(event, ROUTINE, clock) for event in ("drift_repaired", "action_failed", "action_undone")
        }
        self._want: Want | None = None
        self._settled: Have | None = None  # as last read, with nothing left to do
        self._causes: set[Cause] = set()
        self._rest_until = 0.0
        self._wake = asyncio.Event()  # some cause is there
        self._hurry = asyncio.Event()  # a new Want is there, which no event need be waited for
        self.on_link: Collection[Address] = ()
        """The VTEPs whose subnets are to be reached past the tunnel, as last read."""
        self.on_missing: Callable[[], None] = _nothing
        """Called where a look finds no TAP of the name, which only another part of the node can make."""
        self._waiting: list[asyncio.Future[None]] = []
        self._kind = ""  # of what stands in the device's place

    @property
    def link_problem(self) -> str:
        """The obstacle in words; empty where there is none."""
        device = "" if self._want is None else self._want.device
        return {
            "": "",
            "device_missing": f"{device} is missing",
            "device_foreign": f"{device} is a {self._kind or 'device of an unknown kind'}, and no TAP of ours",
            "device_down": f"{device} is down",
        }[self.obstacle]

    def set_want(self, want: Want) -> None:
        """Replace what is wanted; takes effect at once."""
        self._want = want
        self._hurry.set()
        self._poke("lease")

    async def preview(self) -> list[Action]:
        """What would be done now; nothing is touched. VxlandError when the kernel cannot be read."""
        want = self._want
        return [] if want is None else plan(want, await self._read(want))

    async def settle(self) -> None:
        """Return after a pass over the kernel's state that began later than this call."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hurry.set()
        self._poke("netlink")
        await turn

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
            for turn in waiting:
                if not turn.done():
                    turn.set_result(None)
            self.counters.passes += 1
            if self._want is not None:
                self.tried.set()

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return once `event` is set, or after so many seconds."""
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
                self._retries.keep([_READING])  # an action's date, which may have passed, must not hurry the next look
                tries, retry_s = self._retries.fail(_READING, self._clock())
                log.warning("netlink_failed", error=str(exc), tries=tries, retry_s=round(retry_s, 2))
                return
            self._note(actions, failures, cause)
            done.update(action for action in actions if action not in failures)
            if len(failures) == len(actions):  # nothing changed, or nothing was to do
                return
        log.warning("reconcile_unsettled", rounds=MAX_ROUNDS)
        self._retries.fail(_READING, self._clock())

    async def _read_and_plan(self, want: Want) -> list[Action]:
        started = self._clock()
        settled, self._settled = self._settled, None
        if settled is not None and not want.vteps:  # else it does not tell of a new VTEP's way
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
        now = self._clock()
        undone = [action for action in actions if action in done] if done else []
        for action in undone:  # somebody undoes it at once: don't fight at full speed
            tries, retry_s = self._retries.fail(action, now)
            self._tell_undone(action, tries, retry_s)
        return [action for action in actions if self._retries.ready(action, now)]

    def _tell_undone(self, action: Action, tries: int, retry_s: float) -> None:
        if self._quotas["action_undone"].allows():
            log.warning("action_undone", tries=tries, retry_s=round(retry_s, 2), **action.event_fields())

    def _times_undone(self, action: Action, cause: Cause, now: float) -> int:
        """Note a repair, and return how often somebody has undone it of late; a change of leases is no repair."""
        if cause == "lease":
            return 0
        tries = self._repairs[action][0] + 1 if action in self._repairs else 0
        self._repairs[action] = tries, now
        return tries

    def _note(self, actions: list[Action], failures: dict[Action, VxlandError], cause: Cause) -> None:
        now = self._clock()
        unnamed = 0
        for number, (action, error) in enumerate(failures.items()):
            self.counters.failed[action.verb] += 1
            tries, retry_s = self._retries.fail(action, now)
            if number >= LINES or (tries == 1 and not self._quotas["action_failed"].allows()):
                unnamed += 1
            else:
                log.log(
                    logging.WARNING if tries == 1 else logging.DEBUG,  # `pending` says that it still fails
                    "action_failed",
                    error=str(error),
                    tries=tries,
                    retry_s=round(retry_s, 2),
                    **action.event_fields(),
                )
        mended = [action for action in actions if action not in failures]
        if 0 < unnamed < len(failures):
            log.info("more_actions_failed", cause=cause, count=unnamed)
        self._repairs = {action: done for action, done in self._repairs.items() if now - done[1] < _UNDONE_S}
        named = 0
        for action in mended:
            self.counters.mended[action.verb, cause] += 1
            tries = self._times_undone(action, cause, now)
            if tries and cause != "retry":  # of which _due() has told
                self._tell_undone(action, tries, 0.0)
            if self._quotas["drift_repaired"].allows():
                named += 1
                log.info("drift_repaired", cause=cause, **action.event_fields())
        if 0 < named < len(mended):
            log.info("more_drift_repaired", cause=cause, count=len(mended) - named)
        self.counters.pending -= len(mended)

    def _note_link(self, want: Want, have: Have) -> None:
        """Keep what is in the way, and say it once where only others can mend it."""
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
            self.obstacle = "" if link.up else "device_down"  # which is mended at once
        if self.obstacle in {"device_missing", "device_foreign"}:
            self.on_missing()


def _nothing() -> None:
    """Do nothing."""
