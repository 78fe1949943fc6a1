"""Retries of failing calls, their log lines, and the error in health."""

from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from vxland.model.errors import LeaseLostError
from vxland.registry.errors import StoreError, guarded
from vxland.registry.retry import Retrier


class Sleeps:
    """A sleep that takes no time."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Sleep."""
        self.slept.append(round(seconds, 3))


async def test_pauses_double_up_to_5_s() -> None:
    """A pause is never shorter than the store asked for."""
    sleeps = Sleeps()
    retrier = Retrier(sleeps, lambda: 0.0)
    backoff = retrier.backoff()
    for _ in range(8):
        await retrier.pause(backoff)
    assert sleeps.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    backoff.reset()
    await retrier.pause(backoff, least_s=7)
    await retrier.pause(backoff)
    assert sleeps.slept[-2:] == [7, 0.2]


async def test_the_nodes_of_a_large_cluster_return_one_after_the_other() -> None:
    """An API server or etcd that restarts was hit by all nodes in the same tenth of a second."""
    sleeps = Sleeps()
    retrier = Retrier(sleeps, lambda: 0.5)
    assert [retrier.turn_s(nodes) for nodes in (0, 2, 5000, 30_000)] == [0, 0.002, 5, 15]
    await retrier.take_turn(0)
    await retrier.take_turn(5000)
    await retrier.pause(retrier.backoff(), retrier.turn_s(5000))
    assert sleeps.slept == [5, 5]


async def test_a_call_is_made_until_it_works() -> None:
    """The pauses grow, and health has the reason meanwhile."""
    sleeps = Sleeps()
    retrier = Retrier(sleeps, lambda: 0.0)
    errors = iter(("down", "down", None))
    seen: list[str] = []

    async def call() -> str:
        seen.append(retrier.error[0])
        if (reason := next(errors)) is not None:
            raise StoreError(reason)
        return "done"

    assert await retrier.persist("it", call) == "done"
    assert seen == ["", "it: down", "it: down"]
    assert sleeps.slept == [0.1, 0.2]
    assert retrier.error == ("", 0.0)
    with pytest.raises(StopIteration):
        next(errors)


def test_each_reason_is_logged_once_until_recovery() -> None:
    """The texts of two members alternate; `since` is the time of the first."""
    retrier = Retrier()
    before = time.monotonic()
    with capture_logs() as logged:
        for reason in ("a is away", "b is away", "a is away"):
            retrier.note("peers", reason)
        retrier.note("own lease", "a is away")
        retrier.note("config", "")
        text, since = retrier.error
        assert text == "peers, own lease: a is away"
        assert before <= since <= time.monotonic()
        retrier.note("peers", "")
        assert retrier.error == ("own lease: a is away", since)
        retrier.note("own lease", "")
        retrier.note("peers", "a is away")
    assert [(entry["event"], entry["what"]) for entry in logged] == [
        ("registry_trouble", "peers"),
        ("registry_trouble", "peers"),
        ("registry_trouble", "own lease"),
        ("registry_recovered", "peers"),
        ("registry_recovered", "own lease"),
        ("registry_trouble", "peers"),
    ]


def test_the_log_is_not_filled_by_a_store() -> None:
    """A store with ever new, long errors, or one that recovers in between, causes 20 lines a minute."""
    retrier = Retrier()
    with capture_logs() as logged:
        for number in range(100):
            retrier.note("peers", str(StoreError(f"{number}\n" + "x" * 1_000_000)))
            if number % 2:
                retrier.note("peers", "")
    assert len(logged) == 21
    assert logged[-1]["event"] == "log_lines_left_out"
    assert sum(len(str(entry)) for entry in logged) < 21 * 1000


async def test_whatever_an_answer_raises_is_an_error_of_the_store() -> None:
    """A revision of 1e999 was an OverflowError that ended the node; vxland's own errors stay as they are."""
    sleeps = Sleeps()
    retrier = Retrier(sleeps, lambda: 0.0)
    errors: list[Exception] = [OverflowError("cannot convert float infinity"), RecursionError(), KeyError("\x1b[2J")]
    seen: list[str] = []

    async def call() -> str:
        seen.append(retrier.error[0])
        if errors:
            raise errors.pop(0)
        return "done"

    assert await retrier.persist("it", call) == "done"
    assert "OverflowError: cannot convert float infinity (test_retry.py:" in seen[1]
    assert "RecursionError" in seen[2]
    assert all(text.isprintable() for text in seen)
    with pytest.raises(LeaseLostError), guarded():
        raise LeaseLostError("it is gone")
