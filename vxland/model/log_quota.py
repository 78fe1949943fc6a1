"""Limits of the log lines that a store, or another cause of changes on this node, may write."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

LINES: Final = 20
ROUTINE: Final = 100
"""Lines of events that are also part of ordinary work: changes of leases, repairs, and events without another limit."""

WINDOW_S: Final = 60.0

log = structlog.get_logger()


class LogQuota:
    """At most `lines` log lines in any minute; a line that says so replaces the first one beyond."""

    def __init__(self, what: str, lines: int = LINES, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._lines = lines
        self._clock = clock
        self._logged: deque[float] = deque()
        self._reported_at = -WINDOW_S

    def allows(self) -> bool:
        """Return whether one more line may be logged now; if so, count it."""
        now = self._clock()
        while self._logged and now - self._logged[0] >= WINDOW_S:
            self._logged.popleft()
        if len(self._logged) < self._lines:
            self._logged.append(now)
            return True
        if now - self._reported_at >= WINDOW_S:
            self._reported_at = now
            log.warning("log_lines_left_out", what=self._what, lines=self._lines, seconds=int(WINDOW_S))
        return False
