"""A store in one event loop, with the requests that vxland makes, and its hostile answers to clients.

It is an etcd gateway, and a Kubernetes API server with Nodes only. Without a fault it answers from `entries` and
`nodes`. With `fault` set to a name of FAULTS, that fault answers each further request of its paths, in raw bytes: no
HTTP library would send most of them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

CONF: Final = {"Network": "10.244.0.0/16", "SubnetMax": "10.244.127.0", "Backend": {"Type": "vxlan"}}
CHUNK: Final = 64 << 10
MEGABYTES: Final = 8 << 20
ESCAPES: Final = "\x1b]0;owned\x07\x1b[2J\r\n\u202e"
"""Text that a terminal would execute."""

Send: TypeAlias = Callable[[bytes], Awaitable[None]]
Fault: TypeAlias = Callable[["HostileStore", Send, dict[str, Any]], Awaitable[None]]


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

    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """Requests since forget(): path, Authorization, body; at most 1,000."""

    hurt: int = 0
    """Number of hostile answers begun."""

    _revisions: dict[bytes, int] = field(default_factory=dict)
    _watchers: set[asyncio.Queue[bytes]] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.entries[f"{self.prefix}/config".encode()] = json.dumps(CONF).encode()

    @property
    def url(self) -> str:
        """The URL of the store."""
        return f"http://127.0.0.1:{self.port}"

    def put(self, name: str, value: bytes) -> None:
        """Write an entry below `subnets`, and notify the watches."""
        key = f"{self.prefix}/subnets/{name}".encode()
        self._put(key, value)

    def switch(self, fault: str) -> None:
        """Switch to this fault, or with "" to honest answers; every connection ends."""
        self.fault, self.hurt = fault, 0
        self.asked.clear()
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def serving_in_thread(self, sock: socket.socket) -> Iterator[asyncio.AbstractEventLoop]:
        """Serve a bound socket from a separate thread; yields its event loop, for call_soon_threadsafe()."""
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
        """Listen in the current event loop, on a free loopback port or on a bound socket."""
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
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # drops unsent bytes
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, send: Send) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
        path = head[0].split()[1].removeprefix("/v3/").removeprefix("/v3beta/")
        if len(self.asked) < 1000:
            self.asked.append((path, headers.get("authorization", ""), body))
        watched = path == "watch" or "watch=true" in path
        fault = FAULTS.get(self.fault)
        if fault is not None and watched and not self.fault.startswith("watch"):
            fault = FAULTS["watch: compacted"]  # so that the client lists everything again
        elif not watched and self.fault.startswith("watch"):
            fault = None
        elif fault is not None:
            self.hurt += 1
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
        """The header of every answer."""
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


STREAM: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def text(raw: bytes) -> str:
    """Return bytes as the gateway encodes them."""
    return base64.b64encode(raw).decode()


def line(found: object) -> bytes:
    """Return one line of a stream."""
    return json.dumps(found).encode() + b"\n"


def chunk(raw: bytes) -> bytes:
    """Return one chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(raw), raw)


def answer(found: object, status: str = "200 OK", *more: str) -> bytes:
    """Return a whole answer with JSON or raw bytes."""
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(head).encode() + body


async def send_forever(send: Send, raw: bytes) -> None:
    """Send the same bytes repeatedly, as fast as the client reads."""
    while True:
        await send(raw)


def answers(raw: bytes) -> Fault:
    """Return a fault that sends one answer."""

    async def fault(_store: HostileStore, send: Send, _asked: dict[str, Any]) -> None:
        await send(raw)

    return fault


def never_ends(start: bytes, more: bytes) -> Fault:
    """Return a fault that begins like an answer and never ends."""

    async def fault(_store: HostileStore, send: Send, _asked: dict[str, Any]) -> None:
        await send(start)
        await send_forever(send, more)

    return fault


