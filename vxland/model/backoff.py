"""Growing delays between retries, and retry times by key. Pure: the time comes from the caller."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final

RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 30.0

_MAX_DOUBLINGS: Final = 32  # a float of 2**1024 would overflow; every limit is reached long before


class Backoff:
    """Delays between the retries of one operation: `first_s`, then twice the last one, up to `last_s`.

    Each is shortened by up to a half by `jitter`, which returns a number in [0, 1), so that nodes that failed together
    do not retry together.
    """

    def __init__(
        self, jitter: Callable[[], float], *, first_s: float = RETRY_FIRST_S, last_s: float = RETRY_LAST_S
    ) -> None:
        self._jitter = jitter
        self._first_s = first_s
        self._last_s = last_s
        self.failures = 0
        """Calls of next_s() since the last reset()."""

    def next_s(self) -> float:
        """Count a failure, and return the seconds to wait before the next try."""
        delay_s = min(self._first_s * 2.0 ** min(self.failures, _MAX_DOUBLINGS), self._last_s)
        self.failures += 1
        return delay_s * (1 - self._jitter() / 2)

    def reset(self) -> None:
        """Start from `first_s` again: the operation succeeded."""
        self.failures = 0


class RetryTimes:
    """The time of the next try of each failed key, by a Backoff each.

    The jitter is drawn once for all of them: nodes are spread, and what fails together on this node is retried
    together, in one pass.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        drawn = jitter()
        self._jitter = lambda: drawn
        self._failed: dict[Hashable, tuple[Backoff, float]] = {}

    def fail(self, key: Hashable, now: float) -> tuple[int, float]:
        """Count a failure; return how many there were in a row, and the seconds until the next try."""
        backoff = self._failed[key][0] if key in self._failed else Backoff(self._jitter)
        delay_s = backoff.next_s()
        self._failed[key] = backoff, now + delay_s
        return backoff.failures, delay_s

    def ready(self, key: Hashable, now: float) -> bool:
        """Return whether `key` may be tried now."""
        return key not in self._failed or self._failed[key][1] <= now

    def keep(self, keys: Iterable[Hashable]) -> None:
        """Drop the failures of every other key: it succeeded, or is not wanted any more."""
        if self._failed:
            kept = set(keys)
            self._failed = {key: entry for key, entry in self._failed.items() if key in kept}

    def next_at(self) -> float:
        """Return when the first key is due; infinity if none has failed."""
        return min((due for _, due in self._failed.values()), default=float("inf"))
