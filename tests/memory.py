"""Search for bytes in this process's memory: tests show with it that no payload was copied."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

CHUNK = 1 << 20
TAG = os.urandom(8)
"""First bytes of everything searched for: memory is scanned once for them, however many needles there are."""


class Memory:
    """The private writable memory of this process: heaps, stacks, data segments.

    Its mappings are recorded in advance. A search first goes through these and the growth of the heap, before it makes
    malloc overwrite what it looks for; then through new mappings.
    """

    def __init__(self) -> None:
        self._handle = os.open("/proc/self/mem", os.O_RDONLY)
        self._window = mmap.mmap(-1, CHUNK)  # shared, so it is never searched itself
        self._heap_end = ctypes.CDLL(None).sbrk
        self._heap_end.restype = ctypes.c_size_t
        end_now = self._heap_end(0)
        noted = _mappings()
        self._heap = [start for start, end in noted if start < end_now <= end]
        self._noted = [(start, end) for start, end in noted if not start < end_now <= end]

    def close(self) -> None:
        """Close the memory file."""
        os.close(self._handle)
        self._window.close()

    def places(self, needles: list[bytes]) -> list[set[int]]:
        """Return the addresses of each of some byte strings, without those of the needles themselves.

        Every needle begins with TAG. The rest is compared in place: a copy would be found later in the search.
        """
        assert all(needle.startswith(TAG) for needle in needles)
        found: list[set[int]] = [set() for _ in needles]
        for start in self._heap:
            self._search(needles, start, self._heap_end(0), found)
        for start, end in self._noted:
            self._search(needles, start, end, found)
        for start, end in _mappings():
            self._search(needles, start, end, found)
        return [places - {address_of(needle)} for places, needle in zip(found, needles, strict=True)]

    def _search(self, needles: list[bytes], start: int, end: int, found: list[set[int]]) -> None:
        overlap = max(map(len, needles)) - 1
        while start + overlap < end:
            try:
                length = os.preadv(self._handle, [memoryview(self._window)[: end - start]], start)
            except OSError:  # a guard page: glibc 2.43 has one below each thread's stack, in the stack's own mapping
                start += mmap.PAGESIZE - start % mmap.PAGESIZE
                continue
            at = self._window.find(TAG, 0, length)
            while at >= 0:
                for needle, places in zip(needles, found, strict=True):
                    if self._window.find(needle, at, min(at + len(needle), length)) >= 0:
                        places.add(start + at)
                at = self._window.find(TAG, at + 1, length)
            start += max(length - overlap, 1)


def address_of(content: bytes) -> int:
    """Return the address of a bytes object's contents."""
    return ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value or 0


def bytes_at(address: int, length: int) -> bytes:
    """Return a copy of `length` bytes at an address of this process."""
    return ctypes.string_at(address, length)


def _mappings() -> list[tuple[int, int]]:
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        ends, mode = line.split()[:2]
        if mode == "rw-p":
            start, _, end = ends.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found
