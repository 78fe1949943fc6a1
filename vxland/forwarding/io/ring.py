"""Memory that keeps copies of frames for whoever looks: one thread writes, others read, and nobody waits.

Theory of operation. Records (wire/record.py) lie one behind the other; at the end of the memory the next one starts
from the front, and the oldest give way. `head` is where the next record goes and `tail` where the oldest starts, both
counted in octets since the beginning. The writer, which has no GIL, moves `tail` on before it overwrites anything and
`head` after a record is whole. A reader has a cursor of its own: it copies what lies between cursor and head, and then
throws away what `tail` has passed meanwhile, for that may be torn. A slow reader so loses the oldest records, sees by
their numbers how many, and never holds up the writer.

Several rings are merged by time. A record has its time before readers see it, and what is handed to the kernel has the
time from before that, hold(), as its reply may be in another ring before the call returns. `since` is no later than the
time of the record under way. A reader calls mark() on each ring with the time of now, and then reads: each record that
it does not get has that time or a later one.
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
    """What a ring is to get: frames as the TAP has them, datagrams as they cross the underlay, or what is dropped.

    What is dropped comes with either of the others too.
    """

    INNER = 1
    OUTER = 2
    DROPPED = 4


ALL_INNER, ALL_OUTER = Mode.INNER.value, Mode.OUTER.value  # pxd types it: the burst loop handles C integers only


class Ring:
    """`length` octets, a multiple of 8, with room for a record of `snaplen` octets of a frame, the most to be kept."""

    def __init__(self, length: int, snaplen: int) -> None:
        self.length = length
        self.snaplen = snaplen
        self.mode = 0
        self.memory = bytearray(length)  # never resized: the pointer must stay good
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
        """Give the records that follow the time of now, until release()."""
        self._stamp()
        self._is_held = True

    def release(self) -> None:
        """Give each record its own time again."""
        self._is_held = False
        fence()
        self.since = 0

    def mark(self, now: int) -> int:
        """Return the time, `now` or earlier, before which every record is in the ring. Any thread."""
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
        """Begin a record of a frame of `length` octets, to be given in pieces by add(); finish() shows it to readers.

        The rest is what wire/record.py says of a header's fields.
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
        """Append the frame's next octets; those beyond what is to be kept are left out."""
        length = min(length, self._left)
        copy_between(self.base, self._at, buf, at, length)
        self._at += length
        self._left -= length

    def finish(self) -> None:
        """The record is whole."""
        self.number += 1
        fence()
        self.head += self._record_len
        if not self._is_held:
            fence()
            self.since = 0

    def _stamp(self) -> None:
        """Take the time. `since` first: a mark() that does not see it was taken before the time is."""
        self.since = now_ns()
        fence()
        self._time_ns = now_ns()

    def _make_room(self, octets: int) -> None:
        while self.head + octets - self.tail > self.length:
            self.tail += u32_at(self.base, self.tail % self.length)
        fence()

    def read(self, cursor: int) -> tuple[bytes, int]:
        """A copy of the records from a cursor on (0: from the oldest), and the cursor for the next call. Any thread."""
        head = self.head  # before the tail: what lies between them is then no more than the memory holds
        fence()
        cursor = max(cursor, self.tail)
        fence()
        if cursor >= head:
            return b"", cursor
        start, stop = cursor % self.length, cursor % self.length + head - cursor
        octets = bytes(self.memory[start:stop])
        if stop > self.length:
            octets += bytes(self.memory[: stop - self.length])
        fence()
        return octets[max(self.tail - cursor, 0) :], head
