"""Growing delays between retries, and retry times by key."""

from __future__ import annotations

import pytest

from vxland.model.backoff import Backoff, RetryTimes


@pytest.mark.parametrize(("jitter", "delays"), [(0.0, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]), (0.5, [0.075, 0.15])])
def test_delays_double_up_to_the_limit(jitter: float, delays: list[float]) -> None:
    """They are shortened at random, so that nodes do not retry all at once."""
    backoff = Backoff(lambda: jitter, last_s=5.0)
    assert [backoff.next_s() for _ in delays] == pytest.approx(delays)
    assert backoff.failures == len(delays)
    backoff.reset()
    assert backoff.next_s() == pytest.approx(delays[0])


def test_many_failures_do_not_overflow() -> None:
    """2.0 ** 1024 is an OverflowError, which a node reaches after nine hours of retries every 30 s."""
    backoff = Backoff(lambda: 0.0)
    assert [backoff.next_s() for _ in range(1100)][-1] == 30.0


def test_each_key_has_its_own_retry_time() -> None:
    """0.1 s to 30 s, each key on its own."""
    retries = RetryTimes(lambda: 0.0)
    delays = [retries.fail("a", 0.0)[1] for _ in range(11)]
    assert delays[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert delays[-2:] == [30.0, 30.0]
    assert (retries.next_at(), retries.ready("a", 29.9), retries.ready("b", 0.0)) == (30.0, False, True)
    assert retries.fail("b", 1.0) == (1, 0.1)
    retries.keep(["b"])
    assert (retries.next_at(), retries.ready("a", 0.0)) == (1.1, True)


def test_keys_that_fail_together_are_retried_together() -> None:
    """The jitter is drawn once for all keys: one pass of the reconciler retries them all."""
    drawn = iter((0.5, 0.1))
    retries = RetryTimes(lambda: next(drawn))
    assert retries.fail("a", 0.0)[1] == retries.fail("b", 0.0)[1] == pytest.approx(0.075)
