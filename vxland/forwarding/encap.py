"""TAP -> UDP: read_frame, Encap.encap, Segmenter.fill or Train.add, send_ranges.

Payload stays where the kernel put it: headers are written before it or gathered from scratch.
"""

from __future__ import annotations

from array import array
from errno import EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, ENOBUFS
from typing import Any

import cython

from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.segment import Segmenter
from vxland.datapath.table import Table
from vxland.datapath.train import MAX_DATAGRAMS, Gather, Train
from vxland.datapath.verdict import FORWARD, Counters, Drop
from vxland.forwarding.io.buffers import Arena
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.recorder import Recorder
from vxland.wire.bigendian import Buffer
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import put_header as put_virtio
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN

if not cython.compiled:
    from vxland.datapath.encap import ANSWERED
    from vxland.datapath.segment import SLOT_LEN as SEGMENT_SLOT_LEN
    from vxland.datapath.segment import SLOTS as SEGMENT_SLOTS
    from vxland.forwarding.io.buffers import FRAMES_LEN, HEADROOM, MAX_FRAME_LEN, SLOT_LEN
    from vxland.forwarding.io.ring import ALL_OUTER
    from vxland.forwarding.io.syscalls import read_frame, send_ranges, write_run
    from vxland.wire.virtio import GSO_NONE

COMPILED: bool = cython.compiled
"""Which gear this is."""

BURST = 64  # most frames in a burst
WORK = 64 * BURST  # datagrams after which a burst ends: those of 64 superframes of 64 KiB in segments of 1 KiB
STANDING_US = 5000  # after so long without an empty TAP queue, what is cut into more segments than MANY is dropped
MANY = MAX_DATAGRAMS  # more have only TCP superframes in segments of less than 512 bytes

FORWARDED = FORWARD
INNER_MALFORMED = Drop.INNER_MALFORMED.value
SEND_FAILED = Drop.SEND_FAILED.value
SEND_BUFFER_FULL = Drop.SEND_BUFFER_FULL.value
OVERLOAD = Drop.OVERLOAD.value
TOO_BIG = Drop.TOO_BIG.value
TAP_WRITE_FAILED = Drop.TAP_WRITE_FAILED.value
AGAIN, INTERRUPTED, NO_BUFFERS = EAGAIN, EINTR, ENOBUFS
INVALID, IO_ERROR, TOO_LONG = EINVAL, EIO, EMSGSIZE


