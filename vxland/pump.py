"""The event loop's two callbacks: each drains a burst, decides about every frame of it, and moves it on.

    TAP -> UDP   read_frame, Encap.encap, Segmenter.fill or Train.add, send_ranges
    UDP -> TAP   recv_datagram, Decap.decap, Coalescer.join or start, write_run

Compiled, a burst runs without the GIL from the first read to the last send and makes no Python object; interpreted,
the same statements run over one bytearray, with trains and runs of one frame. Payload stays where the kernel put it:
headers are written before it or gathered from scratch. A burst ends after BURST reads, so that neither direction
starves the other or the rest of the loop; nothing stays behind when it ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from errno import EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, ENOBUFS
from typing import Any

import cython

from vxland.datapath.coalesce import Coalescer
from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.segment import Segmenter
from vxland.datapath.table import Table
from vxland.datapath.train import Gather, Train
from vxland.datapath.verdict import FORWARD, Counters, Drop
from vxland.kernel.buffers import Arena
from vxland.kernel.udp import Udp
from vxland.wire.octets import Buffer
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import put_header as put_virtio
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN

if not cython.compiled:
    from vxland.datapath.encap import ANSWERED
    from vxland.datapath.segment import SLOT_LEN as SEGMENT_SLOT_LEN
    from vxland.datapath.segment import SLOTS as SEGMENT_SLOTS
    from vxland.kernel.buffers import HEADROOM, MAX_FRAME_LEN, SLOT_LEN
    from vxland.kernel.syscalls import now_us, read_frame, recv_datagram, send_ranges, write_run
    from vxland.wire.virtio import GSO_NONE

COMPILED: bool = cython.compiled
"""Which gear this is."""

BURST = 64  # reads a wake-up at most
FRAMES_LEN = 512 * 1024  # octets for the frames of a train or run, and for the longest while one more is read
MAX_DATAGRAM_LEN = 65_535
MAX_POLL_US = 10_000

FORWARDED = FORWARD
INNER_MALFORMED = Drop.INNER_MALFORMED.value
SEND_FAILED = Drop.SEND_FAILED.value
SEND_BUFFER_FULL = Drop.SEND_BUFFER_FULL.value
TAP_WRITE_FAILED = Drop.TAP_WRITE_FAILED.value
AGAIN, INTERRUPTED, NO_BUFFERS = EAGAIN, EINTR, ENOBUFS
INVALID, IO_ERROR, TOO_LONG = EINVAL, EIO, EMSGSIZE


class Pump:
    """One TAP queue and one set of sockets, joined.

    `on_fault(errno)` is told when the TAP cannot be read any more, `on_refused(errno)` once when UDP_SEGMENT is off.
    """

    def __init__(
        self,
        tap: int,
        udp: Udp,
        encap: Encap,
        decap: Decap,
        coalescer: Coalescer,
        table: Table,
        on_fault: Callable[[int], None],
        busy_poll_us: int = 0,
        on_refused: Callable[[int], None] | None = None,
    ) -> None:
        self._tap = tap
        # Handles, see kernel/syscalls.py: the descriptor in the compiled gear, the socket in the interpreted one.
        self._receiver: Any = udp.receiver.fileno() if COMPILED else udp.receiver
        self._senders: Any = array("i", [sender.fileno() for sender in udp.senders]) if COMPILED else udp.senders
        self._encap = encap
        self._decap = decap
        self._coalescer = coalescer
        self._segmenter = Segmenter(FRAMES_LEN)
        self._on_fault = on_fault
        self._train = Train(udp.max_datagrams)
        self._answer = Gather()
        self._datagram = Datagram()
        self._encap_arena = Arena(FRAMES_LEN + SEGMENT_SLOTS * SEGMENT_SLOT_LEN)
        self._decap_arena = Arena(FRAMES_LEN)
        self.table = table
        self.encap_counters = Counters()
        self.decap_counters = Counters()
        self.last_send_errno = 0
        self.last_write_errno = 0
        self.segment_errno = 0
        self.busy_poll_us = busy_poll_us
        self._fault = 0
        self._on_refused = on_refused

    @property
    def check_source(self) -> bool:
        """Whether an outer source must be a leased VTEP; may be set while frames move."""
        return self._decap.check_source

    @check_source.setter
    def check_source(self, wanted: bool) -> None:
        self._decap.check_source = wanted

    def on_tap_readable(self) -> None:
        """Encapsulate what waits in the TAP, BURST frames at most; then poll for more, if asked to."""
        table = self.table  # a swap during the burst must not free the table under it
        with cython.nogil:
            self._drain_tap(self._encap_arena.base, self._train, table, now_us())
            if self.busy_poll_us:
                self._poll(table)
        if self._fault or self.segment_errno:
            self._report()

    def on_udp_readable(self) -> None:
        """Decapsulate what waits in the socket, BURST buffers at most; then poll for more, if asked to."""
        table = self.table
        with cython.nogil:
            self._drain_udp(self._decap_arena.base, self._coalescer, table)
            if self.busy_poll_us:
                self._poll(table)
        if self._fault or self.segment_errno:
            self._report()

    def _report(self) -> None:
        """Tell of a TAP that is lost, and once of a refused offload."""
        if self._fault:
            self._on_fault(self._fault)
        if self.segment_errno and self._on_refused is not None:
            self._on_refused(self.segment_errno)
            self._on_refused = None

    def _poll(self, table: Table) -> None:
        """Drain both directions until neither has had anything for busy_poll_us, or the loop must have its turn."""
        start_us = last_us = now = now_us()
        while now - last_us < self.busy_poll_us and now - start_us < MAX_POLL_US and not self._fault:
            got = self._drain_tap(self._encap_arena.base, self._train, table, now)
            got += self._drain_udp(self._decap_arena.base, self._coalescer, table)
            now = now_us()
            if got:
                last_us = now

    def _drain_tap(self, buf: Buffer, train: Train, table: Table, now: int) -> int:
        """Read, decide, send when a train ends; how many frames were read."""
        got = 0
        cursor = 0
        while got < BURST:
            if cursor + SLOT_LEN > FRAMES_LEN:
                self._send(buf, train, table)
            if train.datagrams == 0:
                cursor = 0
            at = cursor + HEADROOM
            octets = read_frame(self._tap, buf, at - VIRTIO_LEN, MAX_FRAME_LEN + VIRTIO_LEN)
            if octets < 0:
                if octets not in (-AGAIN, -INTERRUPTED):
                    self._fault = -octets
                break
            self._take_frame(self._encap, buf, at, octets - VIRTIO_LEN, table, now)
            cursor = at + octets
            got += 1
        self._send(buf, train, table)
        return got

    def _take_frame(self, encap: Encap, buf: Buffer, at: int, length: int, table: Table, now: int) -> None:
        verdict = encap.encap(buf, at, length, table, now)
        if verdict == FORWARDED and encap.gso_size:
            self._cut(encap, self._train, self._segmenter, buf, at, table)
        elif verdict == FORWARDED:
            self._board(encap, self._train, buf, at - VXLAN_LEN, length + VXLAN_LEN, table)
        elif verdict != ANSWERED:
            self.encap_counters.drops[verdict] += 1
        if encap.answer_len:
            self._write_answer(buf, encap.answer_at, encap.answer_len, self._answer)

    def _board(self, encap: Encap, train: Train, buf: Buffer, at: int, length: int, table: Table) -> None:
        """Put a datagram on the train; where it cannot ride along, the train leaves and the next one begins."""
        if not train.takes(encap.vtep, encap.ecn, encap.port, length):
            self._send(buf, train, table)
            train.begin(encap.vtep, encap.ecn, encap.port, length)
        train.add(at, length)

    def _cut(self, encap: Encap, train: Train, segmenter: Segmenter, buf: Buffer, at: int, table: Table) -> None:
        """Cut a superframe into trains. The last one waits: the flow's next superframe may go on where it ends."""
        if not segmenter.open(buf, at, encap.ip, encap.csum_start, encap.gso_size):
            self.encap_counters.drops[INNER_MALFORMED] += 1
            return
        while not segmenter.done():
            if not train.takes(encap.vtep, encap.ecn, encap.port, segmenter.datagram_len()):
                self._send(buf, train, table)
                train.begin(encap.vtep, encap.ecn, encap.port, segmenter.datagram_len())
            segmenter.fill(buf, train)

    def _write_answer(self, buf: Buffer, at: int, length: int, answer: Gather) -> None:
        put_virtio(buf, at - VIRTIO_LEN, 0, GSO_NONE, 0, 0, 0, 0)
        answer.clear()
        answer.add(at - VIRTIO_LEN, length + VIRTIO_LEN)
        octets = write_run(self._tap, buf, answer)
        if octets < 0:
            self.encap_counters.drops[TAP_WRITE_FAILED] += 1
            self.last_write_errno = -octets
        else:
            self.encap_counters.answers += 1

    def _send(self, buf: Buffer, train: Train, table: Table) -> None:
        """Send the train, if there is one; one by one from now on where the kernel refuses UDP_SEGMENT."""
        if train.datagrams == 0:
            return
        octets = send_ranges(self._senders[train.port], buf, train, 0, train.ranges.count, table)
        if train.datagrams > 1 and octets == -TOO_LONG:  # this path's MTU is smaller: the kernel fragments single ones
            self._send_each(buf, train, table)
        elif train.datagrams > 1 and octets in (-IO_ERROR, -INVALID):
            # udp(7): the egress device cannot checksum, or the path takes no train; it won't do so the next time either
            self.segment_errno = -octets
            train.max_datagrams = 1
            self._send_each(buf, train, table)
        else:
            self._count_sent(octets, train.datagrams)
        train.clear()

    def _send_each(self, buf: Buffer, train: Train, table: Table) -> None:
        """Send a train's datagrams one by one: each is as many ranges as make up its size."""
        first = 0
        while first < train.ranges.count:
            count = 1
            octets = train.ranges.length[first]
            while octets < train.size and first + count < train.ranges.count:
                octets += train.ranges.length[first + count]
                count += 1
            self._count_sent(send_ranges(self._senders[train.port], buf, train, first, count, table), 1)
            first += count

    def _count_sent(self, octets: int, datagrams: int) -> None:
        if octets >= 0:
            self.encap_counters.frames += datagrams
            self.encap_counters.octets += octets - datagrams * VXLAN_LEN
        elif octets in (-AGAIN, -NO_BUFFERS):
            self.encap_counters.drops[SEND_BUFFER_FULL] += datagrams
        else:
            self.encap_counters.drops[SEND_FAILED] += datagrams
            self.last_send_errno = -octets

    def _drain_udp(self, buf: Buffer, run: Coalescer, table: Table) -> int:
        """Receive, decide, write when a run ends; how many buffers came. The arena starts with the virtio header."""
        got = 0
        cursor = 0
        while got < BURST:
            if cursor + SLOT_LEN > FRAMES_LEN:
                self._write(buf, run)
            if run.segments == 0:
                cursor = 0
            at = cursor + HEADROOM
            octets = recv_datagram(self._receiver, buf, at, MAX_DATAGRAM_LEN, self._datagram)
            if octets < 0:
                break
            self._take_buffer(self._decap, run, buf, at, octets, table)
            cursor = at + octets
            got += 1
        self._write(buf, run)
        return got

    def _take_buffer(self, decap: Decap, run: Coalescer, buf: Buffer, at: int, octets: int, table: Table) -> None:
        """Decide about each datagram of a received buffer."""
        end = at + octets
        stride = decap.stride_of(buf, at, octets, self._datagram.stride)
        while True:
            verdict = decap.decap(buf, at, min(stride, end - at), self._datagram, table)
            if verdict != FORWARDED:
                self.decap_counters.drops[verdict] += 1
            elif run.segments == 0 or not run.join(buf, decap):
                self._write(buf, run)
                run.start(buf, 0, decap)
            if run.ended:
                self._write(buf, run)
            at += stride
            if at >= end:
                return

    def _write(self, buf: Buffer, run: Coalescer) -> None:
        """Write the run to the TAP, if there is one."""
        if run.segments == 0:
            return
        run.finish(buf)
        octets = write_run(self._tap, buf, run.ranges)
        if octets < 0:
            self.decap_counters.drops[TAP_WRITE_FAILED] += run.segments
            self.last_write_errno = -octets
        else:
            self.decap_counters.frames += run.segments
            self.decap_counters.octets += run.octets
        run.clear()
