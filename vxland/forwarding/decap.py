"""UDP -> TAP: recv_datagram, Decap.decap, Coalescer.join or start, write_run.

Payload stays where the kernel wrote it; the arena starts with the virtio header of the open run.

The TAP may refuse superframes: kernels 6.1.103 and 6.6.44 did, and those before 6.2 have none of UDP. A refused one is
written again plainly: a run as its frames, a kernel neighbour's superframe as the segments that it declares. If that
succeeds, superframes of this kind are off for good. UDP_GRO is similar: if the kernel could not report the size of a
train's datagrams (MSG_CTRUNC, recvmsg(2)), the train cannot be split. It is dropped, and UDP_GRO is switched off.
"""

from __future__ import annotations

from errno import EINVAL, EMSGSIZE
from socket import socket
from typing import Any, TypeAlias

import cython

from vxland.datapath.coalesce import Coalescer
from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.segment import Segmenter
from vxland.datapath.table import Table
from vxland.datapath.train import MAX_DATAGRAMS, Gather, Train
from vxland.datapath.verdict import FORWARD, Counters, Drop
from vxland.forwarding.io.buffers import Arena
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.recorder import Recorder
from vxland.wire.bigendian import Buffer
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import put_header as put_virtio
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN

if not cython.compiled:
    from vxland.datapath.decap import OFF
    from vxland.datapath.prefix_map import NONE
    from vxland.datapath.segment import SLOT_LEN as SEGMENT_SLOT_LEN
    from vxland.datapath.segment import SLOTS as SEGMENT_SLOTS
    from vxland.forwarding.io.buffers import FRAMES_LEN, HEADROOM, SLOT_LEN
    from vxland.forwarding.io.syscalls import recv_datagram, write_run
    from vxland.wire.virtio import GSO_NONE, GSO_UDP_L4

COMPILED: bool = cython.compiled
"""Which gear this is."""

BURST = 64  # most received buffers in a burst
WORK = 64 * BURST  # datagrams after which a burst ends: as many as the kernel's GRO puts into so many buffers
MAX_DATAGRAM_LEN = 65_535

Handle: TypeAlias = Any  # of a receiver, see forwarding/io/syscalls.py: its descriptor if compiled, else the socket

FORWARDED = FORWARD
TRUNCATED = Drop.TRUNCATED.value
TAP_WRITE_FAILED = Drop.TAP_WRITE_FAILED.value
INVALID, TOO_LONG = EINVAL, EMSGSIZE
FEW_SEGMENTS = 64  # every kernel takes so many in a superframe of UDP: UDP_MAX_SEGMENTS before Linux 6.9


def _handle(receiver: socket) -> Handle:
    return receiver.fileno() if COMPILED else receiver


