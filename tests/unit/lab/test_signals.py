"""One interrupt, at a moment at which nothing is half made."""

from __future__ import annotations

import signal

import pytest

from vxland.lab.signals import deafen, held, stoppable

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_the_first_signal_interrupts_and_the_next_does_not(number: signal.Signals) -> None:
    """Removal, which follows the first, is not cut short."""
    done = []
    with stoppable():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        for another in NUMBERS:
            signal.raise_signal(another)
        done.append("removed")
    assert done == ["removed"]


def test_an_interrupt_waits_for_the_end_of_a_held_block() -> None:
    """Also of nested ones, and it comes once."""
    done = []

    def work() -> None:
        with held():
            with held():
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")

    with stoppable():
        with pytest.raises(KeyboardInterrupt):
            work()
        with held():
            done.append("after")
    assert done == ["inner", "outer", "after"]


def test_deaf_until_the_end() -> None:
    """The handlers of before are back after the block."""
    before = [signal.getsignal(number) for number in NUMBERS]
    with stoppable():
        deafen()
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_nohup_is_respected() -> None:
    """A SIGHUP that was ignored before stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
