"""The data path of one node: its TAP queues and sockets, a pump for each, and the threads that wake them.

Each worker is a thread with an event loop of its own, one queue of the TAP and one receiving socket (SO_REUSEPORT
spreads peers' flows over them); the sending sockets are shared, so that a flow keeps its source port whichever queue
it comes from. The kernel keeps each flow on one queue and one socket, hence in order. Tables are immutable and swapped
whole: a worker uses the one it started its burst with. Compiled, a burst holds no GIL, so neither workers nor the
control plane wait for one another.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from itertools import zip_longest

from vxland.config import Settings
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.table import Table
from vxland.forwarding.counts import Direction, SocketQueue, by_direction
from vxland.forwarding.io import tap, udp
from vxland.forwarding.io.fdstore import Mismatch, Role, TakeFd, name_of, nothing
from vxland.forwarding.io.tap import Tap, claim
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.pump import COMPILED, Pump
from vxland.forwarding.refusals import Refusals
from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.forwarding.worker import Worker
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Mac
from vxland.model.source_check import SourceCheck

ErrnoCallback = Callable[[int], None]
"""Called with an errno, on the event loop that made the workers."""


def expected(settings: Settings, underlay: Underlay, public: Address) -> dict[str, Mismatch]:
    """The names of the descriptors that workers with these settings can take over, and what tells whether they fit.

    `public` is what peers send to, if that is another address.
    """
    device, count = settings.device, _count(settings)
    queue = partial(tap.mismatch, name=device, multi=count > 1)
    receiver = partial(udp.mismatch, port=settings.overlay.port, vrf=underlay.vrf)
    sender = partial(udp.mismatch, address=underlay.address, vrf=underlay.vrf)
    addresses: dict[Role, Address] = {"receive": underlay.address}
    if public != underlay.address:
        addresses["public"] = public
    return {
        **{name_of("tap", device, number): queue for number in range(count)},
        **{
            name_of(role, device, number): partial(receiver, address=address)
            for role, address in addresses.items()
            for number in range(count)
        },
        **{name_of("send", device, number): sender for number in range(_senders(settings))},
    }


class Workers:
    """All workers of a node. Opens devices and sockets at once, as far as `take` has none of an earlier process.

    StartError names what stands in the way. `descriptors` are those that a later process can take over, by name.
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
        self.count = _count(settings)
        self.workers: list[Worker] = []
        self._loop = asyncio.get_running_loop()
        self._on_tap_lost = on_tap_lost
        self._on_refused = on_refused
        self._on_too_big = on_too_big
        self._too_big_told = False
        self._device = settings.device
        self._public: list[socket.socket] = []
        self._wanted = settings.datapath.offloads
        shared = self.count > 1
        with ExitStack() as stack:
            device = settings.device
            stack.enter_context(closing(claim(device)))
            stack.callback(self._close_public)
            taps = [stack.enter_context(closing(self._open_tap(take("tap", number)))) for number in range(self.count)]
            ports, outer = settings.underlay.source_ports, settings.outer
            first = Udp(
                underlay.address,
                settings.overlay.port,
                ports,
                COMPILED,
                shared,
                take,
                outer,
                underlay.vrf,
                segment=self._wanted.wants("udp_segment"),
                gro=self._wanted.wants("udp_gro"),
            )
            sockets = [stack.enter_context(closing(first))]
            sockets += [
                stack.enter_context(closing(first.sibling(take("receive", number)))) for number in range(1, self.count)
            ]
            for number, (queue, sock) in enumerate(zip(taps, sockets, strict=True)):
                worker = Worker(number, queue, sock, self._build_pump(settings, mac, number, queue, sock))
                stack.callback(worker.close)
                self.workers.append(worker)
            self.source_ports = [int(sender.getsockname()[1]) for sender in first.senders]
            self._udp = first
            self._receivers = [each.receiver for each in sockets]
            self._descriptors = {
                **{name_of("tap", device, number): each.fd for number, each in enumerate(taps)},
                **{name_of("receive", device, number): each.receiver.fileno() for number, each in enumerate(sockets)},
                **{name_of("send", device, number): each.fileno() for number, each in enumerate(first.senders)},
            }
            self.offloads = {
                "tso": taps[0].tso,
                "uso": taps[0].uso,
                "udp_segment": first.max_datagrams,
                "udp_gro": first.gro,
                "join_tcp": COMPILED and self._wanted.wants("join_tcp"),
                "join_udp": COMPILED and self._wanted.wants("join_udp") and taps[0].takes_udp,
            }
            self._keep, self._kept = taps[0].keep, False  # its descriptor's number outlives a lost device
            self._heed_path_mtus = first.heed_path_mtus
            self._resources = stack.pop_all()
        self.telemetry = DeviceTelemetry([worker.pump for worker in self.workers])
        self._refusals = Refusals([worker.pump for worker in self.workers])

    def _build_pump(self, settings: Settings, mac: Mac, number: int, tap: Tap, udp: Udp) -> Pump:
        vni = settings.overlay.vni
        return Pump(
            tap.fd,
            udp,
            Encap(vni, settings.underlay.source_ports, settings.outer),
            Decap(vni, mac.value, settings.security.source_check),
            Coalescer(
                tcp=COMPILED and self._wanted.wants("join_tcp"),
                udp=COMPILED and self._wanted.wants("join_udp") and tap.takes_udp,
                takes_tcp=not self._wanted.is_off("join_tcp"),
                takes_udp=not self._wanted.is_off("join_udp") and tap.takes_udp,
            ),
            Table((), settings.overlay.port),
            partial(self._tap_lost, number),
            settings.datapath.busy_poll_us,
            self._refused,
            self._found_too_big,
        )

    def start(self, *, receive: bool = True) -> None:
        """Frames move from now on; those from the underlay only after receive(), unless `receive`.

        The device stays when this process ends.
        """
        self._keep()
        self._kept = True
        for worker in self.workers:
            worker.start(receive=receive)

    def receive(self) -> None:
        """Read the receiving sockets from now on."""
        for worker in self.workers:
            worker.receive()

    def pause(self) -> None:
        """Leave in the receiving sockets what comes, until receive()."""
        for worker in self.workers:
            worker.pause()

    def tap_misfit(self) -> str:
        """Why the queue in use is none of this namespace's TAP of that name; empty if it is one."""
        try:
            return tap.mismatch(self.workers[0].tap, self._device, self.count > 1)
        except OSError as exc:
            return exc.strerror or str(exc)

    async def renew_taps(self) -> None:
        """Move every worker to a queue of the TAP as it is now, made where there is none. StartError.

        Counters, captures and descriptor numbers stay. A device that has left its name or namespace goes for good.
        """
        with ExitStack() as stack:
            queues = [stack.enter_context(closing(self._open_tap())) for _ in self.workers]
            self.pause()
            for worker, queue in zip(self.workers, queues, strict=True):
                tap.abandon(worker.tap)
                await worker.take_tap(queue.fd)
            if self._kept:
                self._keep()

    async def answer(self) -> None:
        """Return when every thread, once started, has had time for more than frames."""
        for worker in self.workers:
            await worker.answer()

    def close(self) -> None:
        """End the threads, then close sockets and TAP queues; the device stays if they were started."""
        self._resources.close()

    def set_table(self, table: Table) -> None:
        """Decide by `table` from each worker's next burst on."""
        for worker in self.workers:
            worker.pump.table = table
        self.telemetry.tidy()

    @property
    def limits(self) -> Limits:
        """What the ways to the VTEPs of the table carry, as is decided by now."""
        return self.workers[0].pump.limits

    @property
    def table(self) -> Table:
        """What is decided by now."""
        return self.workers[0].pump.table

    def set_limits(self, limits: Limits) -> None:
        """Take what the ways to the VTEPs of the table carry, from each worker's next burst on."""
        for worker in self.workers:
            worker.pump.limits = limits

    def heed_path_mtus(self, heeded: bool) -> None:
        """Have datagrams go by the kernel's path MTUs, or by the interface's MTU alone, as Udp.heed_path_mtus."""
        self._heed_path_mtus(heeded)

    def set_source_check(self, wanted: SourceCheck) -> None:
        """Check senders as far as `security.source_check` says."""
        for worker in self.workers:
            worker.pump.check_source = wanted

    @property
    def descriptors(self) -> Mapping[str, int]:
        """Those that a later process can take over, by name."""
        public = {name_of("public", self._device, at): sock.fileno() for at, sock in enumerate(self._public)}
        return self._descriptors | public

    async def serve(self, address: Address | None, take: TakeFd = nothing) -> None:
        """Receive at this address too, instead of the one served before; None: at none.

        This node need not have the address yet. OSError or StartError where it cannot be bound: all stays as it was.
        """
        opened: list[socket.socket] = []
        try:
            if address is not None:
                shared = self.count > 1
                opened.extend(
                    self._udp.public(address, take("public", at), first=at == 0, shared=shared)
                    for at in range(self.count)
                )
        except BaseException:
            for sock in opened:
                sock.close()
            raise
        for worker, public in zip_longest(self.workers, opened):
            await worker.serve(public)
        self._close_public()
        self._public = opened

    def _close_public(self) -> None:
        for sock in self._public:
            sock.close()

    def directions(self) -> Mapping[str, Direction]:
        """What all workers have done together, by direction."""
        pumps = [worker.pump for worker in self.workers]
        return by_direction(
            {"encap": Direction.of(pump.encap_counters), "decap": Direction.of(pump.decap_counters)} for pump in pumps
        )

    def queues(self) -> list[SocketQueue]:
        """The receiving sockets' queues; empty where the kernel does not tell."""
        found = [udp.receive_queue(receiver) for receiver in (*self._receivers, *self._public)]
        return [SocketQueue(*queue) for queue in found if queue is not None]

    def new_errnos(self) -> Mapping[str, int]:
        """Return the errno of a refusal since the last call, by direction; a direction without one is left out."""
        return self._refusals.new_errnos()

    def _tap_lost(self, number: int, code: int) -> None:
        worker = self.workers[number]
        if worker.lost:  # and told: until there is a new one, each burst finds it again
            return
        worker.leave_tap()
        self._loop.call_soon_threadsafe(self._on_tap_lost, code)

    def _open_tap(self, inherited: int | None = None) -> Tap:
        """Open one more queue of the device, with the offloads that are wanted."""
        tso, uso = self._wanted.wants("tso"), self._wanted.wants("uso")
        return Tap(self._device, COMPILED, self.count > 1, inherited, tso=tso, uso=uso)

    def _refused(self, offload: str, why: str) -> None:
        self._loop.call_soon_threadsafe(self._on_refused, offload, why)

    def _found_too_big(self) -> None:
        if not self._too_big_told:  # else the loop has still to hear of the last one
            self._too_big_told = True
            self._loop.call_soon_threadsafe(self._too_big)

    def _too_big(self) -> None:
        self._too_big_told = False
        self._on_too_big()


def _senders(settings: Settings) -> int:
    return udp.sender_count(settings.outer, settings.underlay.source_ports)


def _count(settings: Settings) -> int:
    return settings.datapath.worker_count() if COMPILED else 1
