"""When what failed may be tried again. Pure: the time comes from the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 30.0


class Backoff:
    """Retry dates by key: 0.1 s after the first failure, doubling to 30 s, all shortened by up to a half at random.

    The jitter is drawn once: it parts nodes, while what fails together here is retried together, in one pass.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._pace = 1 - jitter() / 2  # jitter is in [0, 1)
        self._failures: dict[object, tuple[int, float]] = {}

    def fail(self, key: object, now: float) -> tuple[int, float]:
        """Note a failure: how many there were now, and the seconds until the next try."""
        count = self._failures.get(key, (0, 0.0))[0]
        delay = min(RETRY_FIRST_S * 2.0 ** min(count, 32), RETRY_LAST_S) * self._pace
        self._failures[key] = (count + 1, now + delay)
        return count + 1, delay

    def ready(self, key: object, now: float) -> bool:
        """Whether `key` may be tried now."""
        return key not in self._failures or self._failures[key][1] <= now

    def keep(self, keys: Iterable[object]) -> None:
        """Forget every failure of a key not among `keys`: nobody wants it any more, or it is mended."""
        if self._failures:
            kept = set(keys)
            self._failures = {key: entry for key, entry in self._failures.items() if key in kept}

    def next_at(self) -> float:
        """When the next retry is due; infinity when none is."""
        return min((due for _, due in self._failures.values()), default=float("inf"))
