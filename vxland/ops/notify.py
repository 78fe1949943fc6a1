"""Tells systemd how the service is: sd_notify(3), one datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger()


def notify(**state: str | int) -> None:
    """Send fields such as READY=1 and STATUS=text; nothing happens where no service manager asked for them."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in {"/", "@"}:
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    message = "\n".join(f"{key.upper()}={value}" for key, value in state.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(message.encode(), address)
    except OSError as exc:  # the service goes on without a manager that listens
        log.warning("notify_failed", error=exc.strerror)
