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
    """Since start: passes, full reads, failed reads, actions done by (verb, cause), failed ones by verb.

    `pending` are those that wait now.
    """

    passes: int = 0
    reads: int = 0
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
        self._failed = self._failed_unnamed = self._done = self._done_named = 0  # of this pass
        self._quotas = {event: LogQuota(event, ROUTINE, clock) for event in ("drift_repaired", "action_failed")}

    def failed(self, failures: Mapping[Action, VxlandError], retries: Mapping[Action, tuple[int, float]]) -> None:
        """Count failed actions, and log the first LINES of them."""
        for action, error in failures.items():
            self._counters.failed[action.verb] += 1
            tries, retry_s = retries[action]
            self._failed += 1
            if self._failed > LINES or (tries == 1 and not self._quotas["action_failed"].allows()):
                self._failed_unnamed += 1
            else:
                log.log(
                    logging.WARNING if tries == 1 else logging.DEBUG,  # `pending` shows that it still fails
                    "action_failed",
                    error=str(error),
                    tries=tries,
                    retry_s=round(retry_s, 2),
                    **action.event_fields(),
                )

    def done(self, actions: Collection[Action], cause: Cause) -> None:
        """Count and log actions that the kernel carried out."""
        now = self._clock()
        self._done += len(actions)
        for action in actions:
            self._counters.repaired[action.verb, cause] += 1
            tries = self._times_undone(action, cause, now)
            if tries and cause != "retry":  # a retry was logged when its time was set
                self.undone(action, tries, 0.0)
            if self._quotas["drift_repaired"].allows():
                self._done_named += 1
                log.info("drift_repaired", cause=cause, **action.event_fields())

    def end(self, cause: Cause) -> None:
        """End a pass: log the number of its further failures and repairs, if some of them were logged by themselves."""
        if 0 < self._failed_unnamed < self._failed:
            log.info("more_actions_failed", cause=cause, count=self._failed_unnamed)
        if 0 < self._done_named < self._done:
            log.info("more_drift_repaired", cause=cause, count=self._done - self._done_named)
        self._failed = self._failed_unnamed = self._done = self._done_named = 0

    def undone(self, action: Action, tries: int, retry_s: float) -> None:
        """Log that another program has undone an action, which is retried after `retry_s`."""
        log.warning("action_undone", tries=tries, retry_s=round(retry_s, 2), **action.event_fields())

    def _times_undone(self, action: Action, cause: Cause, now: float) -> int:
        """Record a repair, and return how often it was undone recently; a change of leases is no repair."""
        if cause == "lease":
            return 0
        while self._repairs and now - next(iter(self._repairs.values()))[1] >= _UNDONE_S:  # they are in order of time
            del self._repairs[next(iter(self._repairs))]
        before = self._repairs.pop(action, None)
        tries = 0 if before is None else before[0] + 1
        self._repairs[action] = tries, now
        return tries
