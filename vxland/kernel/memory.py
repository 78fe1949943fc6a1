"""Memory that a start needed and a running node does not.

malloc returns only the end of its heap by itself. And each library stays resident as far as its start touched it, or
the kernel read ahead: two fifths of a node. Both are given back here. Code that runs again comes back from the page
cache, without reading the disk.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NewType

_SMAPS: Final = Path("/proc/self/smaps")
_DONTNEED: Final = 4  # MADV_DONTNEED: the pages are unmapped

Loaded = NewType("Loaded", frozenset[tuple[int, int]])
"""Start and end of each mapping of a library that has been loaded whole."""


def loaded() -> Loaded:
    """Return what release_unused() may unmap. To be called while there is no other thread.

    dlopen() maps a whole library read-only first, and then the parts over it that the loader writes. Between the two, a
    mapping looks as if it had no page that was changed.
    """
    return Loaded(frozenset(_unchanged()))


def release_unused(libraries: Loaded) -> None:
    """Give free pages of the heap back, and unmap pages of libraries. It takes 10 ms, most of them without Python."""
    libc = ctypes.CDLL(None)
    trim = getattr(libc, "malloc_trim", None)  # musl has none, and returns pages at once
    if trim is not None:
        trim(0)
    for start, end in libraries.intersection(_unchanged()):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)


def _unchanged() -> list[tuple[int, int]]:
    try:
        with _SMAPS.open(encoding="utf-8", errors="replace") as lines:
            return list(unchanged_files(lines))
    except OSError:
        return []


def unchanged_files(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each private mapping of a file that is read-only and has no page that was changed.

    A changed page would be lost: addresses that the dynamic loader has written are in mappings that are read-only now.
    """
    place, fits = "", False
    for line in smaps:
        name, *words = line.split()
        if not name.endswith(":"):  # such as 7f00-7f20 r-xp 00000000 fe:00 1234 /usr/lib/libc.so.6
            fits = len(words) >= 5 and words[4].startswith("/") and words[0] in {"r--p", "r-xp"}
            place = name
        elif fits and name == "Anonymous:" and words[0] == "0":
            start, _, end = place.partition("-")
            yield int(start, 16), int(end, 16)
