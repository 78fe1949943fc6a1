"""Bad weather: an API that does not answer, or not yet as it has to. It is waited for, and the reason told.

Several things are tried at once, each under a name of its own, so that the success of one does not hide that another
still fails.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from vxland.control.kube.client import ApiError

RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 5.0
_SAY_AGAIN_S: Final = 60.0

T = TypeVar("T")
log = structlog.get_logger()


class Weather:
    """What fails now, and when it is tried again. `sleep` and `jitter`, which is in [0, 1), are for tests."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]], jitter: Callable[[], float]) -> None:
        self._sleep = sleep
        self._jitter = jitter
        self._errors: dict[str, tuple[str, float]] = {}
        self._said_at: dict[str, float] = {}

    @property
    def error(self) -> tuple[str, float]:
        """Why something does not work, and since when (monotonic); empty where all does."""
        return next(iter(self._errors.values()), ("", 0.0))

    def clear(self, what: str) -> None:
        """It works."""
        if self._errors.pop(what, None) is not None:
            log.info("kube_answers", what=what)

    async def wait(self, what: str, error: ApiError, tries: int) -> None:
        """Tell that `what` failed, for the `tries`-th time in a row, and sleep until the next try."""
        now, text = time.monotonic(), str(error)
        known, _ = self._errors.get(what, ("", 0.0))
        if text != known:
            self._errors[what] = text, now
        if text != known or now >= self._said_at[what] + _SAY_AGAIN_S:
            self._said_at[what] = now
            log.warning("kube_waiting", what=what, error=text, tries=tries)
        await self.rest(tries, error.retry_after_s)

    async def rest(self, tries: int, least_s: float = 0.0) -> None:
        """Sleep before the next try: 0.1 s after the first failure, doubling to 5 s, shortened by up to a half."""
        pause_s = min(RETRY_FIRST_S * 2.0 ** min(tries - 1, 32), RETRY_LAST_S) * (1 - self._jitter() / 2)
        await self._sleep(max(pause_s, least_s))

    async def persist(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns, once it raises no ApiError any more."""
        tries = 0
        while True:
            try:
                result = await call()
            except ApiError as exc:
                tries += 1
                await self.wait(what, exc, tries)
            else:
                self.clear(what)
                return result
