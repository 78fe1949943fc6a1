"""Ring of copied frames: one thread writes, others read, and no thread waits.

Theory of operation. Records (wire/record.py) follow each other; at the end of the memory the next one starts
from the front, and the oldest give way. `head` is where the next record goes and `tail` where the oldest starts, both
counted in bytes since the beginning. The writer, which has no GIL, moves `tail` on before it overwrites anything and
`head` after a record is whole. Each reader has a cursor: it copies the bytes between cursor and head, and then
discards those that `tail` has passed meanwhile, which may be torn. So a slow reader loses the oldest records, sees from
their numbers how many, and never delays the writer.

Several rings are merged by time. A record gets its time before readers see it. Frames that go to the kernel get the
time from before the call (hold()), because the reply may be in another ring before the call returns. `since` is not
later than the time of the record being written. A reader calls mark() on each ring with the current time, and then
reads: each record that it misses has that time or a later one.
"""

from __future__ import annotations

from enum import IntFlag

import cython

from vxland.wire.bigendian import Buffer, u32_at
from vxland.wire.record import HDR_LEN as RECORD_LEN
from vxland.wire.record import put_filler, put_header

if not cython.compiled:
    from vxland.forwarding.io.syscalls import copy_between, fence, now_ns


class Mode(IntFlag):
    """Contents of a ring: frames as on the TAP, datagrams as on the underlay, or dropped ones.

    Dropped frames are included in each mode.
    """

    INNER = 1
    OUTER = 2
    DROPPED = 4


ALL_INNER, ALL_OUTER = Mode.INNER.value, Mode.OUTER.value  # pxd types it: the burst loop handles C integers only


class Ring:
    """`length` bytes, a multiple of 8, for records with at most `snaplen` bytes of each frame."""

    def __init__(self, length: int, snaplen: int) -> None:
        self.length = length
        self.snaplen = snaplen
        self.mode = 0
        self.memory = bytearray(length)  # never resized: the pointer must stay valid
        self.base = self.memory
        self.number = 0
        self.head = 0
        self.tail = 0
        self.since = 0
        self._time_ns = 0
        self._is_held = False
        self._at = 0
        self._left = 0
        self._record_len = 0

    def hold(self) -> None:
        """Use the current time for all records until release()."""
        self._stamp()
        self._is_held = True

    def release(self) -> None:
        """Use each record's own time again."""
        self._is_held = False
        fence()
        self.since = 0

    def mark(self, now: int) -> int:
        """Return the time, `now` or earlier, before which all records are in the ring. Any thread may call it."""
        fence()
        since = self.since
        fence()
        return min(now, since) if since else now

    def start(
        self,
        length: int,
        direction: int,
        verdict: int,
        flags: int,
        outer_hi: int,
        outer_lo: int,
        port: int,
        gso_size: int,
    ) -> None:
        """Begin the record of a frame of `length` bytes; add() appends its pieces, finish() shows it to readers.

        wire/record.py describes the other fields.
        """
        if not self._is_held:
            self._stamp()
        kept = min(length, self.snaplen)
        self._record_len = RECORD_LEN + kept + 7 & ~7
        at = self.head % self.length
        if at + self._record_len > self.length:
            self._make_room(self.length - at)
            put_filler(self.base, at, self.length - at)
            fence()
            self.head += self.length - at
            at = 0
        self._make_room(self._record_len)
        put_header(
            self.base,
            at,
            self._record_len,
            direction,
            verdict,
            flags,
            self.number,
            self._time_ns,
            outer_hi,
            outer_lo,
            port,
            gso_size,
            kept,
            length,
        )
        self._at = at + RECORD_LEN
        self._left = kept

    def add(self, buf: Buffer, at: int, length: int) -> None:
        """Append the frame's next bytes, up to the kept length."""
        length = min(length, self._left)
        copy_between(self.base, self._at, buf, at, length)
        self._at += length
        self._left -= length

    def finish(self) -> None:
        """Complete the record."""
        self.number += 1
        fence()
        self.head += self._record_len
        if not self._is_held:
            fence()
            self.since = 0

    def _stamp(self) -> None:
        """Read the clock. `since` is set first: a mark() that does not see it came before this time."""
        self.since = now_ns()
        fence()
        self._time_ns = now_ns()

    def _make_room(self, nbytes: int) -> None:
        while self.head + nbytes - self.tail > self.length:
            self.tail += u32_at(self.base, self.tail % self.length)
        fence()

    def read(self, cursor: int) -> tuple[bytes, int]:
        """Return a copy of the records after a cursor (0: all), and the next cursor. Any thread may call it."""
        head = self.head  # before the tail: what lies between them is then no more than the memory holds
        fence()
        cursor = max(cursor, self.tail)
        fence()
        if cursor >= head:
            return b"", cursor
        start, stop = cursor % self.length, cursor % self.length + head - cursor
        raw = bytes(self.memory[start:stop])
        if stop > self.length:
            raw += bytes(self.memory[: stop - self.length])
        fence()
        return raw[max(self.tail - cursor, 0) :], head
