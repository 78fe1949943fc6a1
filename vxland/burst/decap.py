"""UDP -> TAP: recv_datagram, Decap.decap, Coalescer.join or start, write_run.

Payload stays where the kernel put it; the arena starts with the virtio header of the run that is open.
"""

from __future__ import annotations

from socket import socket
from typing import Any, TypeAlias

import cython

from vxland.burst.watch import Watch
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.table import Table
from vxland.datapath.verdict import FORWARD, Counters, Drop
from vxland.kernel.buffers import Arena
from vxland.kernel.udp import Udp
from vxland.wire.octets import Buffer
from vxland.wire.vxlan import has_policy

if not cython.compiled:
    from vxland.datapath.decap import OFF
    from vxland.datapath.table import NONE
    from vxland.kernel.buffers import FRAMES_LEN, HEADROOM, SLOT_LEN
    from vxland.kernel.syscalls import recv_datagram, write_run

COMPILED: bool = cython.compiled
"""Which gear this is."""

BURST = 64  # received buffers of a burst at most
WORK = 64 * BURST  # datagrams after which a burst ends: as many as the kernel's GRO puts into so many buffers
MAX_DATAGRAM_LEN = 65_535

Handle: TypeAlias = Any  # of a receiver, see kernel/syscalls.py: its descriptor if compiled, else the socket itself

FORWARDED = FORWARD
TAP_WRITE_FAILED = Drop.TAP_WRITE_FAILED.value


def _handle(receiver: socket) -> Handle:
    return receiver.fileno() if COMPILED else receiver


class DecapBurst:
    """The datagrams of one receiving socket, and of a second one where there is one."""

    def __init__(self, tap: int, udp: Udp, decap: Decap, coalescer: Coalescer, policies: bool = False) -> None:
        self._tap = tap
        self._receiver: Handle = _handle(udp.receiver)
        self._public: Handle = self._receiver
        self.rules = decap
        self._coalescer = coalescer
        self._policies = policies
        self._datagram = Datagram()
        self._arena = Arena(FRAMES_LEN)
        self._vtep = 0  # whose run is open
        self.counters = Counters()
        self.last_write_errno = 0

    def serve(self, public: socket | None) -> None:
        """Take this for the second socket, which the caller keeps open; not while frames move."""
        self._public = self._receiver if public is None else _handle(public)

    def drain(self, table: Table, watch: Watch) -> int:
        """Move what waits in the socket, until it were BURST buffers or WORK datagrams; how many buffers there were."""
        return self._drain(self._receiver, self._arena.base, self._coalescer, table, watch)

    def drain_public(self, table: Table, watch: Watch) -> int:
        """The same for the second socket."""
        return self._drain(self._public, self._arena.base, self._coalescer, table, watch)

    def _drain(self, receiver: Handle, buf: Buffer, run: Coalescer, table: Table, watch: Watch) -> int:
        """Receive, decide, write when a run ends."""
        got = 0
        work = 0
        cursor = 0
        while got < BURST and work < WORK:
            if cursor + SLOT_LEN > FRAMES_LEN:
                self._write(buf, run, watch)
            if run.segments == 0:
                cursor = 0
            at = cursor + HEADROOM
            octets = recv_datagram(receiver, buf, at, MAX_DATAGRAM_LEN, self._datagram)
            if octets < 0:
                break
            work += self._take_buffer(self.rules, run, buf, at, octets, table, watch)
            cursor = at + octets
            got += 1
        self._write(buf, run, watch)
        self.counters.reads += got
        return got

    def _take_buffer(
        self, decap: Decap, run: Coalescer, buf: Buffer, at: int, octets: int, table: Table, watch: Watch
    ) -> int:
        """Decide about each datagram of a received buffer; how many there were."""
        work = 0
        end = at + octets
        self.counters.fragmented += self._datagram.fragmented
        stride = decap.stride_of(buf, at, octets, self._datagram.stride)
        if decap.check_source == OFF:
            decap.find_source(self._datagram, table)
        while True:
            length = min(stride, end - at)
            verdict = decap.decap(buf, at, length, self._datagram, table)
            if self._policies and verdict == FORWARDED:
                self.counters.policies += has_policy(buf, at)
            if watch.mode:  # before the run is written, which makes its headers those of a superframe
                watch.datagram(buf, at, length, verdict, self._datagram)
            if verdict != FORWARDED:
                self.counters.drops[verdict] += 1
                if not watch.mode:
                    watch.datagram(buf, at, length, verdict, self._datagram)
            elif run.segments == 0 or not run.join(buf, decap):
                self._write(buf, run, watch)
                run.start(buf, 0, decap)
                self._vtep = decap.vtep
            if run.ended:
                self._write(buf, run, watch)
            work += 1
            at += stride
            if at >= end:
                return work

    def _write(self, buf: Buffer, run: Coalescer, watch: Watch) -> None:
        """Write the run to the TAP, if there is one."""
        if run.segments == 0:
            return
        run.finish(buf)
        octets = write_run(self._tap, buf, run.ranges)
        if octets < 0:
            self.counters.drops[TAP_WRITE_FAILED] += run.segments
            self.last_write_errno = -octets
            watch.refused(buf, run.ranges, TAP_WRITE_FAILED)
        else:
            self.counters.batches += 1
            self.counters.superframes += run.segments > 1
            self.counters.frames += run.segments
            self.counters.octets += run.octets
            if self._vtep != NONE:
                watch.traffic.took(self._vtep, run.segments, run.octets)
        run.clear()
