"""A store in one event loop, with as much of etcd and Kubernetes as vxland uses; hostile on request.

It is an etcd gateway, and a Kubernetes API server that knows only Nodes. Without a fault it answers from `entries` and
`nodes`. With `fault` set to a name of FAULTS, the fault answers every request to its paths, in raw bytes: no HTTP
library would send most of them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from tests.hostilestore.faults import FAULTS, LASTING, Send
from tests.hostilestore.wire import STREAM, answer, chunk, line, text

CONF: Final = {"Network": "10.244.0.0/16", "SubnetMax": "10.244.127.0", "Backend": {"Type": "vxlan"}}


@dataclass
class HostileStore:
    """One member at 127.0.0.1:`port`; `prefix` is flannel's. Enter serving() first."""

    prefix: str = "/coreos.com/network"
    entries: dict[bytes, bytes] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    port: int = 0
    revision: int = 1
    elsewhere: str = "http://127.0.0.1:1"
    """The target of redirects."""

    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """The requests since switch(): path, Authorization, body; at most 1,000."""

    faulty: int = 0
    """Answers that the fault has begun."""

    _revisions: dict[bytes, int] = field(default_factory=dict)
    _watchers: set[asyncio.Queue[bytes]] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.entries[f"{self.prefix}/config".encode()] = json.dumps(CONF).encode()

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"http://127.0.0.1:{self.port}"

    def put(self, name: str, value: bytes) -> None:
        """Put an entry below `subnets`, and send it to the watches."""
        key = f"{self.prefix}/subnets/{name}".encode()
        self._put(key, value)

    def switch(self, fault: str) -> None:
        """Use a fault, or none if empty, and close every connection."""
        self.fault, self.faulty = fault, 0
        self.requests.clear()
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def serving_in_thread(self, sock: socket.socket) -> Iterator[asyncio.AbstractEventLoop]:
        """Serve a bound socket in another thread; yields its event loop, for call_soon_threadsafe()."""
        loop, end = asyncio.new_event_loop(), asyncio.Event()

        async def serve() -> None:
            async with self.serving(sock):
                await end.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        try:
            yield loop
        finally:
            loop.call_soon_threadsafe(end.set)
            thread.join()
            loop.close()

    @asynccontextmanager
    async def serving(self, sock: socket.socket | None = None) -> AsyncIterator[HostileStore]:
        """Listen in the running event loop, on a free port of loopback or on a bound socket."""
        where: dict[str, Any] = {"host": "127.0.0.1", "port": self.port} if sock is None else {"sock": sock}
        server = await asyncio.start_server(self._serve, **where)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.switch("")
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

        async def send(raw: bytes) -> None:
            writer.write(raw)
            await writer.drain()

        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._answer(reader, send)
        finally:
            self._tasks.discard(task)
            sock = writer.get_extra_info("socket")
            with suppress(OSError):  # it may be closed
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # drop unsent bytes
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, send: Send) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
        path = head[0].split()[1].removeprefix("/v3/").removeprefix("/v3beta/")
        if len(self.requests) < 1000:
            self.requests.append((path, headers.get("authorization", ""), body))
        watched = path == "watch" or "watch=true" in path
        fault = FAULTS.get(self.fault)
        if fault is not None and watched and not self.fault.startswith("watch"):
            fault = FAULTS["watch: compacted"]  # so that everything is listed again
        elif not watched and self.fault.startswith("watch"):
            fault = None
        elif fault is not None:
            self.faulty += 1
        if fault is not None:
            await fault(self, send, {**body, "path": path})
            if fault not in LASTING:
                raise asyncio.IncompleteReadError(b"", None)
        elif watched and path != "watch":
            await send(STREAM)
            await asyncio.Event().wait()
        elif path == "watch":
            await self._watch(send, int(body["create_request"]["start_revision"]))
        else:
            await send(answer(self.reply(path, body)))

    def header(self) -> dict[str, str]:
        """Return the header of every answer."""
        return {"cluster_id": "7", "revision": str(self.revision)}

    def reply(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the honest answer to a request other than a watch."""
        match path:
            case "kv/range":
                kvs = self._range(body)
                return {"header": self.header(), "kvs": kvs, "count": str(len(kvs))}
            case "lease/grant":
                return {"header": self.header(), "ID": "7", "TTL": str(body["TTL"])}
            case "auth/authenticate":
                return {"header": self.header(), "token": "granted"}
            case "kv/txn":
                for put in (one["request_put"] for one in body["success"] if "request_put" in one):
                    self._put(base64.b64decode(put["key"]), base64.b64decode(put["value"]))
                return {"header": self.header(), "succeeded": True, "responses": []}
        if path.startswith("/api/v1/nodes?"):
            return {"metadata": {"resourceVersion": str(self.revision)}, "items": self.nodes}
        return {"header": self.header()}

    def event(self, key: bytes, value: bytes) -> dict[str, Any]:
        """Return one event of a watch."""
        return {"result": {"header": self.header(), "events": [{"kv": self._kv(key, value)}]}}

    def _put(self, key: bytes, value: bytes) -> None:
        self.revision += 1
        self.entries[key], self._revisions[key] = value, self.revision
        for queue in self._watchers:
            queue.put_nowait(line(self.event(key, value)))

    def _range(self, body: Mapping[str, Any]) -> list[dict[str, str]]:
        first = base64.b64decode(body["key"])
        end = base64.b64decode(body["range_end"]) if "range_end" in body else first + b"\0"
        return [self._kv(key, value) for key, value in sorted(self.entries.items()) if first <= key < end]

    def _kv(self, key: bytes, value: bytes) -> dict[str, str]:
        revision = str(self._revisions.get(key, 1))
        return {"key": text(key), "value": text(value), "create_revision": revision, "mod_revision": revision}

    async def _watch(self, send: Send, start: int) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            await send(STREAM + chunk(line({"result": {"header": self.header(), "created": True}})))
            for key, revision in sorted(self._revisions.items(), key=lambda pair: pair[1]):
                if revision >= start:
                    await send(chunk(line(self.event(key, self.entries[key]))))
            while True:
                await send(chunk(await queue.get()))
        finally:
            self._watchers.discard(queue)
