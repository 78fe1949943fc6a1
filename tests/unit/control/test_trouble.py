"""What does not work: tried again, told once, and kept for health."""

from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from vxland.control.trouble import StoreError, Troubles


class Sleeps:
    """A sleep that takes no time."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Sleep."""
        self.slept.append(round(seconds, 3))


@pytest.mark.parametrize(("jitter", "pauses"), [(0.0, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]), (0.5, [0.075, 0.15])])
async def test_pauses_double_up_to_5_s(jitter: float, pauses: list[float]) -> None:
    """Shortened at random, so that nodes do not come all at once; never below what the store asked for."""
    sleeps = Sleeps()
    pace = Troubles(sleeps, lambda: jitter).pace()
    for _ in pauses:
        await pace.pause()
    assert sleeps.slept == pauses
    pace.reset()
    await pace.pause(least_s=7)
    await pace.pause()
    assert sleeps.slept[-2:] == [7, pauses[1]]


async def test_a_call_is_made_until_it_works() -> None:
    """The pauses grow, the reason is in health meanwhile, and any other error is the caller's."""
    sleeps = Sleeps()
    troubles = Troubles(sleeps, lambda: 0.0)
    errors = iter(("down", "down", None))
    seen: list[str] = []

    async def call() -> str:
        seen.append(troubles.error[0])
        if (reason := next(errors)) is not None:
            raise StoreError(reason)
        return "done"

    assert await troubles.persist("it", call) == "done"
    assert seen == ["", "it: down", "it: down"]
    assert sleeps.slept == [0.1, 0.2]
    assert troubles.error == ("", 0.0)
    with pytest.raises(StopIteration):
        next(errors)


def test_each_reason_is_told_once_until_all_is_well() -> None:
    """Two members' texts take turns; since tells of the first."""
    troubles = Troubles()
    before = time.monotonic()
    with capture_logs() as logged:
        for reason in ("a is away", "b is away", "a is away"):
            troubles.note("peers", reason)
        troubles.note("own lease", "a is away")
        troubles.note("config", "")
        text, since = troubles.error
        assert text == "peers, own lease: a is away"
        assert before <= since <= time.monotonic()
        troubles.note("peers", "")
        assert troubles.error == ("own lease: a is away", since)
        troubles.note("own lease", "")
        troubles.note("peers", "a is away")
    assert [(entry["event"], entry["what"]) for entry in logged] == [
        ("registry_trouble", "peers"),
        ("registry_trouble", "peers"),
        ("registry_trouble", "own lease"),
        ("registry_recovered", "peers"),
        ("registry_recovered", "own lease"),
        ("registry_trouble", "peers"),
    ]


def test_the_log_is_not_filled_by_a_store() -> None:
    """One that always says something new is told 50 times."""
    troubles = Troubles()
    with capture_logs() as logged:
        for number in range(100):
            troubles.note("peers", str(number))
    assert len(logged) == 50
