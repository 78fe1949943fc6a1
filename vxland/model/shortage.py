"""Errors for a file or socket that cannot be opened because descriptors or memory are short."""

from __future__ import annotations

import errno
import resource

from vxland.model.errors import StartError


def shortage(exc: OSError, what: str) -> StartError | None:
    """Return the error if `what` could not be opened for want of descriptors or memory; None for other causes."""
    match exc.errno:
        case errno.EMFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            cause = f"{what} cannot be opened: this process already has its maximum of {limit} descriptors open"
            return StartError(cause, "raise that limit (LimitNOFILE=, ulimit -n), or lower underlay.source_ports")
        case errno.ENFILE:
            cause = f"{what} cannot be opened: all programs together have as many files open as fs.file-max allows"
            return StartError(cause, "raise fs.file-max, or look for the program that opens so many")
        case errno.ENOBUFS | errno.ENOMEM:
            cause = f"{what} cannot be opened: the kernel has no memory for it"
            return StartError(cause, "free some, or raise the limit")
        case _:
            return None
