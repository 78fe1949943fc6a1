"""Faults of a hostile store, by name: endless, oversized, malformed and misleading answers."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from tests.hostilestore.wire import CHUNK, ESCAPES, MEGABYTES, STREAM, answer, chunk, line, text

Send: TypeAlias = Callable[[bytes], Awaitable[None]]


class FaultyStore(Protocol):
    """The part of HostileStore that faults use."""

    prefix: str
    elsewhere: str
    entries: dict[bytes, bytes]

    def header(self) -> dict[str, str]:
        """Return the header of every answer."""
        ...

    def reply(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the honest answer."""
        ...

    def event(self, key: bytes, value: bytes) -> dict[str, Any]:
        """Return an event of a watch."""
        ...


Fault: TypeAlias = Callable[[FaultyStore, Send, dict[str, Any]], Awaitable[None]]


async def forever(send: Send, raw: bytes) -> None:
    """Send the same bytes again and again, as fast as they are read."""
    while True:
        await send(raw)


def sends(raw: bytes) -> Fault:
    """Return a fault that is one answer."""

    async def fault(_store: FaultyStore, send: Send, _request: dict[str, Any]) -> None:
        await send(raw)

    return fault


def never_ends(start: bytes, more: bytes) -> Fault:
    """Return a fault that begins like an answer and never ends."""

    async def fault(_store: FaultyStore, send: Send, _request: dict[str, Any]) -> None:
        await send(start)
        await forever(send, more)

    return fault


def _bomb() -> bytes:
    """Return a part of a gzip stream that expands to 64 MiB of zeros, and may be repeated."""
    packer = zlib.compressobj(wbits=31)
    packer.compress(bytes(1 << 20))
    packer.flush(zlib.Z_SYNC_FLUSH)
    return (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)) * 64


async def _gzip(_store: FaultyStore, send: Send, _request: dict[str, Any]) -> None:
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    await send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + start)
    await forever(send, _bomb())


async def _redirect(store: FaultyStore, send: Send, request: dict[str, Any]) -> None:
    await send(answer(b"", "307 Temporary Redirect", f"Location: {store.elsewhere}/v3/{request['path']}"))


async def _more(store: FaultyStore, send: Send, request: dict[str, Any]) -> None:
    """Send pages without end, each of the same entries."""
    reply = store.reply(request["path"], request)
    await send(answer({**reply, "more": True}))


async def _many(store: FaultyStore, send: Send, request: dict[str, Any]) -> None:
    """Send pages without end, each of new entries with control characters in their names."""
    if "key" not in request or "range_end" not in request:
        await send(answer(store.reply(request["path"], request)))
        return
    after = base64.b64decode(request["key"])
    start = int(after[-9:-1], 16) if after.endswith(b"\0") else 0
    names = [f"{store.prefix}/subnets/{ESCAPES}{number:08x}".encode() for number in range(start + 1, start + 1001)]
    kvs = [{"key": text(name), "value": text(b"x" * 50), "mod_revision": "1"} for name in names]
    await send(answer({"header": store.header(), "kvs": kvs, "more": True}))


async def _no_time(store: FaultyStore, send: Send, request: dict[str, Any]) -> None:
    reply = {"ID": "7"} if request["path"] == "lease/grant" else store.reply(request["path"], request)
    await send(answer(reply))


async def _never_yours(store: FaultyStore, send: Send, request: dict[str, Any]) -> None:
    reply = {"header": store.header()} if request["path"] == "kv/txn" else store.reply(request["path"], request)
    await send(answer(reply))


async def _watch_flood(store: FaultyStore, send: Send, _request: dict[str, Any]) -> None:
    """Put every entry again and again, this node's included, and new entries of no meaning among them."""
    await send(STREAM + chunk(line({"result": {"header": store.header(), "created": True}})))
    for number in range(1 << 60):
        stray = f"{store.prefix}/subnets/stray{ESCAPES}{number % 50}".encode()
        put = {**store.entries, stray: f"{number}{ESCAPES}".encode()}
        events = [store.event(key, value)["result"]["events"][0] for key, value in put.items() if b"/subnets/" in key]
        await send(chunk(line({"result": {"header": store.header(), "events": events}}) * 20))


LASTING: Final = (_redirect, _more, _many, _no_time, _never_yours)
"""The faults after which the connection can take another request."""

BIG: Final = b"x" * CHUNK
WATCHED: Final = STREAM + chunk(line({"result": {"created": True, "header": {"revision": "1", "cluster_id": "7"}}}))


def watched(raw: bytes) -> Fault:
    """Return a fault of a watch that opens, sends this line, and stays open."""

    async def fault(_store: FaultyStore, send: Send, _request: dict[str, Any]) -> None:
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
    "values": sends(answer(b'{"kvs":[' + b",".join([b"{}"] * 1_300_000) + b"]}")),
    "nesting": sends(answer(b"[" * 3_000_000)),
    "infinity": sends(answer(b'{"header":{"revision":1e999,"cluster_id":1e999}}')),
    "not a number": sends(answer(b'{"header":{"revision":NaN}}')),
    "a number of many digits": sends(answer(b'{"header":{"revision":"' + b"9" * 5000 + b'"}}')),
    "a long number": sends(answer(b'{"header":{"revision":' + b"9" * 1_000_000 + b"}}")),
    "a negative number": sends(answer(b'{"header":{"revision":"-99999999999999999999999"}}')),
    "wrong types": sends(answer(b'{"header":[],"kvs":{"a":1},"more":7,"ID":{},"TTL":true,"token":9,"responses":"x"}')),
    "invalid UTF-8": sends(answer(b'{"header":"\xff\xfe\xed\xa0\x80"}')),
    "lone surrogates": sends(answer(b'{"error":"\\ud800","message":"\\udfff\\u0000","code":3}', "400 Bad Request")),
    "an error of megabytes": sends(answer({"message": "x" * MEGABYTES, "code": 3}, "400 Bad Request")),
    "an error with escapes": sends(answer({"message": ESCAPES * 2000, "code": 3}, "400 Bad Request")),
    "a status with escapes": sends(f"HTTP/1.1 500 {ESCAPES}\r\nContent-Length: 0\r\n\r\n".encode()),
    "garbage": sends(bytes(range(256)) * 100),
    "a chunk of no size": sends(STREAM + b"zzzz\r\n"),
    "a body cut short": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
    "two lengths": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
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
    "watch: a code of many digits": sends(STREAM + chunk(b'{"type":"ERROR","object":{"code":' + b"9" * 4000 + b"}}\n")),
}
"""By name. Those that begin with `watch` apply to watches, the others to all other requests."""
