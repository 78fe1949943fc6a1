"""Counters and log events of the reconciler's actions: what was done, failed, or was undone by another program."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import structlog

from vxland.model.actions import Action
from vxland.model.errors import VxlandError
from vxland.model.log_quota import LINES, ROUTINE, LogQuota

_UNDONE_S = 60.0
"""If the same repair is needed again within this time, another program has undone it."""

Cause: TypeAlias = Literal["lease", "netlink", "retry", "resync"]

log = structlog.get_logger()


@dataclass(slots=True)
class ReconcileCounters:
    """Since start: passes, failed reads, actions done by (verb, cause), failed ones by verb; `pending`: waiting now."""

    passes: int = 0
    failed_reads: int = 0
    repaired: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    pending: int = 0


class ActionLog:
    """Counts actions in `counters`, and logs them within limits. Retries are given as tries so far and seconds left."""

    def __init__(self, counters: ReconcileCounters, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._clock = clock
        self._repairs: dict[Action, tuple[int, float]] = {}  # recent ones: times undone, and when last done
        self._quotas = {event: LogQuota(event, ROUTINE, clock) for event in ("drift_repaired", "action_failed")}

    def failed(
        self, failures: Mapping[Action, VxlandError], retries: Mapping[Action, tuple[int, float]], cause: Cause
    ) -> None:
        """Count failed actions, and log the first LINES of them."""
        unnamed = 0
        for number, (action, error) in enumerate(failures.items()):
            self._counters.failed[action.verb] += 1
            tries, retry_s = retries[action]
            if number >= LINES or (tries == 1 and not self._quotas["action_failed"].allows()):
                unnamed += 1
            else:
                log.log(
                    logging.WARNING if tries == 1 else logging.DEBUG,  # `pending` shows that it still fails
                    "action_failed",
                    error=str(error),
                    tries=tries,
                    retry_s=round(retry_s, 2),
                    **action.event_fields(),
                )
        if 0 < unnamed < len(failures):
            log.info("more_actions_failed", cause=cause, count=unnamed)

    def done(self, actions: Collection[Action], cause: Cause) -> None:
        """Count and log actions that the kernel carried out."""
        now = self._clock()
        self._repairs = {action: done for action, done in self._repairs.items() if now - done[1] < _UNDONE_S}
        named = 0
        for action in actions:
            self._counters.repaired[action.verb, cause] += 1
            tries = self._times_undone(action, cause, now)
            if tries and cause != "retry":  # a retry was logged when its time was set
                self.undone(action, tries, 0.0)
            if self._quotas["drift_repaired"].allows():
                named += 1
                log.info("drift_repaired", cause=cause, **action.event_fields())
        if 0 < named < len(actions):
            log.info("more_drift_repaired", cause=cause, count=len(actions) - named)
        self._counters.pending -= len(actions)

    def undone(self, action: Action, tries: int, retry_s: float) -> None:
        """Log that another program has undone an action, which is retried after `retry_s`."""
        log.warning("action_undone", tries=tries, retry_s=round(retry_s, 2), **action.event_fields())

    def _times_undone(self, action: Action, cause: Cause, now: float) -> int:
        """Record a repair, and return how often it was undone recently; a change of leases is no repair."""
        if cause == "lease":
            return 0
        tries = self._repairs[action][0] + 1 if action in self._repairs else 0
        self._repairs[action] = tries, now
        return tries
