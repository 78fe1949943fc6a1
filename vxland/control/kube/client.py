"""A thin client of the Kubernetes API: get, list in pages, watch, and the one patch flannel's ClusterRole allows.

It asks for no more than that role gives: pods get; nodes get, list, watch; nodes/status patch. Whatever goes wrong is
an ApiError that says what was asked for; whether to try again, and when, is the caller's to decide. One thing is tried
again here: a request refused as 401 whose credentials have been replaced since they were read.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import structlog
from yarl import URL

from vxland.control.kube.credentials import Access
from vxland.control.trouble import StoreError
from vxland.errors import ConfigError

PAGE: Final = 500
"""Nodes asked for at once: some 5 MB."""

WATCH_S: Final = range(300, 600)
"""The server is to end a watch after so many seconds, at random: nodes spread over its members again, one by one."""

_REQUEST: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_WATCH: Final = aiohttp.ClientTimeout(sock_connect=5, sock_read=75)  # bookmarks come every minute

_CHOOSE: Final = SystemRandom().choice
_LONGEST_LINE: Final = 16 << 20  # etcd holds no object of more than 1.5 MB
_NODES: Final = "/api/v1/nodes"

log = structlog.get_logger()


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
    """Requests with the Access that `load` gives, loaded again when its files change. Used from one event loop."""

    def __init__(self, load: Callable[[], Access]) -> None:
        self._load = load
        self._access = load()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get_node(self, name: str) -> dict[str, Any]:
        """One Node; ApiError."""
        async with self._asked("get", "nodes", f"{_NODES}/{quote(name, safe='')}") as response:
            return _object(await response.read())

    async def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
        """One Pod; ApiError."""
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
        async with self._asked("get", "pods", path) as response:
            return _object(await response.read())

    async def patch_node_status(self, name: str, patch: Mapping[str, object]) -> dict[str, Any]:
        """Merge `patch` into a Node through its status subresource, which takes annotations too; the Node; ApiError."""
        path = f"{_NODES}/{quote(name, safe='')}/status"
        async with self._asked("patch", "nodes/status", path, body=patch) as response:
            return _object(await response.read())

    async def list_nodes(self) -> AsyncGenerator[tuple[list[object], str]]:
        """All Nodes, page by page, each with the position that a watch goes on from; ApiError."""
        more: object = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": str(more)} if more else {})}
            async with self._asked("list", "nodes", _NODES, query=query) as response:
                page = _object(await response.read())
            match page:
                case {"metadata": {"resourceVersion": str(position), **metadata}} if position:
                    items, more = page.get("items"), metadata.get("continue")
                case _:
                    raise ApiError("list nodes: the answer is no list")
            yield items if isinstance(items, list) else [], position
            if not more:
                return

    @asynccontextmanager
    async def watch_nodes(self, position: str) -> AsyncIterator[Events]:
        """What happens to Nodes after `position`; ApiError, also for what happens while they are read."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": position,
            "timeoutSeconds": str(_CHOOSE(WATCH_S)),
        }
        async with self._asked("watch", "nodes", _NODES, query=query, limits=_WATCH) as response:
            yield Events(response.content)

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
        """A response that says 200; ApiError for anything else, and for what happens while it is read."""
        if self._access.stale:
            self._reload()
        try:
            for retried in (False, True):
                access = self._access
                async with self._request(access, path, query, body, limits or _REQUEST) as response:
                    if response.status < 300:
                        yield response
                        return
                    if response.status != 401 or retried or not self._reload():
                        raise _refusal(verb, resource, response.status, await _said(response), _retry_after(response))
        except aiohttp.ClientConnectorCertificateError as exc:
            self._reload()  # the authority may have been replaced
            raise ApiError(f"{verb} {resource}: {exc.certificate_error}") from exc
        except (aiohttp.ClientError, ssl.SSLError, OSError) as exc:  # TimeoutError is an OSError
            raise ApiError(f"{verb} {resource}: {str(exc) or 'no answer in time'}") from exc

    def _request(
        self,
        access: Access,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, object] | None,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Accept": "application/json", "User-Agent": "vxland"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = dict(access.headers)
        if body is not None:
            headers["Content-Type"] = "application/strategic-merge-patch+json"
        return self._session.request(
            "GET" if body is None else "PATCH",
            URL(access.url + path, encoded=True).with_query(query),
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
            ssl=access.tls or True,
            server_hostname=access.server_name,
            allow_redirects=False,
            timeout=limits,
        )

    def _reload(self) -> bool:
        """Read the credentials again; whether they are others now. Half-written ones leave what we have."""
        try:
            access = self._load()
        except ConfigError as exc:
            log.warning("credentials_unreadable", key=exc.key, value=exc.value, remedy=exc.remedy)
            return False
        changed = access.headers != self._access.headers or access.files != self._access.files
        self._access = access
        return changed


class Events:
    """The stream of one watch: JSON objects, a line each. A line may be longer than aiohttp's readline() takes."""

    def __init__(self, stream: aiohttp.StreamReader) -> None:
        self._stream = stream
        self._rest = bytearray()

    async def read(self) -> list[tuple[str, dict[str, Any]]]:
        """The next events, at least one, as (type, object); none: the server has ended the watch."""
        while chunk := await self._chunk():
            self._rest += chunk
            if b"\n" in chunk:
                *lines, rest = bytes(self._rest).split(b"\n")
                self._rest = bytearray(rest)
                return [_event(line) for line in lines]
            if len(self._rest) > _LONGEST_LINE:
                raise GoneError("watch nodes: an event without end")
        return []

    async def _chunk(self) -> bytes:
        try:
            return await self._stream.readany()
        except aiohttp.SocketTimeoutError as exc:
            raise SilentError("watch nodes: nothing comes") from exc


def _event(line: bytes) -> tuple[str, dict[str, Any]]:
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


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ApiError(f"the answer is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ApiError("the answer is no JSON object")
    return found


async def _said(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The Status object that comes with a refusal; empty where something else speaks."""
    try:
        return _object(await response.read())
    except ApiError:
        return {}


def _refusal(verb: str, resource: str, status: int, said: Mapping[str, Any], retry_after_s: float) -> ApiError:
    message = str(said.get("message") or f"HTTP {status}")[:300]
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
