"""The event loop's two callbacks: each drains a burst, decides about every frame of it, and moves it on.

    TAP -> UDP   burst/encap.py        UDP -> TAP   burst/decap.py

Compiled, a burst runs without the GIL from the first read to the last send and makes no Python object; interpreted,
the same statements run over one bytearray, with trains and runs of one frame. A burst ends after 64 reads, so that
neither direction starves the other or the rest of the loop; nothing stays behind when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EMSGSIZE
from socket import socket

import cython

from vxland.burst.decap import DecapBurst
from vxland.burst.encap import EncapBurst
from vxland.burst.watch import OFF, Watch
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.table import Table
from vxland.datapath.verdict import Counters
from vxland.kernel.udp import Udp

if not cython.compiled:
    from vxland.kernel.syscalls import now_us

COMPILED: bool = cython.compiled
"""Which gear this is."""

MAX_POLL_US = 10_000


class Pump:
    """One TAP queue and one set of sockets, joined. Any thread may set `table`, `limits` and `capture` meanwhile.

    `on_fault(errno)` is told when the TAP cannot be read any more, `on_refused(errno)` once when UDP_SEGMENT is off,
    and with EMSGSIZE after each burst of which the kernel found something too big for its way. `policies`: whether
    to count what comes with a group policy.
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
        policies: bool = False,
    ) -> None:
        self._encap = EncapBurst(tap, udp, encap)
        self._decap = DecapBurst(tap, udp, decap, coalescer, policies)
        self._on_fault = on_fault
        self._on_refused = on_refused
        self._segment_refused = False
        self.watch = Watch(table)
        self.table = table
        self.limits = self._unlimited = Limits(table, {})
        self.capture = OFF
        self.busy_poll_us = busy_poll_us

    @property
    def check_source(self) -> int:
        """How far senders are checked, as Decap's; may be set while frames move."""
        return self._decap.rules.check_source

    @check_source.setter
    def check_source(self, wanted: int) -> None:
        self._decap.rules.check_source = wanted

    @property
    def encap_counters(self) -> Counters:
        """What was done from TAP to UDP."""
        return self._encap.counters

    @property
    def decap_counters(self) -> Counters:
        """What was done from UDP to TAP."""
        return self._decap.counters

    @property
    def segment_errno(self) -> int:
        """Why UDP_SEGMENT is off; 0 where the kernel never refused it."""
        return self._encap.segment_errno

    @property
    def last_send_errno(self) -> int:
        """The kernel's last refusal to send."""
        return self._encap.last_send_errno

    @property
    def last_write_errno(self) -> int:
        """The TAP's last refusal of a frame."""
        return self._decap.last_write_errno or self._encap.last_write_errno

    def on_tap_readable(self) -> None:
        """Encapsulate what waits in the TAP, a burst at most; then poll for more, if asked to."""
        table = self.table  # a swap during the burst must not free the table under it
        self._begin(table)
        self._encap.counters.wakeups += 1
        with cython.nogil:
            self._encap.drain(table, now_us(), self.watch)
            if self.busy_poll_us:
                self._poll(table, self.watch)
        if self._encap.fault or self._encap.segment_errno or self._encap.too_big:
            self._report()

    def on_udp_readable(self) -> None:
        """Decapsulate what waits in the socket, a burst at most; then poll for more, if asked to."""
        table = self.table
        self._begin(table)
        self._decap.counters.wakeups += 1
        with cython.nogil:
            self._decap.drain(table, self.watch)
            if self.busy_poll_us:
                self._poll(table, self.watch)
        if self._encap.fault or self._encap.segment_errno or self._encap.too_big:
            self._report()

    def renew_tap(self) -> None:
        """Trust the TAP again: its descriptor is a queue of another device by now."""
        self._encap.fault = 0

    def on_public_readable(self) -> None:
        """Decapsulate what waits in the socket of serve(), a burst at most."""
        table = self.table
        self._begin(table)
        self._decap.counters.wakeups += 1
        with cython.nogil:
            self._decap.drain_public(table, self.watch)

    def serve(self, public: socket | None) -> None:
        """Take this for the second receiving socket; on the pump's thread, between two bursts."""
        self._decap.serve(public)

    def _begin(self, table: Table) -> None:
        """Before a wake-up's first burst: what goes by `table`. Limits of another table are none of its VTEPs'."""
        self.watch.begin(table, self.capture)
        limits = self.limits
        self._encap.rules.limits = limits if limits.table is table else self._unlimited

    def _report(self) -> None:
        """Tell of a TAP that is lost, once of a refused offload, and of ways that are narrower than was known."""
        if self._encap.fault:
            self._on_fault(self._encap.fault)
        if self._on_refused is not None and self._encap.segment_errno and not self._segment_refused:
            self._segment_refused = True
            self._on_refused(self._encap.segment_errno)
        if self._on_refused is not None and self._encap.too_big:
            self._on_refused(EMSGSIZE)
        self._encap.too_big = False

    def _poll(self, table: Table, watch: Watch) -> None:
        """Drain both directions until neither has had anything for busy_poll_us, or the loop must have its turn."""
        start_us = last_us = now = now_us()
        while now - last_us < self.busy_poll_us and now - start_us < MAX_POLL_US and not self._encap.fault:
            got = self._encap.drain(table, now, watch)
            got += self._decap.drain(table, watch)
            now = now_us()
            if got:
                last_us = now
