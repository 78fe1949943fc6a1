"""One interrupt, at a moment at which nothing is half made."""

from __future__ import annotations

import signal

import pytest

from vxland.lab.signals import ignore_signals, interrupt_deferred, interruptible

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_the_first_signal_interrupts_and_the_next_does_not(number: signal.Signals) -> None:
    """Removal follows the first signal and is not interrupted."""
    done = []
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        for another in NUMBERS:
            signal.raise_signal(another)
        done.append("removed")
    assert done == ["removed"]


def test_an_interrupt_waits_for_the_end_of_a_deferring_block() -> None:
    """Nested blocks too; it is raised once."""
    done = []

    def work() -> None:
        with interrupt_deferred():
            with interrupt_deferred():
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")

    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            work()
        with interrupt_deferred():
            done.append("after")
    assert done == ["inner", "outer", "after"]


def test_signals_are_ignored_until_the_end() -> None:
    """The previous handlers are restored after the block."""
    before = [signal.getsignal(number) for number in NUMBERS]
    with interruptible():
        ignore_signals()
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_nohup_is_respected() -> None:
    """An ignored SIGHUP stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
