"""Keeps a View up to date with the Nodes: list, then watch from there; list again if the position is lost.

What happens to an API server happens to all nodes of a cluster at once. So lists come from its cache, and not from etcd
behind it, and nodes return to it one after the other (Retrier.turn_s). A list from the cache is never older than what
is known. If the server cannot serve it, the next list comes from etcd.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

import structlog

from vxland.model.log_quota import LogQuota
from vxland.registry.errors import StoreError, guarded
from vxland.registry.kube.annotations import created_of, name_of
from vxland.registry.kube.client import FROM_CACHE, ApiError, Client, GoneError, SilentError, position_of
from vxland.registry.kube.own_node import OwnNode
from vxland.registry.kube.peers import read
from vxland.registry.net_conf import NetConf
from vxland.registry.retry import Retrier
from vxland.registry.time_slice import TimeSlice
from vxland.registry.view import View

_BRIEF_S: Final = 1.0  # a watch that ends sooner, without events, is not opened again at once
_KEEPS_PLACE: Final = frozenset({0, 401, 403, 429, 502, 503})  # HTTP statuses after which the position is still valid

log = structlog.get_logger()


class NodeFollower:
    """Follows all Nodes into `view`, and this node's into `own`, whose name is known."""

    def __init__(self, client: Client, view: View, conf: NetConf, retrier: Retrier, own: OwnNode) -> None:
        self._client = client
        self._view = view
        self._conf = conf
        self._retrier = retrier
        self._own = own
        self._position = ""
        self._since = FROM_CACHE  # for the next list: the newest position; empty: the cache has failed
        self._began = 0.0  # when the watch was requested
        self._heard = False  # whether it had events
        self._quota = LogQuota("nodes_listed_again")

    async def follow(self) -> None:
        """Follow until cancelled. Errors of the API and the network go to `retrier`, and are retried."""
        backoff = self._retrier.backoff()
        while True:
            self._began, self._heard = time.monotonic(), False
            try:
                with guarded():
                    await self._continue()
            except SilentError:
                pass
            except GoneError as exc:
                if self._quota.allows():
                    log.info("nodes_listed_again", reason=str(exc))
                self._position, self._heard = "", False  # its events do not show that it works
            except StoreError as exc:
                if not isinstance(exc, ApiError) or exc.status not in _KEEPS_PLACE:
                    self._position = ""
                if self._heard:
                    backoff.reset()
                self._retrier.note("peers", str(exc))
                await self._retrier.pause(backoff, max(exc.retry_after_s, self._retrier.turn_s(self._view.size)))
                continue
            if self._heard or time.monotonic() > self._began + _BRIEF_S:
                backoff.reset()
                if not self._position:
                    await self._retrier.take_turn(self._view.size)
            else:
                await self._retrier.pause(backoff, self._retrier.turn_s(self._view.size))

    async def _continue(self) -> None:
        """List, if the position in the history is lost, then watch until the server ends the watch."""
        if not self._position:
            await self._list()
            self._began = time.monotonic()
        async with self._client.watch_nodes(self._position) as events:
            self._retrier.note("peers", "")
            async for kind, node in events:
                self._heard = True
                self._take(kind, node)

    async def _list(self) -> None:
        names: set[str] = set()
        position, turns = "", TimeSlice()
        since, self._since = self._since, ""
        try:
            async with aclosing(self._client.list_nodes(since)) as parts:
                async for nodes, position in parts:  # noqa: B007  (the last one's counts)
                    turns.begin()
                    for node in nodes:
                        names.add(name_of(node))
                        self._see(node)
                        await turns.pause()
        except ApiError as exc:
            if exc.status in _KEEPS_PLACE and not names:  # it was not about this list
                self._since = since
            raise
        if self._own.name not in names:
            self._own.see(None)
        self._view.complete(names)
        self._position = self._since = position

    def _take(self, kind: str, node: dict[str, Any]) -> None:
        if kind in {"ADDED", "MODIFIED"}:
            self._see(node)
        elif kind == "DELETED" and name_of(node) == self._own.name:
            self._own.see(None)
        elif kind == "DELETED":
            self._view.remove(name_of(node))
        self._position = self._since = position_of(node) or self._position

    def _see(self, node: Any) -> None:  # noqa: ANN401  (decoded JSON)
        if name_of(node) == self._own.name:
            self._own.see(node)
        else:
            reading = read(node, self._own.names, self._conf)
            self._view.put(name_of(node), replace(reading, created=created_of(node)))
