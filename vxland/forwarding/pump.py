"""The callbacks of the event loop: each drains a burst, and decides about and moves every frame of it.

    TAP -> UDP   forwarding/encap.py        UDP -> TAP   forwarding/decap.py

Compiled, a burst runs without the GIL from the first read to the last send and creates no Python object. Interpreted,
the same statements run over one bytearray, with trains and runs of one frame. A burst ends after 64 reads, so neither
direction starves the other or the rest of the loop. Nothing is left over when it ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from socket import socket

import cython

from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.table import Table
from vxland.datapath.verdict import Counters
from vxland.forwarding.decap import DecapBurst
from vxland.forwarding.encap import EncapBurst
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.recorder import OFF, Recorder

if not cython.compiled:
    from vxland.forwarding.io.syscalls import now_us

COMPILED: bool = cython.compiled
"""Which gear this is."""

MAX_POLL_US = 10_000


class Pump:
    """Connects one TAP queue and one set of sockets. Any thread may set `table`, `limits` and `capture` at any time.

    `on_fault(errno)` is called if the TAP cannot be read any more, `on_refused(offload, why)` once for an offload that
    is off, and `on_too_big()` after each burst in which the kernel found a packet too big for its path.
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
        on_refused: Callable[[str, str], None] | None = None,
        on_too_big: Callable[[], None] | None = None,
    ) -> None:
        self._encap = EncapBurst(tap, udp, encap)
        self._decap = DecapBurst(tap, udp, decap, coalescer)
        self._on_fault = on_fault
        self._on_refused = on_refused
        self._on_too_big = on_too_big
        self._stop_gro = udp.stop_gro
        self._public: socket | None = None
        self._segment_told = False
        self._given_up: set[str] = set()
        self.recorder = Recorder(table)
        self.table = table
        self.limits = Limits({})
        self.capture = OFF
        self.busy_poll_us = busy_poll_us

    @property
    def check_source(self) -> int:
        """The SourceCheck level; may be set while frames move."""
        return self._decap.rules.check_source

    @check_source.setter
    def check_source(self, wanted: int) -> None:
        self._decap.rules.check_source = wanted

    @property
    def encap_counters(self) -> Counters:
        """Counters of frames from the TAP."""
        return self._encap.counters

    @property
    def decap_counters(self) -> Counters:
        """Counters of datagrams from the underlay."""
        return self._decap.counters

    @property
    def segment_errno(self) -> int:
        """The errno for which UDP_SEGMENT is off; 0 if the kernel never refused it."""
        return self._encap.segment_errno

    @property
    def last_send_errno(self) -> int:
        """The errno of the kernel's last refusal to send; 0 for none."""
        return self._encap.last_send_errno

    @property
    def last_write_errno(self) -> int:
        """The errno of the TAP's last refusal of a frame; 0 for none."""
        return self._decap.last_write_errno or self._encap.last_write_errno

    def on_tap_readable(self) -> None:
        """Encapsulate a burst of the frames in the TAP; then poll for more if configured."""
        table = self.table  # a new table must not free this one during the burst
        self._begin(table)
        self._encap.counters.wakeups += 1
        with cython.nogil:
            self._encap.drain(table, now_us(), self.recorder)
            if self.busy_poll_us:
                self._poll(table, self.recorder)
        if self._has_news():
            self._report()

    def on_udp_readable(self) -> None:
        """Decapsulate a burst of the datagrams in the socket; then poll for more if configured."""
        table = self.table
        self._begin(table)
        self._decap.counters.wakeups += 1
        with cython.nogil:
            self._decap.drain(table, self.recorder)
            if self.busy_poll_us:
                self._poll(table, self.recorder)
        if self._has_news():
            self._report()

    def renew_tap(self) -> None:
        """Read the TAP again: its descriptor now is a queue of another device."""
        self._encap.fault = 0

    def on_public_readable(self) -> None:
        """Decapsulate a burst of the datagrams in the socket of serve()."""
        table = self.table
        self._begin(table)
        self._decap.counters.wakeups += 1
        with cython.nogil:
            self._decap.drain_public(table, self.recorder)
        if self._has_news():
            self._report()

    def serve(self, public: socket | None) -> None:
        """Use this second receiving socket. Call it on the pump's thread, between two bursts."""
        self._decap.serve(public)
        self._public = public

    def _begin(self, table: Table) -> None:
        """Prepare a wake-up's first burst with `table`."""
        self.recorder.begin(table, self.capture)
        self._encap.rules.limits = self.limits

    def _has_news(self) -> bool:
        """Whether the bursts have found something to report."""
        if self._encap.fault or self._encap.too_big or self._decap.refused:
            return True
        return self._encap.segment_errno != 0 and not self._segment_told

    def _report(self) -> None:
        """Report a lost TAP, a refused offload (once), and paths that are narrower than known."""
        if self._encap.fault:
            self._on_fault(self._encap.fault)
        if self._encap.too_big and self._on_too_big is not None:
            self._on_too_big()
        self._encap.too_big = False
        if self._decap.refused and self._decap.sizes_lost and self._decap.gro:
            self._stop_gro(self._public)
            self._decap.gro = False
        self._decap.refused = False
        self._segment_told = self._encap.segment_errno != 0
        for offload, why in self._refusals():
            if offload not in self._given_up:
                self._given_up.add(offload)
                if self._on_refused is not None:
                    self._on_refused(offload, why)

    def _refusals(self) -> list[tuple[str, str]]:
        """Return the offloads that the kernel has refused, with the reason."""
        codes = {
            "udp_segment": self._encap.segment_errno,
            "join_tcp": self._decap.tcp_errno,
            "join_udp": self._decap.udp_errno,
        }
        found = [(offload, os.strerror(code)) for offload, code in codes.items() if code]
        return [*found, ("udp_gro", "no room to report sizes: MSG_CTRUNC")] if self._decap.sizes_lost else found

    def _poll(self, table: Table, recorder: Recorder) -> None:
        """Drain both directions until both have been empty for busy_poll_us, or for MAX_POLL_US at most."""
        start_us = last_us = now = now_us()
        while now - last_us < self.busy_poll_us and now - start_us < MAX_POLL_US and not self._encap.fault:
            got = self._encap.drain(table, now, recorder)
            got += self._decap.drain(table, recorder)
            now = now_us()
            if got:
                last_us = now
