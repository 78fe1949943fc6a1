"""A Kubernetes API server in the test's event loop: Nodes and Pods, as far as vxland and its tests use them.

It has lists with pages, watches with bookmarks and ERROR events, patches, and RBAC by user. Its texts are those of
kube-apiserver 1.20. Its faults are attributes and methods, and cause events that are rare with a real server.
"""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from tests.patience import PATIENCE_S

Object: TypeAlias = dict[str, Any]

ALL = ("*", "*")
FLANNELS = frozenset(
    {("get", "pods"), ("get", "nodes"), ("list", "nodes"), ("watch", "nodes"), ("patch", "nodes/status")}
)
"""The verbs and resources of flannel's ClusterRole."""


class FakeKube:
    """One server; `start()` and `stop()` may be repeated, and keep the objects."""

    def __init__(self, tls: ssl.SSLContext | None = None, ca: Path | None = None) -> None:
        self.ca = ca
        self.port = 0
        self.users = {"admin-token": "admin", "flannel-token": "flannel", "nobody-token": "nobody"}
        self.roles: dict[str, frozenset[tuple[str, str]]] = {"admin": frozenset({ALL}), "flannel": FLANNELS}
        self.asked: list[tuple[str, str, str]] = []
        """What flannel asked for: verb, resource, query."""

        self.refusals: list[tuple[str, int, dict[str, str]]] = []
        """Answers to flannel's next requests of a verb: verb, HTTP status, headers; each is used once."""

        self.gone_by_status = False
        """Whether a position that is too old is refused with HTTP's 410, instead of an ERROR event."""

        self.delay_s = 0.0
        """What every answer to flannel waits."""

        self.after_list: Callable[[], None] = lambda: None
        """Called when a list is answered: a change that no list shows, and no watch from later on."""

        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._version = 100
        self._oldest = 100
        self._objects: dict[str, dict[str, Object]] = {"nodes": {}, "pods": {}}
        self._history: list[tuple[int, Object]] = []
        self._watchers: dict[asyncio.Queue[Object | None], asyncio.Transport] = {}
        self._opened = 0
        self._joined = asyncio.Event()  # a watch has been opened or ended

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the previous port if there was one."""
        app = web.Application(middlewares=[self._guarded])
        app.router.add_get("/api/v1/nodes", self._list_or_watch)
        for kind, at in (("nodes", "/api/v1/nodes"), ("pods", "/api/v1/namespaces/{namespace}/pods")):
            for method, path, handler in (
                ("POST", at, self._create),
                ("DELETE", at, self._delete),
                ("GET", at + "/{name}", self._get),
                ("DELETE", at + "/{name}", self._delete),
                ("PATCH", at + "/{name}", self._patch),
                ("PATCH", at + "/{name}/status", self._patch),
            ):
                app.router.add_route(method, path, _for(kind, handler))
        self._runner = web.AppRunner(app, shutdown_timeout=0.02, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection and the port."""
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()

    async def restart(self) -> None:
        """Stop, and start again."""
        await self.stop()
        await self.start()

    def cut(self) -> None:
        """Reset the connection of every watch."""
        for transport in self._watchers.values():
            transport.abort()

    def end(self) -> None:
        """End every watch, as after its timeout."""
        for queue in self._watchers:
            queue.put_nowait(None)

    def compact(self) -> None:
        """Compact the history: a watch from before now is refused, and open ones end with that error."""
        self._oldest = self._version
        self._history.clear()
        for queue in self._watchers:
            queue.put_nowait({"type": "ERROR", "object": _too_old()})
            queue.put_nowait(None)

    def bookmark(self) -> None:
        """Send the current position to every watch."""
        event = {"type": "BOOKMARK", "object": {"kind": "Node", "metadata": {"resourceVersion": str(self._version)}}}
        for queue in self._watchers:
            queue.put_nowait(event)

    def say(self, event: Object) -> None:
        """Send any object to every watch."""
        for queue in self._watchers:
            queue.put_nowait(event)

    async def watched(self, times: int = 1) -> None:
        """Return when this many watches have been opened in total."""
        await self._until(lambda: self._opened >= times)

    async def left(self) -> None:
        """Return when no watch is open."""
        await self._until(lambda: not self._watchers)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self._joined.clear()
                await self._joined.wait()

    def pass_time(self, versions: int = 1000) -> None:
        """Advance the history by changes of other objects, which no watch of Nodes reports."""
        self._version += versions

    def lose_place(self) -> None:
        """Compact the history, and drop every list that is half read; open watches get no event."""
        self._version += 1
        self._oldest = self._version
        self._history.clear()

    def delete_unseen(self, name: str) -> None:
        """Delete a Node and compact the history, so that no watch reports it."""
        del self._objects["nodes"][name]
        self.lose_place()

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Check authentication, then RBAC, then apply the due faults."""
        user = self.users.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            return _status(401, "Unauthorized")
        verb, resource = _asked(request)
        allowed = self.roles.get(user, frozenset())
        if ALL not in allowed and (verb, resource) not in allowed:
            scope = "at the cluster scope" if resource.startswith("nodes") else 'in the namespace "kube-flannel"'
            subject = f'{resource.split("/")[0]} "x" is forbidden'
            text = f'{subject}: User "{user}" cannot {verb} resource "{resource}" in API group "" {scope}'
            return _status(403, text)
        if user == "flannel":
            self.asked.append((verb, resource, request.query_string))
            await asyncio.sleep(self.delay_s)
            for refusal in self.refusals:
                if refusal[0] == verb:
                    self.refusals.remove(refusal)
                    return _status(refusal[1], "injected", refusal[2])
        return await handler(request)

    async def _create(self, kind: str, request: web.Request) -> web.StreamResponse:
        made = await request.json()
        name = made["metadata"]["name"]
        if name in self._objects[kind]:
            return _status(409, f'{kind} "{name}" already exists')
        made.setdefault("status", {})
        made["metadata"]["uid"] = str(uuid.uuid4())
        self._put(kind, "ADDED", made)
        return web.json_response(made, status=201)

    async def _get(self, kind: str, request: web.Request) -> web.StreamResponse:
        found = self._objects[kind].get(request.match_info["name"])
        return self._missing(kind, request) if found is None else web.json_response(found)

    async def _delete(self, kind: str, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name")
        if name is not None and name not in self._objects[kind]:
            return self._missing(kind, request)
        for each in [name] if name else list(self._objects[kind]):
            self._put(kind, "DELETED", self._objects[kind].pop(each))
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _patch(self, kind: str, request: web.Request) -> web.StreamResponse:
        old = self._objects[kind].get(request.match_info["name"])
        if old is None:
            return self._missing(kind, request)
        patch, new = await request.json(), copy.deepcopy(old)
        if request.path.endswith("/status"):
            if request.content_type != "application/strategic-merge-patch+json":
                return _status(415, f"the body of the request was in an unknown format: {request.content_type}")
            _merge(new, {key: patch[key] for key in ("metadata", "status") if key in patch})  # the spec stays
        else:
            _merge(new, patch)
        if new != old:
            self._put(kind, "MODIFIED", new)
        return web.json_response(new)

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") == "true":
            return await self._watch(request)
        start, version = "", self._version
        if more := request.query.get("continue"):
            start, _, then = more.rpartition("@")
            version = int(then)
            if version < self._oldest:
                return _status(410, "The provided continue parameter is too old")
        names = sorted(name for name in self._objects["nodes"] if name > start)
        page = names[: int(request.query.get("limit", len(names)))]
        metadata = {"resourceVersion": str(version)}
        if len(page) < len(names):
            metadata["continue"] = f"{page[-1]}@{version}"
        answer = {"kind": "NodeList", "metadata": metadata, "items": [self._objects["nodes"][name] for name in page]}
        response = web.json_response(answer)
        self.after_list()
        return response

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self._oldest and self.gone_by_status:
            return _status(410, _too_old()["message"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[Object | None] = asyncio.Queue()
        if since < self._oldest:
            queue.put_nowait({"type": "ERROR", "object": _too_old()})
            queue.put_nowait(None)
        for version, event in self._history:
            if version > since:
                queue.put_nowait(event)
        assert isinstance(request.transport, asyncio.Transport)
        self._watchers[queue] = request.transport
        self._opened += 1
        self._joined.set()
        try:
            while (found := await queue.get()) is not None:
                await response.write(json.dumps(found).encode() + b"\n")
        except ConnectionError:
            pass  # cut, or given up
        finally:
            del self._watchers[queue]
            self._joined.set()
        return response

    def _put(self, kind: str, verb: str, thing: Object) -> None:
        self._version += 1
        thing = copy.deepcopy(thing)
        thing["metadata"]["resourceVersion"] = str(self._version)
        if verb != "DELETED":
            self._objects[kind][thing["metadata"]["name"]] = thing
        if kind == "nodes":
            event = {"type": verb, "object": thing}
            self._history.append((self._version, event))
            for queue in self._watchers:
                queue.put_nowait(event)

    def _missing(self, kind: str, request: web.Request) -> web.StreamResponse:
        return _status(404, f'{kind} "{request.match_info["name"]}" not found')


def _for(
    kind: str, handler: Callable[[str, web.Request], Awaitable[web.StreamResponse]]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(kind, request)

    return handle


def _asked(request: web.Request) -> tuple[str, str]:
    """Return verb and resource, as RBAC names them."""
    resource = "pods" if "/pods" in request.path else "nodes"
    if request.path.endswith("/status"):
        resource += "/status"
    if request.method == "GET":
        if "name" in request.match_info:
            return "get", resource
        return "watch" if request.query.get("watch") == "true" else "list", resource
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[request.method], resource


def _merge(into: Object, patch: Object) -> None:
    """Apply a strategic merge, as far as Nodes need it: null deletes, conditions are merged by their type."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif key == "conditions":
            merged = {item["type"]: item for item in into.get(key, [])}
            for item in value:
                merged[item["type"]] = {**merged.get(item["type"], {}), **item}
            into[key] = list(merged.values())
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _too_old() -> Object:
    return {
        "kind": "Status",
        "status": "Failure",
        "code": 410,
        "reason": "Expired",
        "message": "too old resource version",
    }


def _status(code: int, message: str, headers: dict[str, str] | None = None) -> web.StreamResponse:
    status = {"kind": "Status", "status": "Failure", "code": code, "message": message}
    return web.json_response(status, status=code, headers=headers)
