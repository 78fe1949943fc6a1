"""Tells systemd how the service is: sd_notify(3), a datagram to the socket that NOTIFY_SOCKET names.

Nothing happens where no service manager asked for it.
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

_STATUS_S: Final = 10.0  # how old the status may be
_PATIENCE_S: Final = 5.0  # for a manager that does not read; the service goes on without it
_CLOSING_S: Final = 0.1
_MAX_LEN: Final = 1000

log = structlog.get_logger()


def notify(**state: str | int) -> None:
    """Send fields such as READY=1 and STATUS=text."""
    _send(state)


def wanted() -> bool:
    """Whether there is a manager to tell."""
    return os.environ.get("NOTIFY_SOCKET", "")[:1] in {"/", "@"}


def watchdog_s() -> float:
    """How long the manager waits for WATCHDOG=1 before it ends this process; 0: for ever."""
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if meant and microseconds.isdecimal() else 0.0


async def keep_told(status: Callable[[], str], well: Callable[[], Awaitable[bool]]) -> None:
    """Tell the status now and then, and feed the watchdog as long as `well` answers, with True."""
    pause_s = min(_STATUS_S, watchdog_s() / 3 or _STATUS_S)
    while True:
        fed = {"watchdog": 1} if await well() else {}
        notify(status=status(), **fed)
        await asyncio.sleep(pause_s)


def store(descriptors: Mapping[str, int]) -> None:
    """Have the manager keep these, by name, for the process that follows this one.

    It is not to watch them (FDPOLL): that would cost a wake-up for each frame, and we see ourselves what is lost.
    """
    for name, fd in descriptors.items():
        _send({"fdstore": 1, "fdname": name, "fdpoll": 0}, fd)


def forget(names: Collection[str]) -> None:
    """Have the manager close what it keeps by these names; returns once it has, so that ports are free."""
    if not names or not wanted():
        return
    for name in names:
        _send({"fdstoreremove": 1, "fdname": name})
    done, told = os.pipe()
    try:
        _send({"barrier": 1}, told)
        os.close(told)
        if not select.select([done], [], [], _PATIENCE_S)[0]:  # readable: the manager's end is closed too
            log.warning("notify_failed", error="no answer")
    finally:
        os.close(done)
    time.sleep(_CLOSING_S)  # since 254 it lets a child process close them


def _send(state: Mapping[str, str | int], fd: int | None = None) -> None:
    if not wanted():
        return
    path = os.environ["NOTIFY_SOCKET"]
    address = "\0" + path[1:] if path[0] == "@" else path
    # A line break in the status, which may quote a store, would begin an assignment of its own: sd_notify(3).
    message = "\n".join(f"{key.upper()}={printable(str(value), _MAX_LEN)}" for key, value in state.items()).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_PATIENCE_S)
            rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", fd))]
            sender.sendmsg([message], rights, 0, address)
    except OSError as exc:
        log.warning("notify_failed", error=exc.strerror or str(exc))
