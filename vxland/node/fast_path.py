"""The fast path of one plane: whether there can be one, and its programs, fed while the node runs.

It begins when the device has been set up, and follows owners, routes and devices from then on. When the node stops, the
programs stay and carry on; the next process replaces them. remove() takes them away.

A change of leases writes the entries that it changes, and no others. New VTEPs get theirs once the routes to them have
been looked up, which is done within a beat.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from vxland.config import Settings
from vxland.datapath.owners import OwnerChange, Owners
from vxland.fastpath import programs
from vxland.fastpath.choice import (
    BEAT_S,
    CpuShortage,
    carries_superframes,
    may_carry_superframes,
    why_not,
)
from vxland.fastpath.layout import ProgramSettings
from vxland.fastpath.libbpf import BpfError
from vxland.fastpath.programs import NOTHING, Carried, Programs
from vxland.forwarding.counts import Direction, PeerTraffic
from vxland.kernel.cpu import cpu_limit
from vxland.model.errors import VxlandError
from vxland.model.lease import Address, Vtep
from vxland.model.slices import in_slices
from vxland.model.steps import at_once
from vxland.netlink.client import Netlink
from vxland.netlink.features import features, is_ethernet
from vxland.node.diversion import Diversion
from vxland.node.peer_routes import PeerRoutes
from vxland.node.surroundings import explain, surroundings
from vxland.node.tunnel import Tunnel, program_settings

LOOK_BEATS: Final = 50
"""Beats between two looks at devices and policies: 5 s."""

CPU_BEATS: Final = 4
"""Beats between two looks at the CPU time: longer than WINDOW_S."""

log = structlog.get_logger()


@dataclass(slots=True)
class FastPath:
    """The fast path of the device of `settings`; `read_tunnel()` returns the plane's part of it.

    `owners` change only while somebody holds `following`.
    """

    settings: Settings
    netlink: Netlink
    owners: Owners
    following: asyncio.Lock
    read_tunnel: Callable[[], Tunnel]
    read_drained: Callable[[], Awaitable[tuple[int, int]]]
    """Returns the times since which no earlier packet is in the daemon's queues, of encap and decap; 0: some may be."""
    off: str = "vxland has not set up the device yet"
    """Reason why there is none; empty while there is one."""
    superframes: bool = False
    """True if programs encapsulate superframes too."""
    short_of_cpu: bool = False
    """True while the daemon gets so little CPU time that programs take all that they can."""
    _programs: Programs | None = None
    _prepared: Programs | None = None
    """Loaded and not yet attached."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _diversion: Diversion = field(init=False)
    _routes: PeerRoutes = field(init=False)
    _tap: int = 0
    _used: frozenset[int] = frozenset()
    _cpu: CpuShortage = field(default_factory=CpuShortage)
    _past: Carried = NOTHING  # by programs that were replaced

    def __post_init__(self) -> None:
        """Watch what changes the programs."""
        self._diversion = Diversion(self._divert)
        self._routes = PeerRoutes(self.netlink, self.owners)

    def follow(self) -> None:
        """Follow a change of what `read_tunnel()` returns: what is no longer allowed at once, the rest soon."""
        self._changed.set()
        if self._programs is not None:
            tunnel = self.read_tunnel()
            try:
                self._programs.set(self._program_settings(tunnel))
                at_once(self._programs.set_limits(tunnel.narrow, tunnel.mtu))
            except BpfError as exc:
                self._switch_off(explain(exc))

    async def follow_owners(self, change: OwnerChange) -> None:
        """Follow a change of `owners`, while `following` is held until this returns."""
        gone = await in_slices(self._routes.follow(change))
        if self._programs is None:
            return
        try:
            await in_slices(self._programs.follow(self.owners, change))
            await in_slices(self._programs.set_devices(gone))
        except BpfError as exc:
            self._switch_off(explain(exc))

    async def live(self) -> None:
        """Give signs of life, and report empty queues, until cancelled, however long a look takes."""
        while True:
            if self._programs is not None:
                self._programs.beat()
                drained = await self.read_drained()
                if self._programs is not None:
                    self._programs.drained(*drained)
            await asyncio.sleep(BEAT_S)

    async def prepare(self) -> None:
        """Load the programs that replace those of an earlier process. To be called before there are sockets.

        Loading takes the kernel up to a second. Meanwhile the old programs carry everything, as without a daemon.
        """
        if self.settings.datapath.fast_path == "auto" and programs.are_attached(self.settings.device):
            try:
                self._prepared = await asyncio.to_thread(Programs, self.settings.device)
            except BpfError as exc:
                log.debug("fast_path_not_prepared", device=self.settings.device, error=str(exc))

    async def take_over(self) -> None:
        """Replace the programs of an earlier process. To be called before the first frame moves.

        Those know nothing of this process, and would carry packets whose predecessors wait in its queues.
        """
        if self._prepared is not None:
            await self._look()

    async def run(self, ready: asyncio.Event) -> None:
        """Begin once `ready` is set, and follow until cancelled."""
        await ready.wait()
        if self.settings.datapath.fast_path == "off":  # a change needs a restart
            await self._look()
            await asyncio.Event().wait()
        beats = 0
        while True:
            if beats % CPU_BEATS == 0 and self._is_short_of_cpu() != self.short_of_cpu:
                self.short_of_cpu = not self.short_of_cpu
                self._changed.set()
            self._diversion.follow(self._tap if self._programs is not None else 0)
            due = self._programs is not None and self._routes.are_due
            if beats % LOOK_BEATS == 0 or self._changed.is_set() or due:
                self._changed.clear()
                await self._look()
            beats += 1
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def watch_routes(self) -> None:
        """Look at all routes after events of netlink, until cancelled."""
        await self._routes.watch(lambda: (self._tap, self._used))

    def close(self) -> None:
        """Leave the programs to themselves."""
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None
        if self._programs is not None:
            self._past = self.carried()
            self._programs.close()
            self._programs = None
            self.off = "vxland ends"

    def remove(self) -> None:
        """Detach the programs from every interface."""
        self.close()
        removed(self.settings.device)

    @contextmanager
    def diverted(self) -> Iterator[None]:
        """Leave all frames to the daemon meanwhile, for a capture."""
        with self._diversion.capture():
            yield

    def _is_short_of_cpu(self) -> bool:
        limit, throttled_s, _ = cpu_limit()
        return self._cpu.follow(limit, throttled_s, time.monotonic())

    def _divert(self, wanted: bool) -> None:
        if self._programs is not None:
            self._programs.divert(wanted)

    @property
    def is_diverted(self) -> bool:
        """True while a capture, of vxlandctl or tcpdump, sends all frames to the daemon."""
        return self._diversion.is_on

    def sends_to(self, vtep: Vtep) -> bool:
        """Return whether programs send to a VTEP."""
        return self._programs is not None and self._programs.is_target(vtep)

    def receives_from(self, vtep: Vtep) -> bool:
        """Return whether programs receive from a VTEP: they are attached to the interface that leads there."""
        return self._programs is not None and vtep.address in self._routes.devices and self._programs.is_sender(vtep)

    def carried(self) -> Carried:
        """Return the frames and bytes that programs have carried since the start: of encap, then of decap."""
        now = NOTHING if self._programs is None else self._programs.carried()
        return (self._past[0] + now[0], self._past[1] + now[1], self._past[2] + now[2], self._past[3] + now[3])

    def directions(self) -> Mapping[str, Direction]:
        """Return the same by direction, as counters of the data path."""
        frames_out, bytes_out, frames_in, bytes_in = self.carried()
        return {
            "encap": Direction({"frames": frames_out, "bytes": bytes_out}, {}),
            "decap": Direction({"frames": frames_in, "bytes": bytes_in}, {}),
        }

    def peers(self) -> Mapping[Vtep, PeerTraffic]:
        """Return what they have carried to and from each VTEP."""
        if self._programs is None:
            return {}
        return {vtep: PeerTraffic(*carried) for vtep, carried in self._programs.peers().items()}

    def fill(self) -> Mapping[str, int]:
        """Return the number of entries of each map; empty without programs."""
        return {} if self._programs is None else self._programs.fill()

    async def _look(self) -> None:
        """Compare everything that the programs depend on, and act on what has changed."""
        async with self._looking:  # two would both load programs, and feed those that are not attached
            await self._compare()

    async def _compare(self) -> None:
        tunnel = self.read_tunnel()
        index, address = tunnel.underlay.index, tunnel.underlay.address
        has_address = await self._has(address, tunnel.underlay.vrf)
        if reason := why_not(surroundings(self.settings, tunnel.underlay, has_address=has_address)):
            self._switch_off(reason)
            return
        try:
            if self._programs is None and self._prepared is None:
                self._prepared = await asyncio.to_thread(Programs, self.settings.device)
            devices = await self._routes.look_up()
            found = {index, *self._routes.devices.values(), *devices.values()}
            ethernet = {each for each in found if each is not None and is_ethernet(each)}
            below = self.short_of_cpu or all(carries_superframes(features(each)) for each in ethernet)
            self.superframes = below and may_carry_superframes(self.settings.datapath.offloads)
            async with self.following:
                await self._carry(await in_slices(self._routes.take(devices)))
        except BpfError as exc:
            if exc.errno == errno.ENODEV:
                self._not_followed(exc)
            else:
                self._switch_off(explain(exc))
        except (OSError, VxlandError) as exc:
            self._not_followed(exc)

    def _not_followed(self, exc: Exception) -> None:
        """Log that the device, an underlay interface or a route changed at this moment; the next look follows."""
        log.debug("fast_path_not_followed", device=self.settings.device, error=str(exc))

    async def _has(self, address: Address, vrf: int) -> bool:
        try:
            return await self.netlink.is_local(address, vrf)
        except VxlandError:  # not known at this moment
            return True

    async def _carry(self, devices: Mapping[Address, int | None]) -> None:
        """Have programs carry what the owners allow, through these interfaces to VTEPs that are new or have moved."""
        is_new, running = self._programs is None, self._programs or self._prepared
        if running is None:  # switched off meanwhile
            return
        tunnel = self.read_tunnel()
        try:
            running.set(self._program_settings(tunnel))
            await in_slices(running.set_limits(tunnel.narrow, tunnel.mtu))
            await in_slices(running.set_devices(self._routes.devices if is_new else devices))
            if is_new:
                await in_slices(running.follow(self.owners, await in_slices(self.owners.whole())))
            if running not in {self._programs, self._prepared}:  # switched off meanwhile
                return
            used = {tunnel.underlay.index, *self._routes.devices.values()}
            tap, problem = self._find_tap()
            running.attach(tap, used)
            self._tap, self._used = tap, frozenset(used)
            if is_new:  # an earlier process may have had another underlay
                others = {index for index, _ in socket.if_nameindex()} - used - {tap}
                programs.remove(self.settings.device, others)
        except BaseException:
            if is_new:
                running.close()
                self._prepared = None
            raise
        if is_new:
            self._programs, self._prepared = running, None
            self._diversion.apply()
        self._note(problem)

    def _find_tap(self) -> tuple[int, str]:
        """Return the interface index of the TAP; 0 and the reason while frames to the device would be lost.

        Another program's device may have the name. So the TAP is compared after the index has been looked up: at that
        moment no other device has its name.
        """
        device = self.settings.device
        try:
            index = socket.if_nametoindex(device)
        except OSError:
            return 0, f"{device} is missing"
        problem = self.read_tunnel().problem
        return (0, problem) if problem else (index, "")

    def _note(self, off: str) -> None:
        """Log a change of the reason why programs do not carry."""
        if off != self.off:
            self.off = off
            if not off:
                log.info("fast_path_on", device=self.settings.device, superframes=self.superframes)
            elif self.settings.datapath.fast_path == "auto":
                log.info("fast_path_off", device=self.settings.device, reason=off)

    def _program_settings(self, tunnel: Tunnel) -> ProgramSettings:
        return program_settings(self.settings, tunnel, superframes=self.superframes, short_of_cpu=self.short_of_cpu)

    def _switch_off(self, reason: str) -> None:
        if reason != self.off:
            self.remove()
            self._note(reason)


def removed(device: str) -> bool:
    """Detach the programs of an overlay device from every interface; return whether there were any."""
    try:
        return programs.remove(device, [index for index, _ in socket.if_nameindex()])
    except BpfError as exc:
        log.warning("fast_path_not_removed", device=device, error=str(exc))
        return False
