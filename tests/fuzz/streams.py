"""Answers of a store's server, read by a registry's client from the wire. Two targets share this module.

An input is a list of answers with NUL between them. Each has a digit for the status, and then the body, in pieces with
SOH between them, as the socket delivers them. An execution reads one input through a new client into a new View. It
runs on a loop that never waits, because all answers are there before it starts.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import resource
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import structlog
from aiohttp.base_protocol import BaseProtocol

from tests.fuzz import Check
from tests.fuzz.refusals import check_told
from tests.views import claimed_leases
from vxland.model import log_quota
from vxland.registry.errors import MAX_ERROR, StoreError
from vxland.registry.net_conf import NetConf
from vxland.registry.view import View

STATUSES: Final = (200, 200, 307, 400, 401, 404, 410, 429, 500, 503)
GROWTH_KIB: Final = 256 << 10
"""Of the process, the fuzzer's own inputs included."""

ENTRIES: Final = 20
"""MAX_ENTRIES here, so that small inputs reach it."""


class Loop(asyncio.BaseEventLoop):
    """An event loop without a selector: it runs one coroutine to its end, and its clock jumps to the next timer.

    asyncio.Runner would spend more time on signals and the selector than on the code under test.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine; AssertionError if it waits forever."""
        asyncio._set_running_loop(self)
        try:
            task = asyncio.Task(work, loop=self)
            while not task.done():
                if not self._ready:
                    self._jump()
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
            self._ready.clear()
            self._scheduled.clear()
        task.result()

    def _jump(self) -> None:
        """Move the clock to the next timer, which is then ready."""
        assert self._scheduled, "the client waits for what never comes"
        timer = heapq.heappop(self._scheduled)
        self._now = max(self._now, timer.when())
        self._ready.append(timer)

    def time(self) -> float:
        """Return the seconds that timers have taken so far."""
        return self._now

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Fail: this error was not handled."""
        raise AssertionError(context)


class Answer:
    """The part of a ClientResponse that clients read."""

    def __init__(self, raw: bytes, protocol: BaseProtocol) -> None:
        self.status = STATUSES[raw[0] - 48] if raw[:1].isdigit() else 200
        self.headers: dict[str, str] = {}
        self.connection = None
        self.content_length = None
        self.content = aiohttp.StreamReader(protocol, 1 << 16, loop=protocol._loop)
        for piece in raw[1:].split(b"\1"):
            self.content.feed_data(piece)
        self.content.feed_eof()

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


class Answers:
    """The server's answers to one request after the other; after them, it is unreachable."""

    def __init__(self, raw: bytes, protocol: BaseProtocol) -> None:
        self._rest = raw.split(b"\0")[::-1]
        self._protocol = protocol

    async def next(self, *_: object) -> Any:  # noqa: ANN401  (an Answer, in place of aiohttp's)
        """Return the next answer, in place of a client's _request()."""
        if not self._rest:
            raise aiohttp.ClientConnectionError("it is gone")
        return Answer(self._rest.pop(), self._protocol)


@contextmanager
def checking(follow: Callable[[Answers, View], Coroutine[Any, Any, None]], conf: NetConf) -> Iterator[Check]:
    """Check that `follow` reads any answers into a View of the network `conf`, and raises only StoreError."""
    least = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with closing(Loop()) as loop, structlog.testing.capture_logs() as logged:
        protocol = BaseProtocol(loop)

        def check(raw: bytes) -> None:
            found = View(ENTRIES)
            try:
                loop.run(follow(Answers(raw, protocol), found))
            except StoreError as exc:
                check_told(str(exc))
                assert len(str(exc)) <= MAX_ERROR
            leases = [lease for lease in claimed_leases(found) if conf.contains(lease.subnet)]
            assert len(leases) == len(claimed_leases(found)) <= 2 * ENTRIES
            assert len(found.quarantined) <= ENTRIES
            for name, reason in found.quarantined.items():
                assert re.fullmatch(r".{0,253}", name)
                assert not name or name.isprintable()
                check_told(reason)
            assert len(logged) <= log_quota.LINES + 2
            logged.clear()
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < least + GROWTH_KIB

        yield check
