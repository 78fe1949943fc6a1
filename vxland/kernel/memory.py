"""Memory that malloc keeps: glibc returns only the end of its heap to the kernel by itself."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """Return whole free pages to the kernel. musl has no such call, and returns them anyway."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
