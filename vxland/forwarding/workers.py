"""The workers of one device: the pump of each, its thread, and the values that all of them share.

Each worker is a thread with its own event loop, TAP queue and receiving socket (forwarding/endpoints.py). The kernel
keeps each flow on one queue and one socket, hence in order. Tables are immutable and replaced as a whole: a worker
finishes its burst with the table that it started with. Compiled, a burst holds no GIL, so neither workers nor the
control plane wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import zip_longest

from vxland.config import Settings
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.table import Table
from vxland.forwarding.counts import Direction, SocketQueue, by_direction
from vxland.forwarding.endpoints import Endpoints
from vxland.forwarding.io import tap
from vxland.forwarding.io.fdstore import TakeFd, nothing
from vxland.forwarding.io.tap import Tap
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.pump import COMPILED, Pump
from vxland.forwarding.refusals import Refusals
from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.forwarding.worker import Worker
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Mac
from vxland.model.source_check import SourceCheck

DRAIN_S = 0.2
"""Seconds in which workers that end move what waits."""

ErrnoCallback = Callable[[int], None]
"""Called with an errno, on the event loop that made the workers."""


class Workers:
    """All workers of a device. Opens it and its sockets at once, except those that `take` has from an earlier process.

    The callbacks run on the event loop that made the workers: `on_tap_lost` once for each loss of the TAP, `on_refused`
    when the kernel refuses an offload, `on_too_big` when a packet was too big for its path. Raises StartError, with the
    cause and a remedy.
    """

    def __init__(
        self,
        settings: Settings,
        underlay: Underlay,
        mac: Mac,
        on_tap_lost: ErrnoCallback,
        on_refused: Callable[[str, str], None],
        on_too_big: Callable[[], None],
        take: TakeFd = nothing,
    ) -> None:
        self._settings = settings
        self._mac = mac
        self._loop = asyncio.get_running_loop()
        self._on_tap_lost = on_tap_lost
        self._on_refused = on_refused
        self._on_too_big = on_too_big
        self._too_big_pending = False
        self._kept = False
        self.workers: list[Worker] = []
        with ExitStack() as stack:
            self._endpoints = stack.enter_context(closing(Endpoints(settings, underlay, take)))
            for number, (queue, sock) in enumerate(zip(self._endpoints.taps, self._endpoints.sockets, strict=True)):
                worker = Worker(number, queue, sock, self._build_pump(number, queue, sock, underlay.address.version))
                stack.callback(worker.close)
                self.workers.append(worker)
            self._resources = stack.pop_all()
        pumps = [worker.pump for worker in self.workers]
        self.telemetry = DeviceTelemetry(pumps)
        self._refusals = Refusals(pumps)

    def _build_pump(self, number: int, tap: Tap, udp: Udp, outer: int) -> Pump:
        settings, wanted = self._settings, self._settings.datapath.offloads
        vni = settings.overlay.vni
        return Pump(
            tap.fd,
            udp,
            Encap(vni, settings.underlay.source_ports, settings.outer),
            Decap(vni, self._mac.value, settings.security.source_check),
            Coalescer(
                tcp=COMPILED and wanted.wants("join_tcp"),
                udp=COMPILED and wanted.wants("join_udp") and tap.takes_udp,
                takes_tcp=not wanted.is_off("join_tcp"),
                takes_udp=not wanted.is_off("join_udp") and tap.takes_udp,
            ),
            Table(settings.overlay.port, outer),
            partial(self._tap_lost, number),
            settings.datapath.busy_poll_us,
            self._refused,
            self._found_too_big,
        )

    @property
    def count(self) -> int:
        """The number of workers."""
        return self._endpoints.count

    @property
    def source_ports(self) -> list[int]:
        """The UDP ports of the sending sockets."""
        return self._endpoints.source_ports

    @property
    def offloads(self) -> Mapping[str, bool | int]:
        """The offloads as probed at the start, see Endpoints."""
        return self._endpoints.offloads

    @property
    def descriptors(self) -> Mapping[str, int]:
        """The descriptors that a later process can take over, by name."""
        return self._endpoints.descriptors

    def start(self, *, receive: bool = True) -> None:
        """Move frames from now on; those from the underlay only after receive(), unless `receive` is true.

        From now on the device outlives this process.
        """
        self._endpoints.keep()
        self._kept = True
        for worker in self.workers:
            worker.start(receive=receive)

    def receive(self) -> None:
        """Read the receiving sockets from now on."""
        for worker in self.workers:
            worker.receive()

    def pause(self) -> None:
        """Let datagrams wait in the receiving sockets until receive()."""
        for worker in self.workers:
            worker.pause()

    def tap_mismatch(self) -> str:
        """Return why the queues in use do not belong to the TAP of that name in this namespace; "" if they do."""
        return self._endpoints.tap_mismatch(self.workers[0].tap)

    async def renew_taps(self) -> None:
        """Move every worker to a queue of the TAP of that name, which is created if there is none. Raises StartError.

        Counters, captures and descriptor numbers stay. A device that was renamed or moved away is deleted.
        """
        with ExitStack() as stack:
            queues = [stack.enter_context(closing(self._endpoints.open_tap())) for _ in self.workers]
            self.pause()
            for worker, queue in zip(self.workers, queues, strict=True):
                tap.abandon(worker.tap)
                await worker.take_tap(queue.fd)
            if self._kept:
                self._endpoints.keep()

    async def answer(self) -> None:
        """Return when every thread, once started, has had a turn for something else than frames."""
        for worker in self.workers:
            await worker.answer()

    async def drained(self) -> tuple[int, int]:
        """Return the times since which no frame from before is in the TAP's queues, and no datagram in the sockets'.

        A time is 0 while something waits there; see Worker.drained(). The workers have been started.
        """
        encap, decap = zip(*[await worker.drained() for worker in self.workers], strict=True)
        return min(encap), min(decap)

    async def drain(self) -> None:
        """Return once nothing waits in any queue, or after DRAIN_S."""
        if self._kept:
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    while 0 in await self.drained():
                        pass

    def close(self) -> None:
        """End the threads, then close sockets and TAP queues; the device stays if they were started."""
        self._resources.close()

    def set_table(self, table: Table) -> None:
        """Use `table` from each worker's next burst on."""
        for worker in self.workers:
            worker.pump.table = table
        self.telemetry.tidy()

    @property
    def limits(self) -> Limits:
        """The limits in force: the packet sizes that the paths to the VTEPs carry."""
        return self.workers[0].pump.limits

    @property
    def table(self) -> Table:
        """The table in force."""
        return self.workers[0].pump.table

    def set_limits(self, limits: Limits) -> None:
        """Use `limits` from each worker's next burst on."""
        for worker in self.workers:
            worker.pump.limits = limits

    def heed_path_mtus(self, heeded: bool) -> None:
        """Send by the kernel's path MTUs, or by the interface's MTU alone: see Udp.heed_path_mtus()."""
        self._endpoints.heed_path_mtus(heeded)

    def set_source_check(self, wanted: SourceCheck) -> None:
        """Check senders at this level of `security.source_check`."""
        for worker in self.workers:
            worker.pump.check_source = wanted

    async def serve(self, address: Address | None, take: TakeFd = nothing) -> None:
        """Receive at this second address too, instead of the previous one; None: at no second address.

        This node need not have the address yet. Raises OSError or StartError if it cannot be bound: nothing changes.
        """
        opened = [] if address is None else self._endpoints.open_public(address, take)
        for worker, public in zip_longest(self.workers, opened):
            await worker.serve(public)
        self._endpoints.replace_public(opened)

    def directions(self) -> Mapping[str, Direction]:
        """Return the totals of all workers by direction."""
        pumps = [worker.pump for worker in self.workers]
        return by_direction(
            {"encap": Direction.of(pump.encap_counters), "decap": Direction.of(pump.decap_counters)} for pump in pumps
        )

    def queues(self) -> list[SocketQueue]:
        """Return the receiving sockets' queues; none if the kernel does not report them."""
        return self._endpoints.queues()

    def new_errnos(self) -> Mapping[str, int]:
        """Return the errno of a refusal since the last call, by direction; a direction without one is left out."""
        return self._refusals.new_errnos()

    def _tap_lost(self, number: int, code: int) -> None:
        worker = self.workers[number]
        if worker.lost:  # reported already: until there is a new one, each burst finds it lost
            return
        worker.leave_tap()
        self._loop.call_soon_threadsafe(self._on_tap_lost, code)

    def _refused(self, offload: str, why: str) -> None:
        self._loop.call_soon_threadsafe(self._on_refused, offload, why)

    def _found_too_big(self) -> None:
        if not self._too_big_pending:  # else the loop has yet to run the last call
            self._too_big_pending = True
            self._loop.call_soon_threadsafe(self._too_big)

    def _too_big(self) -> None:
        self._too_big_pending = False
        self._on_too_big()
