"""Removal of what a test has made in the machine, however the test ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def removing(*steps: Callable[[], object]) -> Iterator[None]:
    """Run the steps, in order, after the block: on failure, Ctrl-C and SIGTERM too. Ctrl-C does not interrupt them."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for step in steps:
                step()
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, before)
