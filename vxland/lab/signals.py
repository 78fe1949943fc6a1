"""Ctrl-C, SIGTERM and SIGHUP as one KeyboardInterrupt that never leaves a half-made namespace or process behind.

The first signal raises KeyboardInterrupt and makes the process ignore further ones, so nothing interrupts the removal.
Inside `interrupt_deferred()` it waits for the end of the block: the removal knows every command and process that was
started. Blocking the signals instead would block them in the children too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """Number of blocks that defer the interrupt, and whether one is pending."""

    depth = 0
    waiting = False


@contextmanager
def interrupt_deferred() -> Iterator[None]:
    """Defer an interrupt until the block ends; for short operations that must complete."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if _State.waiting and not _State.depth:
            _State.waiting = False
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals interrupt the block as described above, and restore their handlers after it."""
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


def ignore_signals() -> None:
    """Ignore the signals that `interruptible` handles, until its block ends."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    ignore_signals()
    if _State.depth:
        _State.waiting = True
    else:
        raise KeyboardInterrupt
