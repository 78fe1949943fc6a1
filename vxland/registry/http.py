"""HTTP for the stores' clients, with a bound on everything that a server sends.

Redirects are refused, because they would send passwords and tokens to another host. Cookies are dropped, and no proxy
is taken from the environment. Compressed answers are refused, because a few kilobytes could expand to any size. Every
request uses a new connection: a server can send anything on an idle one, and a new one has the current credentials.
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
"""Bytes of an error answer; a longer one counts as empty."""

MAX_HEADS: Final = 8
"""Heads of one answer, informational ones (1xx) included; a correct server sends one."""

RECEIVED: Final = 64 << 10
"""Bytes of the socket's receive buffer, which fills while we rest; the default is 6 MiB.

aiohttp parses all of it at once, and keeps 4 KiB for each further answer in it, however short that is.
"""

_REDIRECTS: Final = range(300, 400)


class _Response(aiohttp.ClientResponse):
    """A response with a limit of heads: a server can send `100 Continue` forever, and aiohttp would read them all."""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Read the head; ClientPayloadError if there are more than MAX_HEADS."""
        protocol, heads = connection.protocol, 0
        if protocol is None:
            raise aiohttp.ClientConnectionError("the connection is closed")
        read = protocol.read

        async def next_head() -> Any:  # noqa: ANN401  (aiohttp's type)
            nonlocal heads
            heads += 1
            if heads > MAX_HEADS:
                raise aiohttp.ClientPayloadError(f"more than {MAX_HEADS} heads, and no answer")
            return await read()

        protocol.read = next_head  # type: ignore[method-assign]  # of this connection alone
        return await super().start(connection)


def make_session(headers: dict[str, str] | None = None) -> aiohttp.ClientSession:
    """Return a session that requests uncompressed answers. Call it in the event loop that uses it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, socket_factory=_socket),
        response_class=_Response,
        headers={"Accept-Encoding": "identity", "User-Agent": "vxland", **(headers or {})},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket with a small receive buffer: a flood that has ended still has to be read."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
    return made


def check_head(response: aiohttp.ClientResponse) -> None:
    """Raise StoreError if an answer is a redirect, or compressed."""
    if response.status in _REDIRECTS:
        raise StoreError(f"HTTP {response.status}: it sends us elsewhere, and no redirect is followed")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in {"", "identity"}:
        raise StoreError(f"it answers in the encoding {encoding!r}, which was not asked for")


async def read_body(response: aiohttp.ClientResponse, bounds: Bounds) -> bytes:
    """Return the whole body; TooLargeError, before reading it if the server sends its length."""
    if (response.content_length or 0) > bounds.size:
        raise TooLargeError(f"an answer of {response.content_length} bytes: at most {bounds.size} are read")
    body = bytearray()  # a list of pieces, which may be one byte each, would take many times their size
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > bounds.size:
            raise TooLargeError(f"an answer of more than {bounds.size} bytes")
    return bytes(body)


async def read_refusal(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an error answer; empty if it is longer than MAX_REFUSAL."""
    try:
        return await read_body(response, Bounds(MAX_REFUSAL, 0))
    except TooLargeError:
        return b""


async def read_lines(stream: aiohttp.StreamReader, bounds: Bounds) -> AsyncGenerator[bytes]:
    """Yield each line without its end, except blank ones and an incomplete last one. TooLargeError for a longer line.

    Other tasks run between lines and between chunks, however fast they come and whatever the reader does with a line.
    """
    pending = bytearray()  # grows in place: a line of many chunks must not be copied for each chunk
    turns = TimeSlice()
    async for chunk in stream.iter_any():
        turns.begin()
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            if not part and not pending:  # a server may send nothing but these
                continue
            line = bytes(pending) + part
            pending.clear()
            if len(line) > bounds.size:
                raise TooLargeError(f"a line of {len(line)} bytes: at most {bounds.size} are read")
            if line.strip():
                yield line
                await turns.pause()
        if rest:
            pending += rest
            if len(pending) > bounds.size:
                raise TooLargeError(f"a line of more than {bounds.size} bytes")
        await turns.pause()
