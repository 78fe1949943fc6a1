"""The holder of a UDP port of this network namespace, for the error if the port is taken."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from vxland.model.errors import OccupiedError, StartError
from vxland.model.text import printable
from vxland.netlink.client import Netlink

_TABLES = ("udp", "udp6")
_NAME_LEN = 64  # TASK_COMM_LEN is 16; kernel threads have longer ones


async def unopened(netlink: Netlink, port: int, exc: OSError) -> StartError:
    """Return the error for a UDP port that cannot be opened, with the device or the process that holds it."""
    if exc.errno != errno.EADDRINUSE:
        return StartError(f"UDP port {port} cannot be opened: {exc.strerror}", "choose another overlay.port")
    if devices := await netlink.vxlan_devices_on_port(port):
        delete = f"stop what made it (flanneld?), then 'ip link delete {devices[0]}'"
        cause = f"UDP port {port} is held by the kernel vxlan device {', '.join(devices)}"
        return OccupiedError(cause, f"{delete}; or choose another overlay.port")
    cause = f"UDP port {port} is held by {holder_of(port) or 'another process'}"
    return OccupiedError(cause, "stop it, or choose another overlay.port")


def holder_of(port: int, proc: Path = Path("/proc")) -> str | None:
    """Return `NAME (pid N)` of a process with a socket on `port`; None if there is none, or none that we may see."""
    sockets = {f"socket:[{inode}]" for table in _TABLES for inode in _inodes(proc / "self" / "net" / table, port)}
    for process in proc.glob("[0-9]*"):
        try:
            if any(str(entry.readlink()) in sockets for entry in (process / "fd").iterdir()):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{printable(name, _NAME_LEN)} (pid {process.name})"
        except OSError:  # it has ended, or we may not read it
            continue
    return None


def _inodes(table: Path, port: int) -> Iterator[str]:
    """Yield the inodes of the sockets bound to `port`, other than 0 (the kernel's own)."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:  # IPv6 is off
        return
    for line in lines:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[9] != "0":
            yield fields[9]
