"""A network namespace for programs and event loops."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import uvloop
from pyroute2.netns import setns

from tests.patience import PATIENCE_S

T = TypeVar("T")


class Netns:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str) -> str:
        """Run a command inside and return its standard output; CalledProcessError."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def ip(self, command: str) -> str:
        """Run one `ip` command, given without the `ip`, and return its standard output; CalledProcessError."""
        return subprocess.run(
            ["ip", "-n", self.name, *command.split()], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def run_async(
        self,
        main: Callable[[], Coroutine[Any, Any, T]],
        runner: Callable[[Coroutine[Any, Any, T]], T] = uvloop.run,
        timeout_s: float = 2 * PATIENCE_S,
    ) -> T:
        """Run `main()` in an event loop of a separate thread that has entered the namespace; return its result."""

        def inside() -> T:
            setns(self.name)  # for this thread only, which then ends
            return runner(main())

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result(timeout_s)
