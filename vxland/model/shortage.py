"""What the machine lacks where a socket or device cannot be opened: each errno with its true cause."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

from vxland.model.errors import StartError
from vxland.model.lease import Address

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # IPv6 too
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def shortage(exc: OSError, what: str) -> StartError | None:
    """The error for `what` could not be opened, where descriptors or memory are short; None for other causes."""
    match exc.errno:
        case errno.EMFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            cause = f"{what} cannot be opened: this process may have {limit} descriptors open, and has"
            return StartError(cause, "raise that limit (LimitNOFILE=, ulimit -n), or lower underlay.source_ports")
        case errno.ENFILE:
            cause = f"{what} cannot be opened: all programs together have as many files open as fs.file-max allows"
            return StartError(cause, "raise fs.file-max, or look for the program that opens so many")
        case errno.ENOBUFS | errno.ENOMEM:
            return StartError(
                f"{what} cannot be opened: the kernel has no memory for it", "free some, or raise the limit"
            )
        case _:
            return None


def no_source_port(address: Address, needed: int) -> StartError:
    """The error for EADDRINUSE where any port would do: every one of the range is taken."""
    cause = (
        f"no UDP port of {address} is free to send from: net.ipv4.ip_local_port_range is {_read(_PORT_RANGE)}, "
        f"and vxland needs {needed} of it"
    )
    return StartError(cause, "widen that range with sysctl, or lower underlay.source_ports")


def no_low_port(port: int) -> StartError | None:
    """The error for EACCES, where the port is one that only a capability gives."""
    first = _read(_UNPRIVILEGED)
    if port >= (int(first) if first.isdecimal() else 1024):
        return None
    cause = f"UDP port {port} needs CAP_NET_BIND_SERVICE: net.ipv4.ip_unprivileged_port_start is {first}"
    return StartError(cause, f"grant it, set that sysctl to {port} or less, or choose another overlay.port")


def _read(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="ascii").split())
    except OSError:
        return "unknown"
