"""A small client of the Kubernetes API: get, list in pages, watch, and the one patch that flannel's ClusterRole allows.

It needs no more than that role: nodes get, list, watch; nodes/status patch; pods get, if POD_NAME alone names the node.
Names of pods, if wanted, need pods list as well. Every failure is an ApiError that names the request. The caller
decides whether and when to retry. Only one retry happens here: of a request refused with 401, if the credentials have
been replaced since they were read.
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

from vxland.model.lease import Address
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
from vxland.registry.kube.node_list import NodeListParser
from vxland.registry.reread import ReReadFiles

PAGE: Final = 500
"""Nodes in one answer that the server reads from its store."""

FROM_CACHE: Final = "0"
"""The position of a list from the server's cache, whatever its age."""

BOUNDS: Final = Bounds(8 << 20, 400_000)
"""Limits of an answer or of a watch's line. etcd holds no object above 1.5 MiB; JSON may need several times as much."""

WATCH_S: Final = range(300, 600)
"""Seconds until the server ends a watch, at random, so that nodes spread over the API servers again."""

MAX_PODS: Final = 4
"""Pods with one address that are listed: an ended one may still have it, and pods of the host share their node's."""

_REQUEST: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_LIST: Final = aiohttp.ClientTimeout(sock_connect=5, sock_read=30)
_WATCH: Final = aiohttp.ClientTimeout(sock_connect=5, sock_read=75)  # bookmarks come every minute

_HEAD_S: Final = 30  # until the head of an answer arrives, of a watch too

_CHOOSE: Final = SystemRandom().choice
_MAX_MARK: Final = 4096  # characters of a resourceVersion or continue token, which go into a URL; real ones have 500
_MAX_MESSAGE: Final = 300  # characters of a server's error message
_NODES: Final = "/api/v1/nodes"

Event: TypeAlias = tuple[str, dict[str, Any]]
"""The kind of event, such as ADDED, and the object."""


