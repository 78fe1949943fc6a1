"""The event loop of every thread: uvloop's, or asyncio's where uvloop is not installed because it has no wheel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module


def _found() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        made: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:  # on 32-bit ARM, for one: docs/install.md
        return asyncio.new_event_loop
    return made


new_event_loop = _found()
