"""Following all Nodes: list, watch from there, go on after each break, and list again where the place is lost.

Three tasks run while a Watch is entered: one reads Nodes into a View, one mends what others do to our own Node, one
looks for claims that cannot all be true. The reader of next() may take its time; what happens meanwhile is joined.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self

import structlog

from vxland.control.kube.annotations import name_of
from vxland.control.kube.client import ApiError, Client, GoneError, SilentError
from vxland.control.kube.own import OwnNode
from vxland.control.kube.peers import Rules, View
from vxland.control.kube.weather import Weather
from vxland.control.oddities import oddities
from vxland.model import Delta, Snapshot

MEND_S: Final = 1.0
"""The least time between two repairs of our annotations: another program may want them otherwise."""

SETTLE_S: Final = 5.0
"""After a change, before the leases are looked through: that takes 0.1 s with thousands."""

_BRIEF_S: Final = 1.0  # a watch that ends sooner, with nothing said, is not asked for again at once
_SAY_AGAIN_S: Final = 60.0  # a peer may change what is wrong with it as fast as it likes
_LOGGED: Final = 20
_KEEPS_PLACE: Final = frozenset({0, 401, 403, 429, 502, 503})  # refusals that say nothing of the position

log = structlog.get_logger()


class Watch:
    """The peers' leases from now on; enter it, then call next() for ever."""

    def __init__(
        self,
        client: Client,
        weather: Weather,
        own: OwnNode,
        rules: Callable[[], Rules],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._client = client
        self._weather = weather
        self._own = own
        self._rules = rules
        self._sleep = sleep
        self._view = View(own.name)
        self._wake = asyncio.Event()
        self._unsettled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._told: dict[str, tuple[str, float]] = {}
        self._position = ""

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong with which Node."""
        return self._view.problems

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(task) for task in (self._follow(), self._keep(), self._tell_oddities())]
        for task in self._tasks:
            task.add_done_callback(lambda _: self._wake.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def next(self) -> Snapshot | Delta:
        """The next event; LeaseLostError."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for task in self._tasks:
                if task.done():
                    task.result()
            self._tell()
            event = self._view.take()
            if event is not None:
                self._unsettled.set()
                return event

    async def _keep(self) -> None:
        while True:
            await self._own.due.wait()
            self._own.due.clear()
            if await self._weather.persist("own node", self._own.mend):
                await self._sleep(MEND_S)

    async def _tell_oddities(self) -> None:
        """Log what is odd about the leases, each oddity once."""
        told: dict[str, str] = {}
        while True:
            await self._unsettled.wait()
            await self._sleep(SETTLE_S)
            self._unsettled.clear()
            found = oddities(self._view.leases)
            news = [reason for what, reason in found.items() if told.get(what) != reason]
            for reason in news[:_LOGGED]:
                log.warning("leases_odd", reason=reason)
            if len(news) > _LOGGED:
                log.warning("leases_odd", more=len(news) - _LOGGED)
            told = found

    async def _follow(self) -> None:
        tries = 0
        while True:
            began, heard = time.monotonic(), False
            try:
                if not self._position:
                    await self._list()
                    began = time.monotonic()
                async with self._client.watch_nodes(self._position) as events:
                    self._weather.clear("nodes")
                    while batch := await events.read():
                        heard = True
                        self._take(batch)
            except SilentError:
                pass
            except GoneError as exc:
                log.info("nodes_listed_again", reason=str(exc))
                self._position, heard = "", False  # what it said did not keep it from ending
            except ApiError as exc:
                if exc.status not in _KEEPS_PLACE:
                    self._position = ""
                tries = 1 if heard else tries + 1
                await self._weather.wait("nodes", exc, tries)
                continue
            lasted = heard or time.monotonic() > began + _BRIEF_S
            tries = 0 if lasted else tries + 1
            if tries:
                await self._weather.rest(tries)

    async def _list(self) -> None:
        names: set[str] = set()
        position = ""
        async with aclosing(self._client.list_nodes()) as pages:
            async for nodes, position in pages:  # noqa: B007  (the last one's counts)
                rules = self._rules()
                for node in nodes:
                    names.add(name_of(node))
                    self._see(node, rules)
        if self._own.name not in names:
            self._own.see(None)
        self._view.complete(names)
        self._position = position
        self._wake.set()

    def _take(self, batch: list[tuple[str, dict[str, Any]]]) -> None:
        rules = self._rules()
        for kind, node in batch:
            if kind in {"ADDED", "MODIFIED"}:
                self._see(node, rules)
            elif kind == "DELETED" and name_of(node) == self._own.name:
                self._own.see(None)
            elif kind == "DELETED":
                self._view.remove(name_of(node))
            match node:
                case {"metadata": {"resourceVersion": str(position)}} if position:
                    self._position = position
        self._wake.set()

    def _see(self, node: Any, rules: Rules) -> None:  # noqa: ANN401  (what JSON gave)
        if name_of(node) == self._own.name:
            self._own.see(node)
        else:
            self._view.put(node, rules)

    def _tell(self) -> None:
        """Log what is new about peers that cannot be read, or run another backend."""
        now, strange = time.monotonic(), 0
        for texts, event in ((self._view.problems, "peer_quarantined"), (self._view.foreign, "peer_foreign")):
            for name, text in texts.items():
                known, told_at = self._told.get(name, ("", -_SAY_AGAIN_S))
                if text != known and now >= told_at + _SAY_AGAIN_S:
                    self._told[name] = text, now
                    strange += 1
                    if strange <= _LOGGED:
                        log.warning(event, node=name, reason=text)
        if strange > _LOGGED:
            log.warning("peers_strange", more=strange - _LOGGED)