class ApiError(StoreError):
    """A request failed; `status` is the HTTP status, 0 if there was no answer."""

    def __init__(self, text: str, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s


class GoneError(ApiError):
    """The position in the history is lost (410), or the events after it cannot be read: list again."""


class SilentError(ApiError):
    """A watch without events: the connection may be dead, or nothing has changed."""


class Client:
    """Requests with the Access that `load` returns, loaded again when its files change. Used from one event loop.

    Methods may raise TooLargeError besides ApiError.
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
        """Return one Node; ApiError."""
        async with self._response("get", "nodes", f"{_NODES}/{quote(name, safe='')}") as response:
            return _object(await read_body(response, BOUNDS))

    async def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
        """Return one Pod; ApiError."""
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
        async with self._response("get", "pods", path) as response:
            return _object(await read_body(response, BOUNDS))

    async def pods_at(self, address: Address) -> list[object]:
        """Return the Pods whose first address this is, at most MAX_PODS; ApiError."""
        query = {"fieldSelector": f"status.podIP={address}", "limit": str(MAX_PODS)}
        async with self._response("list", "pods", "/api/v1/pods", query=query) as response:
            items = _object(await read_body(response, BOUNDS)).get("items")
        return items if isinstance(items, list) else []

    async def patch_node_status(self, name: str, patch: Mapping[str, object]) -> dict[str, Any]:
        """Merge `patch` into a Node through its status subresource, annotations too, and return the Node; ApiError."""
        path = f"{_NODES}/{quote(name, safe='')}/status"
        async with self._response("patch", "nodes/status", path, body=patch) as response:
            return _object(await read_body(response, BOUNDS))

    async def list_nodes(self, since: str) -> AsyncGenerator[tuple[list[object], str]]:
        """Yield all Nodes, some at a time, each time with "", at last with the position from which a watch continues.

        They are as of `since` or newer, from the server's cache, which sends all of them in one answer. If `since` is
        empty they come in pages from its store, where a majority of members agrees on them. OverfullError beyond
        MAX_ENTRIES Nodes or pages.
        """
        query = {"limit": str(PAGE)}
        if since:
            query = {"resourceVersion": since}
            if since != FROM_CACHE:
                query["resourceVersionMatch"] = "NotOlderThan"
        count = 0
        while True:
            parser = NodeListParser(BOUNDS)
            async with self._response("list", "nodes", _NODES, query=query, limits=_LIST) as response:
                async for piece in response.content.iter_any():
                    nodes = list(parser.feed(piece))
                    count += len(nodes)
                    if count > MAX_ENTRIES:
                        raise OverfullError
                    yield nodes, ""
                nodes = list(parser.finish())
                around = parser.around
            match around:
                case {"metadata": {"resourceVersion": str(position), **metadata}} if _is_mark(position):
                    following = metadata.get("continue") or ""
                case _:
                    raise ApiError("list nodes: the answer is no list")
            count += max(1, len(nodes))
            if count > MAX_ENTRIES:
                raise OverfullError
            yield nodes, "" if following else position
            if not following:
                return
            if not _is_mark(following):
                raise ApiError("list nodes: the answer does not say where it goes on")
            query = {"limit": str(PAGE), "continue": str(following)}

    @asynccontextmanager
    async def watch_nodes(self, position: str) -> AsyncIterator[AsyncGenerator[Event]]:
        """Yield the events of Nodes after `position`; ApiError, also while they are read."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": position,
            "timeoutSeconds": str(_CHOOSE(WATCH_S)),
        }
        async with (
            self._response("watch", "nodes", _NODES, query=query, limits=_WATCH) as response,
            aclosing(_events(response.content)) as events,
        ):
            yield events

    @asynccontextmanager
    async def _response(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a successful response; StoreError for any other, ApiError for a failure while it is read."""
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
                    if response.status != 401 or retried or not self._has_new_credentials(access):
                        raise _refusal(
                            verb, resource, response.status, await _status_of(response), _retry_after(response)
                        )
        except aiohttp.ClientConnectorCertificateError as exc:
            self._access.read_again()  # the authority may have been replaced
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

    def _has_new_credentials(self, refused: Access) -> bool:
        """Read the credentials again, and return whether they differ from the refused ones."""
        self._access.read_again()
        now = self._access.get()
        return now.headers != refused.headers or now.files != refused.files


async def _events(stream: aiohttp.StreamReader) -> AsyncGenerator[Event]:
    """Yield the events of a watch, JSON objects on a line each, until the server ends it."""
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
        case {"type": "ERROR", "object": dict(details)}:
            code = details.get("code")
            raise _refusal("watch", "nodes", code if type(code) is int else 500, details, 0.0)
        case {"type": str(kind), "object": dict(thing)}:
            return kind, thing
    raise GoneError("watch nodes: what comes is no event")


def position_of(thing: Mapping[str, Any]) -> str:
    """Return the position in the history of an object from a watch; empty if it has no valid one."""
    match thing:
        case {"metadata": {"resourceVersion": str(position)}} if _is_mark(position):
            return position
    return ""


def _is_mark(text: object) -> bool:
    """Return whether it may be a resourceVersion or a continue token, which are sent back unchanged."""
    return isinstance(text, str) and 0 < len(text) <= _MAX_MARK and text.isascii() and text.isprintable()


def _object(text: bytes) -> dict[str, Any]:
    try:
        return parse_object(text, BOUNDS)
    except ValueError as exc:
        raise ApiError(f"the answer is not JSON: {exc}") from exc


async def _status_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the Status object of an error answer; empty if there is none."""
    try:
        return _object(await read_refusal(response))
    except (ApiError, TooLargeError):
        return {}


def _refusal(verb: str, resource: str, status: int, details: Mapping[str, Any], retry_after_s: float) -> ApiError:
    text = details.get("message")
    message = printable(text if text and isinstance(text, str) else f"HTTP {status}", _MAX_MESSAGE)
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
