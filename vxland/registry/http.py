"""HTTP as the stores' clients use it: nothing is followed, and everything that a server sends has a bound.

No redirect is followed, since it would carry passwords and tokens to another host; no cookie is kept; no proxy is
taken from the environment; nothing compressed is asked for, and what comes compressed all the same is refused, since a
few kilobytes of it could unpack to any size. No connection is used twice: on an idle one a server could say anything,
and a new one has the credentials of now. JSON is bounded in bytes and in values: an empty object is 3 bytes of text
and more than 60 in memory.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from typing import Any, Final

import aiohttp

from vxland.registry.bounded_json import Bounds
from vxland.registry.errors import StoreError, TooLargeError
from vxland.registry.time_slice import TimeSlice

MAX_REFUSAL: Final = 64 << 10
"""Bytes of an answer that says no; what is longer says nothing."""

MAX_HEADS: Final = 8
"""Informational answers (1xx) before one that counts; none is asked for."""

RECEIVED: Final = 256 << 10
"""Bytes of an answer that the kernel keeps while we rest; by default it would be 6 MiB."""

_REDIRECTS: Final = range(300, 400)


class _Response(aiohttp.ClientResponse):
    """An answer that begins soon: a server may say `100 Continue` for ever, and aiohttp would read all of it."""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Read the head; ClientPayloadError where MAX_HEADS others come before it."""
        protocol, heads = connection.protocol, 0
        if protocol is None:
            raise aiohttp.ClientConnectionError("the connection is closed")
        read = protocol.read

        async def next_head() -> Any:  # noqa: ANN401  (aiohttp's own)
            nonlocal heads
            heads += 1
            if heads > MAX_HEADS:
                raise aiohttp.ClientPayloadError(f"more than {MAX_HEADS} heads, and no answer")
            return await read()

        protocol.read = next_head  # type: ignore[method-assign]
        return await super().start(connection)


def make_session(headers: dict[str, str] | None = None) -> aiohttp.ClientSession:
    """Return a session whose requests ask for plain bytes. Made in the event loop that uses it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, socket_factory=_socket),
        response_class=_Response,
        headers={"Accept-Encoding": "identity", "User-Agent": "vxland", **(headers or {})},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket with room for RECEIVED bytes: what a server sent before it came to its senses has to be read first."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
    return made


def check_head(response: aiohttp.ClientResponse) -> None:
    """StoreError where an answer is a redirect, or compressed."""
    if response.status in _REDIRECTS:
        raise StoreError(f"HTTP {response.status}: it sends us elsewhere, and no redirect is followed")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in {"", "identity"}:
        raise StoreError(f"it answers in the encoding {encoding!r}, which was not asked for")


async def read_body(response: aiohttp.ClientResponse, bounds: Bounds) -> bytes:
    """The whole body; TooLargeError, also before it is read where the server tells its length."""
    if (response.content_length or 0) > bounds.size:
        raise TooLargeError(f"an answer of {response.content_length} bytes: at most {bounds.size} are read")
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > bounds.size:
            raise TooLargeError(f"an answer of more than {bounds.size} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def read_refusal(response: aiohttp.ClientResponse) -> bytes:
    """The body that comes with a refusal; empty where it is longer than MAX_REFUSAL."""
    try:
        return await read_body(response, Bounds(MAX_REFUSAL, 0))
    except TooLargeError:
        return b""


async def read_lines(stream: aiohttp.StreamReader, bounds: Bounds) -> AsyncGenerator[bytes]:
    """Each line without its end; blank ones and an unfinished last one are left out. TooLargeError for a longer one.

    Between lines other tasks have their turn, however fast they come and whatever the reader does with them.
    """
    pending: list[bytes] = []  # joined once: a line of many chunks must not be copied for each of them
    size, turns = 0, TimeSlice()
    async for chunk in stream.iter_any():
        turns.begin()
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            line = b"".join((*pending, part))
            pending.clear()
            size = 0
            if len(line) > bounds.size:
                raise TooLargeError(f"a line of {len(line)} bytes: at most {bounds.size} are read")
            if line.strip():
                yield line
                await turns.pause()
        if rest:
            pending.append(rest)
            size += len(rest)
            if size > bounds.size:
                raise TooLargeError(f"a line of more than {bounds.size} bytes")
