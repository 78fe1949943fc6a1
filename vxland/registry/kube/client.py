"""A thin client of the Kubernetes API: get, list in pages, watch, and the one patch flannel's ClusterRole allows.

It asks for no more than that role gives: pods get; nodes get, list, watch; nodes/status patch. Whatever goes wrong is
an ApiError that says what was asked for; whether to try again, and when, is the caller's to decide. One thing is tried
again here: a request refused as 401 whose credentials have been replaced since they were read.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from random import SystemRandom
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import aiohttp
from yarl import URL

from vxland.model.text import printable
from vxland.registry.bounded_json import Bounds, parse_object
from vxland.registry.errors import MAX_ENTRIES, OverfullError, StoreError, TooLargeError, cause_of
from vxland.registry.http import (
    check_head,
    make_session,
    read_body,
    read_lines,
    read_refusal,
)
from vxland.registry.kube.credentials import Access
from vxland.registry.reread import ReReadFiles

PAGE: Final = 100
"""Nodes asked for at once: some 2 MB."""

BOUNDS: Final = Bounds(8 << 20, 400_000)
"""Of an answer or a watch's line. etcd holds no object of more than 1.5 MiB; JSON may need some times as much."""

WATCH_S: Final = range(300, 600)
"""The server is to end a watch after so many seconds, at random: nodes spread over its members again, one by one."""

_REQUEST: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_WATCH: Final = aiohttp.ClientTimeout(sock_connect=5, sock_read=75)  # bookmarks come every minute

_HEAD_S: Final = 30  # until the head of an answer is there, a watch's too

_CHOOSE: Final = SystemRandom().choice
_FEWER: Final = 10  # a page that is too large is asked for again with so many times fewer Nodes
_MAX_MARK: Final = 4096  # of a position in the history or in a list, which come back in a URL; real ones have 500
_MAX_MESSAGE: Final = 300  # characters of what a server says of an error
_NODES: Final = "/api/v1/nodes"

Event: TypeAlias = tuple[str, dict[str, Any]]
"""What happened, such as ADDED, and the object that it happened to."""


