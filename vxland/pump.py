"""The event loop's two callbacks: each drains a burst, decides about every frame of it, and moves it on.

    TAP -> UDP   read_frame, Encap.encap, Batch.add, send_datagram
    UDP -> TAP   recv_datagram, Decap.decap, write_frame

Compiled, a burst runs without the GIL from the first read to the last send and makes no Python object; interpreted,
the same statements run over one bytearray. Payload stays where the kernel put it: headers are written before it.
A burst ends after CAPACITY frames, so that neither direction starves the other or the rest of the loop.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from errno import EAGAIN, EINTR, ENOBUFS
from time import monotonic
from typing import Any

import cython

from vxland.datapath.batch import Batch, Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.table import Table
from vxland.datapath.verdict import FORWARD, Counters, Drop
from vxland.kernel.buffers import Arena
from vxland.kernel.udp import Udp
from vxland.wire.octets import Buffer
from vxland.wire.virtio import GSO_NONE
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import put_header as put_virtio
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN

if not cython.compiled:
    from vxland.datapath.batch import CAPACITY
    from vxland.datapath.encap import ANSWERED
    from vxland.kernel.buffers import HEADROOM, MAX_FRAME_LEN, SLOT_LEN
    from vxland.kernel.syscalls import read_frame, recv_datagram, send_datagram, write_frame

COMPILED: bool = cython.compiled
"""Which gear this is."""

ARENA_LEN = 256 * 1024  # a batch of 1500-octet frames, and room for the longest as long as one more is read
MAX_DATAGRAM_LEN = 65_535

NO_ERROR = 0
FORWARDED = FORWARD
SEND_FAILED = Drop.SEND_FAILED.value
SEND_BUFFER_FULL = Drop.SEND_BUFFER_FULL.value
TAP_WRITE_FAILED = Drop.TAP_WRITE_FAILED.value
AGAIN, INTERRUPTED, NO_BUFFERS = EAGAIN, EINTR, ENOBUFS


class Pump:
    """One TAP queue and one set of sockets, joined. `on_fault(errno)` is told when the TAP cannot be read any more."""

    def __init__(
        self, tap: int, udp: Udp, encap: Encap, decap: Decap, table: Table, on_fault: Callable[[int], None]
    ) -> None:
        self._tap = tap
        # Handles, see kernel/syscalls.py: the descriptor in the compiled gear, the socket in the interpreted one.
        self._receiver: Any = udp.receiver.fileno() if COMPILED else udp.receiver
        self._senders: Any = array("i", [sender.fileno() for sender in udp.senders]) if COMPILED else udp.senders
        self._encap = encap
        self._decap = decap
        self._on_fault = on_fault
        self._batch = Batch()
        self._datagram = Datagram()
        self._encap_arena = Arena(ARENA_LEN)
        self._decap_arena = Arena(SLOT_LEN)
        self.table = table
        self.encap_counters = Counters()
        self.decap_counters = Counters()
        self.last_send_errno = 0
        self.last_write_errno = 0

    @property
    def check_source(self) -> bool:
        """Whether an outer source must be a leased VTEP; may be set while frames move."""
        return self._decap.check_source

    @check_source.setter
    def check_source(self, wanted: bool) -> None:
        self._decap.check_source = wanted

    def on_tap_readable(self) -> None:
        """Encapsulate what waits in the TAP, CAPACITY frames at most."""
        table = self.table  # a swap during the burst must not free the table under it
        now_s = monotonic()
        with cython.nogil:
            errno = self._drain_tap(table, now_s)
        if errno:
            self._on_fault(errno)

    def on_udp_readable(self) -> None:
        """Decapsulate what waits in the socket, CAPACITY datagrams at most."""
        table = self.table
        with cython.nogil:
            self._drain_udp(self._decap, self._decap_arena.base, table)

    def _drain_tap(self, table: Table, now_s: float) -> int:
        """Read and decide first, send after; the errno that ended reading, if it was no lack of frames."""
        errno = NO_ERROR
        cursor = 0
        self._batch.clear()
        for _ in range(CAPACITY):
            if cursor + SLOT_LEN > self._encap_arena.length:
                break
            at = cursor + HEADROOM
            octets = read_frame(self._tap, self._encap_arena.base, at - VIRTIO_LEN, MAX_FRAME_LEN + VIRTIO_LEN)
            if octets < 0:
                errno = NO_ERROR if octets in (-AGAIN, -INTERRUPTED) else -octets
                break
            if self._take_frame(self._encap, self._encap_arena.base, at, octets - VIRTIO_LEN, table, now_s):
                cursor = at + octets
        self._send_batch(self._batch, table)
        return errno

    def _take_frame(self, encap: Encap, buf: Buffer, at: int, length: int, table: Table, now_s: float) -> bool:
        """Decide about one frame; whether it waits in the batch now."""
        verdict = encap.encap(buf, at, length, table, now_s)
        if verdict == FORWARDED:
            self._batch.add(at - VXLAN_LEN, length + VXLAN_LEN, encap.vtep, encap.ecn, encap.port)
            return True
        if verdict != ANSWERED:
            self.encap_counters.drops[verdict] += 1
        if encap.answer_len:
            put_virtio(buf, encap.answer_at - VIRTIO_LEN, 0, GSO_NONE, 0, 0, 0, 0)
            if write_frame(self._tap, buf, encap.answer_at - VIRTIO_LEN, encap.answer_len + VIRTIO_LEN) > 0:
                self.encap_counters.answers += 1
        return False

    def _send_batch(self, batch: Batch, table: Table) -> None:
        for i in range(batch.count):
            octets = send_datagram(
                self._senders[batch.port[i]],
                self._encap_arena.base,
                batch.at[i],
                batch.length[i],
                table,
                batch.vtep[i],
                batch.ecn[i],
            )
            if octets >= 0:
                self.encap_counters.frames += 1
                self.encap_counters.octets += octets - VXLAN_LEN
            elif octets in (-AGAIN, -NO_BUFFERS):
                self.encap_counters.drops[SEND_BUFFER_FULL] += 1
            else:
                self.encap_counters.drops[SEND_FAILED] += 1
                self.last_send_errno = -octets

    def _drain_udp(self, decap: Decap, buf: Buffer, table: Table) -> None:
        for _ in range(CAPACITY):
            octets = recv_datagram(self._receiver, buf, HEADROOM, MAX_DATAGRAM_LEN, self._datagram)
            if octets < 0:
                return
            verdict = decap.decap(buf, HEADROOM, octets, self._datagram, table)
            if verdict != FORWARDED:
                self.decap_counters.drops[verdict] += 1
                continue
            octets = write_frame(self._tap, buf, decap.frame_at - VIRTIO_LEN, decap.frame_len + VIRTIO_LEN)
            if octets < 0:
                self.decap_counters.drops[TAP_WRITE_FAILED] += 1
                self.last_write_errno = -octets
            else:
                self.decap_counters.frames += 1
                self.decap_counters.octets += decap.frame_len
