"""Bytes of HTTP answers and streams as the stores send them."""

from __future__ import annotations

import base64
import json
from typing import Final

CHUNK: Final = 64 << 10
MEGABYTES: Final = 8 << 20
ESCAPES: Final = "\x1b]0;owned\x07\x1b[2J\r\n\u202e"
"""Control characters that a terminal obeys."""

STREAM: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def text(raw: bytes) -> str:
    """Return bytes as the gateway writes them."""
    return base64.b64encode(raw).decode()


def line(found: object) -> bytes:
    """Return one line of a stream."""
    return json.dumps(found).encode() + b"\n"


def chunk(raw: bytes) -> bytes:
    """Return one chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(raw), raw)


def answer(found: object, status: str = "200 OK", *more: str) -> bytes:
    """Return a whole answer, of JSON or of bytes."""
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(head).encode() + body
