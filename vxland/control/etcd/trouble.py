"""What stands between this node and the store: told once in the log and kept for health; and when to try again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

FIRST_S: Final = 0.1
LAST_S: Final = 5.0
_STEPS = 1024
_REASONS = 50  # remembered; the texts of several members take turns

log = structlog.get_logger()


class Pace:
    """Delays between tries: 0.1 s, doubling to 5 s, each shortened by up to a half at random. `below` as randrange."""

    def __init__(self, below: Callable[[int], int]) -> None:
        self._below = below
        self._delay = FIRST_S

    def next(self) -> float:
        """Seconds to wait now."""
        delay, self._delay = self._delay, min(self._delay * 2, LAST_S)
        return delay * (1 - self._below(_STEPS) / _STEPS / 2)

    def reset(self) -> None:
        """All is well: the next trouble is a new one."""
        self._delay = FIRST_S


class Troubles:
    """The present troubles, by what they concern."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now: dict[str, str] = {}
        self._told: dict[str, set[str]] = {}
        self.since = clock()

    @property
    def text(self) -> str:
        """All of them; empty: none."""
        return "; ".join(dict.fromkeys(self._now.values()))

    def note(self, what: str, reason: str) -> None:
        """Why `what` fails now; empty: it does not."""
        before = self.text
        if reason:
            self._now[what] = reason
            told = self._told.setdefault(what, set())
            if reason not in told and len(told) < _REASONS:
                told.add(reason)
                log.warning("registry_trouble", what=what, reason=reason)
        elif what in self._now:
            del self._now[what]
            del self._told[what]
            log.info("registry_recovered", what=what)
        if self.text != before:
            self.since = self._clock()
