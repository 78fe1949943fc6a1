"""Ctrl-C, SIGTERM and SIGHUP as one KeyboardInterrupt that never leaves a half-made thing behind.

The first signal raises KeyboardInterrupt and makes the process deaf to more, so that nothing cuts the removal short.
Inside `held()` it waits for the end of the block: a command or a process that was just started is one that the
removal knows of. Blocking the signals instead would block them in the children too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """How many blocks hold the interrupt back, and whether one waits."""

    depth = 0
    waiting = False


@contextmanager
def held() -> Iterator[None]:
    """Hold an interrupt back until the block ends; for what is short and must be whole."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if _State.waiting and not _State.depth:
            _State.waiting = False
            raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[None]:
    """Let signals interrupt the block as this module says, and be as before after it."""
    before = {number: signal.getsignal(number) for number in _STOPPING}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]  # nohup
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deafen() -> None:
    """Ignore what `stoppable` listens for until its block ends."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    deafen()
    if _State.depth:
        _State.waiting = True
    else:
        raise KeyboardInterrupt