class DecapBurst:
    """Moves the datagrams of one receiving socket, and of an optional second one.

    `tcp_errno` and `udp_errno` are the reasons for which superframes of that protocol are off, 0 if they are not;
    `sizes_lost`: UDP_GRO has to be switched off; `gro`: it is on. `refused`: one of them has changed; the reader clears
    it.
    """

    def __init__(self, tap: int, udp: Udp, decap: Decap, coalescer: Coalescer) -> None:
        self._tap = tap
        self._receiver: Handle = _handle(udp.receiver)
        self._public: Handle = self._receiver
        self.rules = decap
        self._coalescer = coalescer
        self._datagram = Datagram()
        self._arena = Arena(FRAMES_LEN + SEGMENT_SLOTS * SEGMENT_SLOT_LEN)
        self._vtep = 0  # of the open run
        self.counters = Counters()
        self.last_write_errno = 0
        self.gro = udp.gro
        self.refused = False
        self.sizes_lost = False
        self.tcp_errno = 0
        self.udp_errno = 0
        # For plain rewrites, while rules and run may be in use.
        self._again = Decap(decap.vni, decap.own_mac, OFF)
        self._plain = Coalescer(tcp=False, udp=False)
        self._segmenter = Segmenter(FRAMES_LEN)
        self._train = Train(MAX_DATAGRAMS)
        self._segment = Gather()

    def serve(self, public: socket | None) -> None:
        """Use this second socket, which the caller keeps open. Do not call it during a burst."""
        self._public = self._receiver if public is None else _handle(public)

    def drain(self, table: Table, recorder: Recorder) -> int:
        """Move at most BURST buffers or WORK datagrams from the socket; return the number of buffers."""
        return self._drain(self._receiver, self._arena.base, self._coalescer, table, recorder)

    def drain_public(self, table: Table, recorder: Recorder) -> int:
        """Do the same for the second socket."""
        return self._drain(self._public, self._arena.base, self._coalescer, table, recorder)

    def _drain(self, receiver: Handle, buf: Buffer, run: Coalescer, table: Table, recorder: Recorder) -> int:
        """Receive, decide, and write when a run ends."""
        got = 0
        work = 0
        cursor = 0
        while got < BURST and work < WORK:
            if cursor + SLOT_LEN > FRAMES_LEN:
                self._write(buf, run, recorder)
            if run.segments == 0:
                cursor = 0
            at = cursor + HEADROOM
            nbytes = recv_datagram(receiver, buf, at, MAX_DATAGRAM_LEN, self._datagram)
            if nbytes < 0:
                break
            if self._datagram.untold and self._datagram.stride == 0 and self.gro:
                self._lose(buf, at, nbytes, recorder)
            else:
                work += self._take_buffer(self.rules, run, buf, at, nbytes, table, recorder)
            cursor = at + nbytes
            got += 1
        self._write(buf, run, recorder)
        self.counters.reads += got
        return got

    def _lose(self, buf: Buffer, at: int, nbytes: int, recorder: Recorder) -> None:
        """Drop a buffer that may be a train whose datagrams cannot be separated."""
        self.counters.drops[TRUNCATED] += 1
        recorder.datagram(buf, at, nbytes, TRUNCATED, self._datagram)
        self.refused = self.sizes_lost = True

    def _take_buffer(
        self, decap: Decap, run: Coalescer, buf: Buffer, at: int, nbytes: int, table: Table, recorder: Recorder
    ) -> int:
        """Decide about each datagram of a received buffer; return their number."""
        work = 0
        end = at + nbytes
        self.counters.fragmented += self._datagram.fragmented
        stride = decap.stride_of(buf, at, nbytes, self._datagram.stride)
        if decap.check_source == OFF:
            decap.find_source(self._datagram, table)
        while True:
            length = min(stride, end - at)
            verdict = decap.decap(buf, at, length, self._datagram, table)
            if recorder.mode:  # before the run is written, which makes its headers those of a superframe
                recorder.datagram(buf, at, length, verdict, self._datagram)
            if verdict != FORWARDED:
                self.counters.drops[verdict] += 1
                if not recorder.mode:
                    recorder.datagram(buf, at, length, verdict, self._datagram)
            elif run.segments == 0 or not run.join(buf, decap):
                self._write(buf, run, recorder)
                run.start(buf, 0, decap)
                self._vtep = decap.vtep
            if run.ended:
                self._write(buf, run, recorder)
            work += 1
            at += stride
            if at >= end:
                return work

    def _write(self, buf: Buffer, run: Coalescer, recorder: Recorder) -> None:
        """Write the open run, if any, to the TAP; plainly if the TAP accepts no superframes of its kind."""
        if run.segments == 0:
            return
        run.finish(buf)
        nbytes = write_run(self._tap, buf, run.ranges) if run.is_taken() else -INVALID
        if run.gso_type != GSO_NONE and nbytes in (-INVALID, -TOO_LONG):
            self._write_plainly(buf, run, -nbytes, self._again, recorder)
        else:
            self._note_written(buf, run.ranges, nbytes, run.segments, run.nbytes, recorder)
        run.clear()

    def _write_plainly(self, buf: Buffer, run: Coalescer, code: int, again: Decap, recorder: Recorder) -> None:
        """Write each segment of a superframe alone. If the kernel accepts them, it refuses superframes of this kind."""
        failed = self.counters.drops[TAP_WRITE_FAILED]
        pieces = run.segments
        inner_stride = run.declared if run.gso_type == GSO_UDP_L4 and run.segments == 1 else 0
        run.take_apart(buf)
        for number in range(run.segments):
            at, length = run.frame_at(number), run.frame_len(number)
            again.look_again(buf, at, length, run.declared == 0, inner_stride, run.declared)
            if again.gso_type != GSO_NONE:
                pieces += (again.ip.end - again.payload_at) // again.gso_size
                self._cut(buf, again, self._segmenter, self._train, recorder)
                continue
            self._plain.start(buf, 0, again)
            nbytes = write_run(self._tap, buf, self._plain.ranges)
            self._note_written(buf, self._plain.ranges, nbytes, 1, again.frame_len, recorder)
        few = pieces <= FEW_SEGMENTS or run.gso_type != GSO_UDP_L4
        if run.is_taken() and few and self.counters.drops[TAP_WRITE_FAILED] == failed:
            run.refuse()
            self.refused = True
            if run.gso_type == GSO_UDP_L4:
                self.udp_errno = code
            else:
                self.tcp_errno = code

    def _cut(self, buf: Buffer, again: Decap, segmenter: Segmenter, train: Train, recorder: Recorder) -> None:
        """Write a superframe as the segments that it declares; it counts as one frame."""
        nbytes = -INVALID
        few = again.ip.end - again.payload_at <= again.gso_size * MAX_DATAGRAMS
        if few and segmenter.open(buf, again.frame_at, again.ip, again.ip.l4_at - again.frame_at, again.gso_size):
            put_virtio(buf, 0, 0, GSO_NONE, 0, 0, 0, 0)
            nbytes = 0
            while nbytes >= 0 and not segmenter.done():
                train.begin(0, 0, 0, segmenter.datagram_len())
                segmenter.fill(buf, train)
                nbytes = self._write_train(buf, train)
        self._plain.start(buf, 0, again)
        self._note_written(buf, self._plain.ranges, nbytes, 1, again.frame_len, recorder)

    def _write_train(self, buf: Buffer, train: Train) -> int:
        """Write a train's segments. Each is two ranges: headers, after those of VXLAN, and payload."""
        nbytes = 0
        first = 0
        while nbytes >= 0 and first < train.ranges.count:
            self._segment.clear()
            self._segment.add(0, VIRTIO_LEN)
            self._segment.add(train.ranges.at[first] + VXLAN_LEN, train.ranges.length[first] - VXLAN_LEN)
            self._segment.add(train.ranges.at[first + 1], train.ranges.length[first + 1])
            nbytes = write_run(self._tap, buf, self._segment)
            first += 2
        return nbytes

    def _note_written(
        self, buf: Buffer, ranges: Gather, written: int, frames: int, nbytes: int, recorder: Recorder
    ) -> None:
        """Count a write of `frames` frames of `nbytes` bytes in all; `written` is the result of the system call."""
        if written < 0:
            self.counters.drops[TAP_WRITE_FAILED] += frames
            self.last_write_errno = -written
            recorder.refused(buf, ranges, TAP_WRITE_FAILED)
            return
        self.counters.batches += 1
        self.counters.superframes += frames > 1
        self.counters.frames += frames
        self.counters.bytes += nbytes
        if self._vtep != NONE:
            recorder.traffic.took(self._vtep, frames, nbytes)