def _bomb() -> bytes:
    """Return bytes of a gzip stream that unpack to 64 MiB of zeros, and may be repeated."""
    packer = zlib.compressobj(wbits=31)
    packer.compress(bytes(1 << 20))
    packer.flush(zlib.Z_SYNC_FLUSH)
    return (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)) * 64


async def _gzip(_store: HostileStore, send: Send, _asked: dict[str, Any]) -> None:
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    await send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + start)
    await send_forever(send, _bomb())


async def _redirect(store: HostileStore, send: Send, asked: dict[str, Any]) -> None:
    await send(answer(b"", "307 Temporary Redirect", f"Location: {store.elsewhere}/v3/{asked['path']}"))


async def _more(store: HostileStore, send: Send, asked: dict[str, Any]) -> None:
    """Send pages without end, each with the same entries."""
    reply = store.reply(asked["path"], asked)
    await send(answer({**reply, "more": True}))


async def _many(store: HostileStore, send: Send, asked: dict[str, Any]) -> None:
    """Send pages without end, each with new entries whose names have terminal escapes."""
    if "key" not in asked or "range_end" not in asked:
        await send(answer(store.reply(asked["path"], asked)))
        return
    after = base64.b64decode(asked["key"])
    start = int(after[-9:-1], 16) if after.endswith(b"\0") else 0
    names = [f"{store.prefix}/subnets/{ESCAPES}{number:08x}".encode() for number in range(start + 1, start + 1001)]
    kvs = [{"key": text(name), "value": text(b"x" * 50), "mod_revision": "1"} for name in names]
    await send(answer({"header": store.header(), "kvs": kvs, "more": True}))


async def _no_time(store: HostileStore, send: Send, asked: dict[str, Any]) -> None:
    reply = {"ID": "7"} if asked["path"] == "lease/grant" else store.reply(asked["path"], asked)
    await send(answer(reply))


async def _never_yours(store: HostileStore, send: Send, asked: dict[str, Any]) -> None:
    reply = {"header": store.header()} if asked["path"] == "kv/txn" else store.reply(asked["path"], asked)
    await send(answer(reply))


async def _watch_flood(store: HostileStore, send: Send, _asked: dict[str, Any]) -> None:
    """Write every entry again, the client's own too, as fast as possible, with new invalid ones among them."""
    await send(STREAM + chunk(line({"result": {"header": store.header(), "created": True}})))
    for number in range(1 << 60):
        stray = f"{store.prefix}/subnets/stray{ESCAPES}{number % 50}".encode()
        entries = {**store.entries, stray: f"{number}{ESCAPES}".encode()}
        events = [
            store.event(key, value)["result"]["events"][0] for key, value in entries.items() if b"/subnets/" in key
        ]
        await send(chunk(line({"result": {"header": store.header(), "events": events}}) * 20))


LASTING: Final = (_redirect, _more, _many, _no_time, _never_yours)
"""Faults after which the connection can serve another request."""

BIG: Final = b"x" * CHUNK
ONE_KV: Final = {"key": text(b"/coreos.com/network/subnets/10.244.1.0-24"), "value": text(b"{}")}
WATCHED: Final = STREAM + chunk(line({"result": {"created": True, "header": {"revision": "1", "cluster_id": "7"}}}))


def watched(raw: bytes) -> Fault:
    """Return a fault that opens a watch, sends this line, and keeps it open."""

    async def fault(_store: HostileStore, send: Send, _asked: dict[str, Any]) -> None:
        await send(WATCHED + chunk(raw + b"\n"))
        await asyncio.Event().wait()

    return fault


