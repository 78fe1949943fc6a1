"""Records of one pump: traffic by peer, copies of the last dropped frames, and captures.

Traffic is counted once for each train sent and each run written. Dropped frames are copied, at most COPIES of each
wake-up, so that a flood of garbage costs little. While a capture runs, every frame is copied; otherwise a capture costs
one comparison. Only the pump's own thread writes, and switches rings between two bursts; other threads read.
"""

from __future__ import annotations

import cython

from vxland.datapath.datagram import Datagram
from vxland.datapath.encap import Encap
from vxland.datapath.table import Table
from vxland.datapath.traffic import Traffic
from vxland.datapath.train import Gather, Train
from vxland.forwarding.io.ring import Ring
from vxland.wire.bigendian import Buffer
from vxland.wire.ethernet import HDR_LEN as ETH_LEN

if not cython.compiled:
    from vxland.forwarding.io.ring import ALL_INNER, ALL_OUTER
    from vxland.wire.ethernet import SRC_OFF as ETH_SRC_OFF
    from vxland.wire.ethernet import TYPE_OFF as ETH_TYPE_OFF
    from vxland.wire.record import DECAP, ENCAP, FROM_VXLAN

COPIES = 8
SNAPLEN = 128  # enough for inner headers
LAST_DROPS = 64
RECORD_LEN = 56 + SNAPLEN

OFF = Ring(64, 0)
"""The ring without a capture: its mode accepts no frame."""


class Recorder:
    """The records of one pump. `retired` are the counters of earlier lineages of tables, which the reader removes."""

    def __init__(self, table: Table) -> None:
        self.traffic = Traffic(table.lineage)
        self.retired: list[Traffic] = []
        self.drops = Ring(LAST_DROPS * RECORD_LEN, SNAPLEN)
        self.mode = 0
        self._capture = OFF
        self._copies = 0

    def begin(self, table: Table, capture: Ring) -> None:
        """Prepare a wake-up's first burst: set the counters of its table and the ring of its capture."""
        if self.traffic.lineage is not table.lineage:
            self.retired.append(self.traffic)  # first: a concurrent reader then finds it twice rather than not at all
            self.traffic = Traffic(table.lineage)
        self.traffic.reserve(table.count)
        if self._capture is not capture:
            self._capture = capture
        self.mode = capture.mode
        self._copies = COPIES

    def hold(self) -> None:
        """Use the current time for all records until answer() or datagrams(): these frames go to the kernel now."""
        self._capture.hold()

    def frame(self, buf: Buffer, at: int, length: int, verdict: int, encap: Encap, table: Table) -> None:
        """Record a frame of the TAP, forwarded or dropped, before it leaves."""
        length = max(length, 0)  # the read may be shorter than a virtio header
        if verdict > 0 and self._copies > 0:
            self._copies -= 1
            self._keep_dropped(self.drops, buf, at, length, verdict, encap)
        if self.mode and verdict > 0:
            self._keep_dropped(self._capture, buf, at, length, verdict, encap)
        elif self.mode & ALL_INNER:
            hi, lo = table.outer_hi[encap.vtep], table.outer_lo[encap.vtep]
            self._keep(self._capture, buf, at, length, ENCAP, verdict, 0, hi, lo, encap.port, encap.gso_size)

    def answer(self, buf: Buffer, at: int, length: int, verdict: int) -> None:
        """Record the answer to a frame of the TAP, which it has overwritten: only the answer can be shown."""
        if verdict > 0 and self._copies > 0:
            self._copies -= 1
            self._keep(self.drops, buf, at, length, DECAP, verdict, 0, 0, 0, 0, 0)
        if self.mode & ALL_INNER or (self.mode and verdict > 0):
            self._keep(self._capture, buf, at, length, DECAP, verdict, 0, 0, 0, 0, 0)
        if self.mode:
            self._capture.release()

    def datagrams(self, buf: Buffer, train: Train, first: int, count: int, verdict: int, table: Table) -> None:
        """Record the datagrams of one send: `count` ranges of the train, starting with `first`."""
        stop = first + count
        while first < stop:
            count = 1
            nbytes = train.ranges.length[first]
            while nbytes < train.size and first + count < stop:
                nbytes += train.ranges.length[first + count]
                count += 1
            if verdict > 0 and self._copies > 0:
                self._copies -= 1
                self._gather(self.drops, buf, train, first, count, nbytes, verdict, table)
            if self.mode & ALL_OUTER or (self.mode and verdict > 0):
                self._gather(self._capture, buf, train, first, count, nbytes, verdict, table)
            first += count
        if self.mode:
            self._capture.release()

    def datagram(self, buf: Buffer, at: int, length: int, verdict: int, datagram: Datagram) -> None:
        """Record a received datagram and the verdict on it."""
        hi, lo, port = datagram.outer_src_hi, datagram.outer_src_lo, datagram.port
        if verdict > 0 and self._copies > 0:
            self._copies -= 1
            self._keep(self.drops, buf, at, length, DECAP, verdict, FROM_VXLAN, hi, lo, port, 0)
        if self.mode & (ALL_INNER | ALL_OUTER) or (self.mode and verdict > 0):
            self._keep(self._capture, buf, at, length, DECAP, verdict, FROM_VXLAN, hi, lo, port, 0)

    def refused(self, buf: Buffer, run: Gather, verdict: int) -> None:
        """Record a run that the TAP refused, without its virtio header, which is its first range."""
        if self._copies > 0:
            self._copies -= 1
            self._keep(self.drops, buf, run.at[1], run.length[1], DECAP, verdict, 0, 0, 0, 0, 0)
        if self.mode:
            self._keep(self._capture, buf, run.at[1], run.length[1], DECAP, verdict, 0, 0, 0, 0, 0)

    def _keep_dropped(self, ring: Ring, buf: Buffer, at: int, length: int, verdict: int, encap: Encap) -> None:
        """Record a dropped frame. An ICMP error may have overwritten its Ethernet header, with swapped MACs."""
        if encap.answer_len == 0:
            self._keep(ring, buf, at, length, ENCAP, verdict, 0, 0, 0, 0, encap.gso_size)
            return
        ring.start(length, ENCAP, verdict, 0, 0, 0, 0, encap.gso_size)
        ring.add(buf, encap.answer_at + ETH_SRC_OFF, ETH_SRC_OFF)
        ring.add(buf, encap.answer_at, ETH_SRC_OFF)
        ring.add(buf, encap.answer_at + ETH_TYPE_OFF, ETH_LEN - ETH_TYPE_OFF)
        ring.add(buf, at + ETH_LEN, length - ETH_LEN)
        ring.finish()

    def _keep(
        self,
        ring: Ring,
        buf: Buffer,
        at: int,
        length: int,
        direction: int,
        verdict: int,
        flags: int,
        hi: int,
        lo: int,
        port: int,
        gso_size: int,
    ) -> None:
        ring.start(length, direction, verdict, flags, hi, lo, port, gso_size)
        ring.add(buf, at, length)
        ring.finish()

    def _gather(
        self,
        ring: Ring,
        buf: Buffer,
        train: Train,
        first: int,
        count: int,
        nbytes: int,
        verdict: int,
        table: Table,
    ) -> None:
        hi, lo = table.outer_hi[train.vtep], table.outer_lo[train.vtep]
        ring.start(nbytes, ENCAP, verdict, FROM_VXLAN, hi, lo, train.port, 0)
        for i in range(first, first + count):
            ring.add(buf, train.ranges.at[i], train.ranges.length[i])
        ring.finish()
