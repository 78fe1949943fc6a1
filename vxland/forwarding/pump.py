"""The event loop's two callbacks: each drains a burst, decides about every frame of it, and moves it on.

    TAP -> UDP   forwarding/encap.py        UDP -> TAP   forwarding/decap.py

Compiled, a burst runs without the GIL from the first read to the last send and makes no Python object; interpreted,
the same statements run over one bytearray, with trains and runs of one frame. A burst ends after 64 reads, so that
neither direction starves the other or the rest of the loop; nothing stays behind when it ends.
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
    """One TAP queue and one set of sockets, joined. Any thread may set `table`, `limits` and `capture` meanwhile.

    `on_fault(errno)` is told when the TAP cannot be read any more, `on_refused(offload, why)` once when an offload is
    off, and `on_too_big()` after each burst of which the kernel found something too big for its way.
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
            self._encap.drain(table, now_us(), self.recorder)
            if self.busy_poll_us:
                self._poll(table, self.recorder)
        if self._has_news():
            self._report()

    def on_udp_readable(self) -> None:
        """Decapsulate what waits in the socket, a burst at most; then poll for more, if asked to."""
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
        """Trust the TAP again: its descriptor is a queue of another device by now."""
        self._encap.fault = 0

    def on_public_readable(self) -> None:
        """Decapsulate what waits in the socket of serve(), a burst at most."""
        table = self.table
        self._begin(table)
        self._decap.counters.wakeups += 1
        with cython.nogil:
            self._decap.drain_public(table, self.recorder)
        if self._has_news():
            self._report()

    def serve(self, public: socket | None) -> None:
        """Take this for the second receiving socket; on the pump's thread, between two bursts."""
        self._decap.serve(public)
        self._public = public

    def _begin(self, table: Table) -> None:
        """Before a wake-up's first burst: what goes by `table`. Limits of another table are none of its VTEPs'."""
        self.recorder.begin(table, self.capture)
        limits = self.limits
        self._encap.rules.limits = limits if limits.table is table else self._unlimited

    def _has_news(self) -> bool:
        """Whether the bursts have found something that the loop must hear of."""
        if self._encap.fault or self._encap.too_big or self._decap.refused:
            return True
        return self._encap.segment_errno != 0 and not self._segment_told

    def _report(self) -> None:
        """Tell of a TAP that is lost, once of a refused offload, and of ways that are narrower than was known."""
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
        """The offloads that the kernel has refused, and why."""
        codes = {
            "udp_segment": self._encap.segment_errno,
            "join_tcp": self._decap.tcp_errno,
            "join_udp": self._decap.udp_errno,
        }
        found = [(offload, os.strerror(code)) for offload, code in codes.items() if code]
        return [*found, ("udp_gro", "no room to tell sizes: MSG_CTRUNC")] if self._decap.sizes_lost else found

    def _poll(self, table: Table, recorder: Recorder) -> None:
        """Drain both directions until neither has had anything for busy_poll_us, or the loop must have its turn."""
        start_us = last_us = now = now_us()
        while now - last_us < self.busy_poll_us and now - start_us < MAX_POLL_US and not self._encap.fault:
            got = self._encap.drain(table, now, recorder)
            got += self._decap.drain(table, recorder)
            now = now_us()
            if got:
                last_us = now
