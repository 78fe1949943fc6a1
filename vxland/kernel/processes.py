"""Other programs of this node, as far as /proc and their ports show them."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_OWN_NETNS: Final = Path("/proc/thread-self/ns/net")
_TIMEOUT_S: Final = 1.0
_BODY: Final = 64  # bytes of a response that are read


def named(prefix: str) -> Iterator[int]:
    """Yield the ids of the running processes of this network namespace whose names have this prefix.

    A process whose namespace we may not read counts. Processes of another pid namespace are invisible.
    """
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if not (entry / "comm").read_text(encoding="utf-8", errors="replace").startswith(prefix):
                continue
            if not os.path.samestat((entry / "ns" / "net").stat(), _OWN_NETNS.stat()):
                continue
        except PermissionError:
            pass
        except OSError:  # it has ended; a zombie has no namespace
            continue
        yield int(entry.name)


def health_text(host: str, port: int) -> str:
    """Return the first bytes of the response to GET /healthz of a server on this node; "" if there is none."""
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().read(_BODY).decode(errors="replace")
        finally:
            connection.close()
    return ""