class EncapBurst:
    """Moves the frames of one TAP queue.

    `fault` is the errno for which it cannot be read any more, `segment_errno` that for which UDP_SEGMENT is off; 0 for
    neither. `too_big`: the kernel refused a datagram as too big for its path; the reader clears it.
    """

    def __init__(self, tap: int, udp: Udp, encap: Encap) -> None:
        self._tap = tap
        # Handles, see io/syscalls.py: the descriptor in the compiled gear, the socket in the interpreted one.
        self._senders: Any = array("i", [sender.fileno() for sender in udp.senders]) if COMPILED else udp.senders
        self.rules = encap
        self._segmenter = Segmenter(FRAMES_LEN)
        self._train = Train(udp.max_datagrams, encap.dscp)
        self._answer = Gather()
        self._arena = Arena(FRAMES_LEN + SEGMENT_SLOTS * SEGMENT_SLOT_LEN)
        self.counters = Counters()
        self._stands_since = 0  # time since which the queue has not been empty, in microseconds; 0 if it was
        self._is_overloaded = False
        self.fault = 0
        self.segment_errno = 0
        self.too_big = False
        self.last_send_errno = 0
        self.last_write_errno = 0

    def drain(self, table: Table, now_us: int, recorder: Recorder) -> int:
        """Move at most BURST frames or WORK datagrams from the TAP; return the number of frames."""
        return self._drain(self._arena.base, self._train, table, now_us, recorder)

    def _drain(self, buf: Buffer, train: Train, table: Table, now: int, recorder: Recorder) -> int:
        """Read, decide, and send when a train ends."""
        got = 0
        work = 0
        cursor = 0
        self._is_overloaded = self._stands_since != 0 and now - self._stands_since > STANDING_US
        if self._stands_since == 0:
            self._stands_since = now
        while got < BURST and work < WORK:
            if cursor + SLOT_LEN > FRAMES_LEN:
                self._send(buf, train, table, recorder)
            if train.datagrams == 0:
                cursor = 0
            at = cursor + HEADROOM
            nbytes = read_frame(self._tap, buf, at - VIRTIO_LEN, MAX_FRAME_LEN + VIRTIO_LEN)
            if nbytes < 0:
                self._stands_since = 0
                if nbytes not in (-AGAIN, -INTERRUPTED):
                    self.fault = -nbytes
                break
            work += self._take_frame(self.rules, buf, at, nbytes - VIRTIO_LEN, table, now, recorder)
            cursor = at + nbytes
            got += 1
        self._send(buf, train, table, recorder)
        self.counters.reads += got
        return got

    def _take_frame(
        self, encap: Encap, buf: Buffer, at: int, length: int, table: Table, now: int, recorder: Recorder
    ) -> int:
        """Send, answer or drop a frame; how many datagrams it came to, one at least."""
        work = 1
        verdict = encap.encap(buf, at, length, table, now)
        if verdict == FORWARDED and encap.gso_size:
            verdict = self._cut(encap, self._train, self._segmenter, buf, at, length, table, recorder)
            if verdict == FORWARDED:
                work = self._segmenter.segments
        elif verdict == FORWARDED:
            self._append(encap, self._train, buf, at - VXLAN_LEN, length + VXLAN_LEN, table, recorder)
        if verdict > FORWARDED:
            self.counters.drops[verdict] += 1
            recorder.frame(buf, at, length, verdict, encap, table)
        elif recorder.mode and verdict == FORWARDED and encap.gso_size == 0:
            recorder.frame(buf, at, length, verdict, encap, table)
        if encap.answer_len:
            self._write_answer(buf, encap.answer_at, encap.answer_len, self._answer, recorder)
        return work

    def _append(
        self, encap: Encap, train: Train, buf: Buffer, at: int, length: int, table: Table, recorder: Recorder
    ) -> None:
        """Append a datagram to the train; if it does not fit, send the train and begin the next one."""
        if not train.takes(encap.vtep, encap.marks, encap.port, length):
            self._send(buf, train, table, recorder)
            train.begin(encap.vtep, encap.marks, encap.port, length)
        train.add(at, length)

    def _cut(
        self,
        encap: Encap,
        train: Train,
        segmenter: Segmenter,
        buf: Buffer,
        at: int,
        length: int,
        table: Table,
        recorder: Recorder,
    ) -> int:
        """Cut a superframe into trains. The last one is not sent yet: the flow's next superframe may continue it."""
        if not segmenter.open(buf, at, encap.ip, encap.csum_start, encap.gso_size):
            return INNER_MALFORMED
        if self._is_overloaded and segmenter.segments > MANY:
            # One pod with small segments would take all of our time, and all pods share the queue that fills up.
            return OVERLOAD
        self.counters.superframes += 1
        if recorder.mode:  # before its first segments leave: they may be answered before the last one is cut
            recorder.frame(buf, at, length, FORWARDED, encap, table)
        while not segmenter.done():
            fits = train.takes(encap.vtep, encap.marks, encap.port, segmenter.datagram_len())
            if not fits or not segmenter.has_slot(train):
                self._send(buf, train, table, recorder)
                train.begin(encap.vtep, encap.marks, encap.port, segmenter.datagram_len())
            segmenter.fill(buf, train)
        if segmenter.is_wide():
            self._send(buf, train, table, recorder)
        return FORWARDED

    def _write_answer(self, buf: Buffer, at: int, length: int, answer: Gather, recorder: Recorder) -> None:
        put_virtio(buf, at - VIRTIO_LEN, 0, GSO_NONE, 0, 0, 0, 0)
        answer.clear()
        answer.add(at - VIRTIO_LEN, length + VIRTIO_LEN)
        if recorder.mode:
            recorder.hold()
        nbytes = write_run(self._tap, buf, answer)
        if nbytes < 0:
            self.counters.drops[TAP_WRITE_FAILED] += 1
            self.last_write_errno = -nbytes
            recorder.answer(buf, at, length, TAP_WRITE_FAILED)
        else:
            self.counters.answers += 1
            if recorder.mode:
                recorder.answer(buf, at, length, ANSWERED)

    def _send(self, buf: Buffer, train: Train, table: Table, recorder: Recorder) -> None:
        """Send the train, if any. If the kernel refuses UDP_SEGMENT, send single datagrams from now on."""
        if train.datagrams == 0:
            return
        if train.datagrams > 1 and self._is_long(self.rules.limits, table, train.vtep, train.size):
            self._send_each(buf, train, table, recorder)  # the kernel fragments single ones
            train.clear()
            return
        if recorder.mode & ALL_OUTER:
            recorder.hold()
        nbytes = send_ranges(self._senders[train.port], buf, train, 0, train.ranges.count, table)
        if train.datagrams > 1 and nbytes == -TOO_LONG:  # the path is narrower than known
            self.too_big = True
            self._send_each(buf, train, table, recorder)
        elif train.datagrams > 1 and nbytes in (-IO_ERROR, -INVALID):
            # udp(7): the egress device cannot checksum, or the path accepts no train, now or later. But if single
            # datagrams fail too, the train is not the cause: before Linux 5.15 our address may be gone.
            refused = self.counters.drops[SEND_FAILED]
            self._send_each(buf, train, table, recorder)
            if self.counters.drops[SEND_FAILED] == refused:
                self.segment_errno = -nbytes
                train.max_datagrams = 1
        else:
            self._note_sent(buf, train, 0, train.ranges.count, nbytes, train.datagrams, table, recorder)
        train.clear()

    def _is_long(self, limits: Limits, table: Table, vtep: int, nbytes: int) -> bool:
        """Whether a datagram with `nbytes` bytes of payload is too big for the path to a VTEP."""
        if not limits.narrow:
            return False
        return nbytes > limits.most(table.outer_hi[vtep], table.outer_lo[vtep]) + ETH_LEN + VXLAN_LEN

    def _send_each(self, buf: Buffer, train: Train, table: Table, recorder: Recorder) -> None:
        """Send a train's datagrams one by one; each consists of the ranges that add up to its size."""
        first = 0
        while first < train.ranges.count:
            count = 1
            nbytes = train.ranges.length[first]
            while nbytes < train.size and first + count < train.ranges.count:
                nbytes += train.ranges.length[first + count]
                count += 1
            if recorder.mode & ALL_OUTER:
                recorder.hold()
            nbytes = send_ranges(self._senders[train.port], buf, train, first, count, table)
            self._note_sent(buf, train, first, count, nbytes, 1, table, recorder)
            first += count

    def _note_sent(
        self,
        buf: Buffer,
        train: Train,
        first: int,
        count: int,
        nbytes: int,
        datagrams: int,
        table: Table,
        recorder: Recorder,
    ) -> None:
        """Count a send of `datagrams` datagrams in `count` ranges; `nbytes` is the result of the system call."""
        verdict = FORWARDED
        if nbytes >= 0:
            nbytes -= datagrams * VXLAN_LEN
            self.counters.batches += 1
            self.counters.frames += datagrams
            self.counters.bytes += nbytes
            recorder.traffic.sent(train.vtep, datagrams, nbytes)
            if datagrams == 1 and self._is_long(self.rules.limits, table, train.vtep, nbytes + VXLAN_LEN):
                self.counters.fragmented += 1
        elif nbytes in (-AGAIN, -NO_BUFFERS):
            verdict = SEND_BUFFER_FULL
            self.counters.drops[SEND_BUFFER_FULL] += datagrams
        elif nbytes == -TOO_LONG:
            verdict = TOO_BIG
            self.counters.drops[TOO_BIG] += datagrams
            self.too_big = True
        else:
            verdict = SEND_FAILED
            self.counters.drops[SEND_FAILED] += datagrams
            self.last_send_errno = -nbytes
        if verdict != FORWARDED or recorder.mode & ALL_OUTER:
            recorder.datagrams(buf, train, first, count, verdict, table)
