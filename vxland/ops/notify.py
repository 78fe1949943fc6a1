"""Notifications to the service manager: sd_notify(3), datagrams to the socket that NOTIFY_SOCKET names.

Without NOTIFY_SOCKET nothing is sent.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

import structlog

from vxland.model.text import printable

_STATUS_S: Final = 10.0  # between two reports of the status
_PATIENCE_S: Final = 5.0  # for a manager that does not read; then vxland goes on without it
_CLOSING_S: Final = 0.1
_MAX_LEN: Final = 1000

log = structlog.get_logger()


def notify(**state: str | int) -> None:
    """Send fields such as READY=1 and STATUS=text."""
    _send(state)


def wanted() -> bool:
    """Return whether a service manager wants notifications."""
    return os.environ.get("NOTIFY_SOCKET", "")[:1] in {"/", "@"}


def watchdog_s() -> float:
    """Return the seconds after which the manager ends this process without WATCHDOG=1; 0: never."""
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if meant and microseconds.isdecimal() else 0.0


async def report_status(status: Callable[[], str], alive: Callable[[], Awaitable[bool]]) -> None:
    """Send the status every _STATUS_S seconds or more often, and WATCHDOG=1 while `alive` returns True."""
    pause_s = min(_STATUS_S, watchdog_s() / 3 or _STATUS_S)
    while True:
        watchdog = {"watchdog": 1} if await alive() else {}
        notify(status=status(), **watchdog)
        await asyncio.sleep(pause_s)


def store(descriptors: Mapping[str, int]) -> None:
    """Have the manager keep these descriptors, by name, for the next process of the service.

    FDPOLL=0 keeps it from polling them, which would cost a wake-up for each frame; vxland notices lost ones itself.
    """
    for name, fd in descriptors.items():
        _send({"fdstore": 1, "fdname": name, "fdpoll": 0}, fd)


def forget(names: Collection[str]) -> None:
    """Have the manager close the descriptors of these names; return once their ports are free."""
    if not names or not wanted():
        return
    for name in names:
        _send({"fdstoreremove": 1, "fdname": name})
    done, theirs = os.pipe()
    try:
        _send({"barrier": 1}, theirs)
        os.close(theirs)
        if not select.select([done], [], [], _PATIENCE_S)[0]:  # readable once the manager's end is closed too
            log.warning("notify_failed", error="no answer")
    finally:
        os.close(done)
    time.sleep(_CLOSING_S)  # systemd 254 and later close them in a child process


def _send(state: Mapping[str, str | int], fd: int | None = None) -> None:
    if not wanted():
        return
    path = os.environ["NOTIFY_SOCKET"]
    address = "\0" + path[1:] if path[0] == "@" else path
    # A line break in the status, which may quote a store, would start another assignment: sd_notify(3).
    message = "\n".join(f"{key.upper()}={printable(str(value), _MAX_LEN)}" for key, value in state.items()).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_PATIENCE_S)
            rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", fd))]
            sender.sendmsg([message], rights, 0, address)
    except OSError as exc:
        log.warning("notify_failed", error=exc.strerror or str(exc))