class ApiError(StoreError):
    """The API did not do what was asked for; `status` is HTTP's, 0 where there was no answer."""

    def __init__(self, text: str, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s


class GoneError(ApiError):
    """The place in the history is lost (410), or what follows it cannot be read: list again."""


class SilentError(ApiError):
    """A watch on which nothing comes: its connection may be dead, or nothing happens."""


class Client:
    """Requests with the Access that `load` gives, loaded again when its files change. Used from one event loop.

    Methods may raise TooLargeError beside ApiError.
    """

    def __init__(self, load: Callable[[], Access]) -> None:
        self._access: ReReadFiles[Access] = ReReadFiles(load)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get_node(self, name: str) -> dict[str, Any]:
        """One Node; ApiError."""
        async with self._asked("get", "nodes", f"{_NODES}/{quote(name, safe='')}") as response:
            return _object(await read_body(response, BOUNDS))

    async def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
        """One Pod; ApiError."""
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
        async with self._asked("get", "pods", path) as response:
            return _object(await read_body(response, BOUNDS))

    async def patch_node_status(self, name: str, patch: Mapping[str, object]) -> dict[str, Any]:
        """Merge `patch` into a Node through its status subresource, which takes annotations too; the Node; ApiError."""
        path = f"{_NODES}/{quote(name, safe='')}/status"
        async with self._asked("patch", "nodes/status", path, body=patch) as response:
            return _object(await read_body(response, BOUNDS))

    async def list_nodes(self) -> AsyncGenerator[tuple[list[object], str]]:
        """All Nodes, page by page, each with the position that a watch goes on from.

        OverfullError where there are more than MAX_ENTRIES Nodes or pages. Where Nodes are large, pages shrink.
        """
        more, limit, count = "", PAGE, 0
        while True:
            query = {"limit": str(limit), **({"continue": more} if more else {})}
            try:
                async with self._asked("list", "nodes", _NODES, query=query) as response:
                    page = _object(await read_body(response, BOUNDS))
            except TooLargeError:
                if limit == 1:
                    raise
                limit = max(1, limit // _FEWER)
                continue
            match page:
                case {"metadata": {"resourceVersion": str(position), **metadata}} if _is_mark(position):
                    items, following = page.get("items"), metadata.get("continue") or ""
                case _:
                    raise ApiError("list nodes: the answer is no list")
            if following and not _is_mark(following):
                raise ApiError("list nodes: the answer does not say where it goes on")
            nodes = items if isinstance(items, list) else []
            count += max(1, len(nodes))
            if count > MAX_ENTRIES:
                raise OverfullError
            yield nodes, position
            if not following:
                return
            more = str(following)

    @asynccontextmanager
    async def watch_nodes(self, position: str) -> AsyncIterator[AsyncGenerator[Event]]:
        """What happens to Nodes after `position`; ApiError, also for what happens while they are read."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": position,
            "timeoutSeconds": str(_CHOOSE(WATCH_S)),
        }
        async with (
            self._asked("watch", "nodes", _NODES, query=query, limits=_WATCH) as response,
            aclosing(_events(response.content)) as events,
        ):
            yield events

    @asynccontextmanager
    async def _asked(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that says 200; StoreError for anything else, and ApiError for what happens while it is read."""
        try:
            for retried in (False, True):
                access = self._access.get()
                async with asyncio.timeout(_HEAD_S):
                    answered = await self._request(access, path, query, body, limits or _REQUEST)
                async with answered as response:
                    check_head(response)
                    if response.status < 300:
                        yield response
                        return
                    if response.status != 401 or retried or not self._renewed(access):
                        raise _refusal(verb, resource, response.status, await _said(response), _retry_after(response))
        except aiohttp.ClientConnectorCertificateError as exc:
            self._access.renew()  # the authority may have been replaced
            raise ApiError(f"{verb} {resource}: {exc.certificate_error}") from exc
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as exc:  # TimeoutError is an OSError
            raise ApiError(f"{verb} {resource}: {cause_of(exc)}") from exc

    async def _request(
        self,
        access: Access,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, object] | None,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = make_session({"Accept": "application/json"})
        headers = dict(access.headers)
        if body is not None:
            headers["Content-Type"] = "application/strategic-merge-patch+json"
        return await self._session.request(
            "GET" if body is None else "PATCH",
            URL(access.url + path, encoded=True).with_query(query),
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
            ssl=access.tls or True,
            server_hostname=access.server_name,
            allow_redirects=False,
            timeout=limits,
        )

    def _renewed(self, refused: Access) -> bool:
        """Read the credentials again; whether they are others than those that were refused."""
        self._access.renew()
        now = self._access.get()
        return now.headers != refused.headers or now.files != refused.files


async def _events(stream: aiohttp.StreamReader) -> AsyncGenerator[Event]:
    """What a watch tells, one by one, until the server ends it: JSON objects, a line each."""
    try:
        async with aclosing(read_lines(stream, BOUNDS)) as lines:
            async for line in lines:
                yield _event(line)
    except aiohttp.SocketTimeoutError as exc:
        raise SilentError("watch nodes: nothing comes") from exc
    except TooLargeError as exc:
        raise GoneError(f"watch nodes: {exc}") from exc


def _event(line: bytes) -> Event:
    try:
        event = _object(line)
    except ApiError as exc:
        raise GoneError(f"watch nodes: {exc}") from exc
    match event:
        case {"type": "ERROR", "object": dict(said)}:
            code = said.get("code")
            raise _refusal("watch", "nodes", code if type(code) is int else 500, said, 0.0)
        case {"type": str(kind), "object": dict(thing)}:
            return kind, thing
    raise GoneError("watch nodes: what comes is no event")


def position_of(thing: Mapping[str, Any]) -> str:
    """The place in the history of an object that a watch told of; empty where it tells none that can be used."""
    match thing:
        case {"metadata": {"resourceVersion": str(position)}} if _is_mark(position):
            return position
    return ""


def _is_mark(text: object) -> bool:
    """Whether it may be a position, or where a list goes on, which are sent back as they are."""
    return isinstance(text, str) and 0 < len(text) <= _MAX_MARK and text.isascii() and text.isprintable()


def _object(text: bytes) -> dict[str, Any]:
    try:
        return parse_object(text, BOUNDS)
    except ValueError as exc:
        raise ApiError(f"the answer is not JSON: {exc}") from exc


async def _said(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The Status object that comes with a refusal; empty where something else speaks."""
    try:
        return _object(await read_refusal(response))
    except (ApiError, TooLargeError):
        return {}


def _refusal(verb: str, resource: str, status: int, said: Mapping[str, Any], retry_after_s: float) -> ApiError:
    told = said.get("message")
    message = printable(told if told and isinstance(told, str) else f"HTTP {status}", _MAX_MESSAGE)
    if status == 410:
        return GoneError(f"{verb} {resource}: {message}", status)
    if status == 403:
        message = f"RBAC gives this user no {verb} of {resource}: {message}"
    elif status == 401:
        message = f"{verb} {resource}: the credentials are not accepted: {message}"
    else:
        message = f"{verb} {resource}: {message}"
    return ApiError(message, status, retry_after_s)


def _retry_after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0.0
