"""What keeps a registry from its work: tried again at a growing pace, told once in the log, and kept for health.

Several things are tried at once, each under a name of its own, so that the success of one does not hide that another
still fails.

What a server sends may raise anything in code that did not think of it. guarded() makes an error of the store of it:
content must never end the node.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from typing import Final, TypeVar

import structlog

from vxland.model.errors import VxlandError
from vxland.model.log_quota import LogQuota
from vxland.model.text import printable

FIRST_S: Final = 0.1
LAST_S: Final = 5.0
MAX_REASON: Final = 600
"""Characters of an error's text: a server may send megabytes of it."""

_REASONS = 50  # remembered; the texts of several servers take turns
_JITTER = SystemRandom().random

T = TypeVar("T")
log = structlog.get_logger()


def cause_of(exc: BaseException) -> str:
    """Return why a request failed. aiohttp names an SSL context for plain http too, which says nothing."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return str(exc).replace(" ssl:default", "") or type(exc).__name__


class StoreError(VxlandError):
    """A store did not do what it was asked for; most do once they are asked again.

    Its text is on one line of at most MAX_REASON characters, whatever the server sent.
    """

    retry_after_s: float = 0.0
    """The least time until then, where the store said one."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text, MAX_REASON))


@contextmanager
def guarded() -> Iterator[None]:
    """Raise a StoreError for whatever is raised inside and is not of vxland's own family: an answer caused it."""
    try:
        yield
    except VxlandError:
        raise
    except Exception as exc:
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        raise StoreError(f"what the store answered caused {type(exc).__name__}: {exc} ({where})") from exc


class Pace:
    """Pauses between tries: 0.1 s, doubling to 5 s, each shortened by up to a half by `jitter`, which is in [0, 1)."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]], jitter: Callable[[], float]) -> None:
        self._sleep = sleep
        self._jitter = jitter
        self._next_s = FIRST_S

    async def pause(self, least_s: float = 0.0) -> None:
        """Sleep before the next try."""
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, LAST_S)
        await self._sleep(max(pause_s * (1 - self._jitter() / 2), least_s))

    def reset(self) -> None:
        """It works: the next failure is a first one."""
        self._next_s = FIRST_S


class Retrier:
    """What fails now, by what it is. `sleep` and `jitter` are for tests."""

    def __init__(
        self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, jitter: Callable[[], float] = _JITTER
    ) -> None:
        self._sleep = sleep
        self._jitter = jitter
        self._reasons: dict[str, str] = {}
        self._told: dict[str, set[str]] = {}
        self._since = 0.0
        self._quota = LogQuota("registry_trouble")

    @property
    def error(self) -> tuple[str, float]:
        """All that fails, with the reasons, and since when something does (monotonic); empty while nothing does."""
        whats: dict[str, list[str]] = {}
        for what, reason in self._reasons.items():
            whats.setdefault(reason, []).append(what)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in whats.items()), self._since

    def note(self, what: str, reason: str) -> None:
        """Why `what` fails now; empty: it does not."""
        if reason:
            self._since = self._since if self._reasons else time.monotonic()
            self._reasons[what] = reason
            told = self._told.setdefault(what, set())
            if reason not in told and len(told) < _REASONS and self._quota.allows():
                told.add(reason)
                log.warning("registry_trouble", what=what, reason=reason)
        elif what in self._reasons:
            said = self._told.pop(what)
            del self._reasons[what]
            self._since = self._since if self._reasons else 0.0
            if said and self._quota.allows():
                log.info("registry_recovered", what=what)

    def pace(self) -> Pace:
        """A new one."""
        return Pace(self._sleep, self._jitter)

    async def persist(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns, once it raises no StoreError any more."""
        pace = self.pace()
        while True:
            try:
                with guarded():
                    found = await call()
            except StoreError as exc:
                self.note(what, str(exc))
                await pace.pause(exc.retry_after_s)
            else:
                self.note(what, "")
                return found