FAULTS: Final[dict[str, Fault]] = {
    "body without end": never_ends(b'HTTP/1.1 200 OK\r\n\r\n{"kvs":[', BIG),
    "chunks without end": never_ends(STREAM, chunk(BIG)),
    "gzip without end": _gzip,
    "a length beyond all": never_ends(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n", BIG),
    "headers without end": never_ends(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 4000 + b"\r\n"),
    "a header without end": never_ends(b"HTTP/1.1 200 OK\r\nX-A: ", BIG),
    "heads without end": never_ends(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "answers without end": never_ends(b"", answer(b"[]")),
    "values": answers(answer(b'{"kvs":[' + b",".join([b"{}"] * 1_300_000) + b"]}")),
    "nesting": answers(answer(b"[" * 3_000_000)),
    "infinity": answers(answer(b'{"header":{"revision":1e999,"cluster_id":1e999}}')),
    "not a number": answers(answer(b'{"header":{"revision":NaN}}')),
    "a number of many digits": answers(answer(b'{"header":{"revision":"' + b"9" * 5000 + b'"}}')),
    "a long number": answers(answer(b'{"header":{"revision":' + b"9" * 1_000_000 + b"}}")),
    "a negative number": answers(answer(b'{"header":{"revision":"-99999999999999999999999"}}')),
    "wrong types": answers(
        answer(b'{"header":[],"kvs":{"a":1},"more":7,"ID":{},"TTL":true,"token":9,"responses":"x"}')
    ),
    "invalid UTF-8": answers(answer(b'{"header":"\xff\xfe\xed\xa0\x80"}')),
    "lone surrogates": answers(answer(b'{"error":"\\ud800","message":"\\udfff\\u0000","code":3}', "400 Bad Request")),
    "an error of megabytes": answers(answer({"message": "x" * MEGABYTES, "code": 3}, "400 Bad Request")),
    "an error with escapes": answers(answer({"message": ESCAPES * 2000, "code": 3}, "400 Bad Request")),
    "a status with escapes": answers(f"HTTP/1.1 500 {ESCAPES}\r\nContent-Length: 0\r\n\r\n".encode()),
    "garbage": answers(bytes(range(256)) * 100),
    "a chunk of no size": answers(STREAM + b"zzzz\r\n"),
    "a body cut short": answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
    "two lengths": answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
    "redirects": _redirect,
    "pages without end": _more,
    "entries without end": _many,
    "leases without time": _no_time,
    "transactions never": _never_yours,
    "watch: a line without end": never_ends(WATCHED, chunk(BIG)),
    "watch: blank lines without end": never_ends(WATCHED, chunk(b"\n" * CHUNK)),
    "watch: answers of nothing": never_ends(WATCHED, chunk(b'{"result":{}}\n' * 4000)),
    "watch: gzip": _gzip,
    "watch: infinity": watched(b'{"result":{"header":{"revision":1e999},"events":[{"kv":{"mod_revision":1e999}}]}}'),
    "watch: no key": watched(b'{"result":{"events":[{"kv":{}}]}}'),
    "watch: an error of megabytes": watched(line({"error": {"message": ESCAPES * 300_000, "grpc_code": 3}})[:-1]),
    "watch: canceled": watched(line({"result": {"canceled": True, "cancel_reason": ESCAPES * 10_000}})[:-1]),
    "watch: compacted": watched(line({"result": {"canceled": True, "compact_revision": "9" * 19}})[:-1]),
    "watch: a flood of changes": _watch_flood,
    "watch: redirects": _redirect,
    "watch: the first line without end": never_ends(STREAM, chunk(BIG)),
    "watch: the first byte never": never_ends(STREAM, chunk(b"\n" * CHUNK)),
    "watch: events of nothing": never_ends(
        STREAM, chunk(line({"type": "ADDED", "object": {"metadata": {"name": 7, "x": "x" * 9000}}}) * 9)
    ),
    "watch: positions": never_ends(
        STREAM, chunk(line({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": ESCAPES * 9999}}}))
    ),
    "watch: a code of many digits": answers(
        STREAM + chunk(b'{"type":"ERROR","object":{"code":' + b"9" * 4000 + b"}}\n")
    ),
}
"""Faults by name; those that begin with `watch` apply to watches, the others to all other requests."""
