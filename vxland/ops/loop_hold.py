"""Longest time that one step of a task has held the event loop: meanwhile no other task ran.

A task's step lasts until it waits for something. The time is that of the wall clock, so it includes garbage collection,
waits for the interpreter's lock, and waits for a CPU. `vxlandctl status` shows the latter under `cpu`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any


class LoopHold:
    """The longest step of all tasks that new_task() makes; install that as the loop's task factory. Never reset."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.longest_s = 0.0
        self.holder = ""
        """The coroutine that held it."""

    def new_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,  # noqa: ANN401  (name, context and others, which differ between Pythons)
    ) -> asyncio.Task[Any]:
        """Return a task whose steps are timed."""
        return asyncio.Task(_Timed(coro, self), loop=loop, **options)

    def note(self, began: float, coro: object) -> None:
        """Note a step of the coroutine that began at this time of the clock, and ends now."""
        held_s = self.clock() - began
        if held_s > self.longest_s:
            self.longest_s, self.holder = held_s, getattr(coro, "__qualname__", type(coro).__name__)


class _Timed(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are noted. A step costs half a microsecond more."""

    __slots__ = ("__qualname__", "_coro", "_hold")

    def __init__(self, coro: Any, hold: LoopHold) -> None:  # noqa: ANN401  (a coroutine or a generator)
        self._coro = coro
        self._hold = hold
        self.__qualname__ = getattr(coro, "__qualname__", type(coro).__name__)  # a task's repr shows it

    def send(self, value: Any) -> Any:  # noqa: ANN401  (as the coroutine has it)
        began = self._hold.clock()
        try:
            return self._coro.send(value)
        finally:
            self._hold.note(began, self._coro)

    def throw(
        self,
        typ: Any,  # noqa: ANN401  (as Coroutine has it)
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:  # noqa: ANN401  (as the coroutine has it)
        began = self._hold.clock()
        try:
            return self._coro.throw(typ) if val is None else self._coro.throw(typ, val, tb)
        finally:
            self._hold.note(began, self._coro)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()  # type: ignore[no-any-return]  # a coroutine's
