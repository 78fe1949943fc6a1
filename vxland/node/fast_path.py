"""The fast path of one plane: whether there can be one, and its programs, fed while the node runs.

It begins when the device has been set up, and follows table, routes and devices from then on. When the node stops, the
programs stay and carry on; the next process replaces them. remove() takes them away.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from platform import release
from typing import Final

import structlog

from vxland.config import Settings
from vxland.datapath.limits import Limits
from vxland.fastpath import programs
from vxland.fastpath.choice import (
    BEAT_S,
    FLOOD,
    CpuShortage,
    Surroundings,
    carries_superframes,
    may_carry_superframes,
    why_not,
)
from vxland.fastpath.layout import ProgramSettings
from vxland.fastpath.libbpf import UNREADABLE, BpfError
from vxland.fastpath.programs import NOTHING, Carried, Programs
from vxland.forwarding.counts import Direction, PeerTraffic
from vxland.kernel.cpu import cpu
from vxland.kernel.ipsec import has_policies
from vxland.kernel.packet_sockets import is_watched
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Mac, Vtep
from vxland.model.source_check import SourceCheck
from vxland.netlink.client import Netlink
from vxland.netlink.features import features, is_ethernet

LOOK_BEATS: Final = 50
"""Beats between two looks at routes, devices and policies: 5 s."""

INLINE: Final = 1000
"""VTEPs whose entries are compared on the event loop: that takes 10 ms. More are compared on a thread, a moment later;
and routes are looked up that many times less often."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The properties of a plane that its programs need, at one moment."""

    underlay: Underlay
    mac: Mac
    mtu: int
    limits: Limits
    source_ports: Sequence[int]
    public: Sequence[Address]
    """Further addresses at which the plane receives."""
    check_source: SourceCheck
    problem: str = ""
    """Reason why the device takes no frames now; empty if it does."""


@dataclass(slots=True)
class FastPath:
    """The fast path of the device of `settings`; `read_tunnel()` returns the plane's part of it."""

    settings: Settings
    netlink: Netlink
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
    _devices: Mapping[Address, int] = field(default_factory=dict)
    """The interface to each VTEP."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _captures: int = 0
    _watched: bool = False  # by a packet socket, which counts as a capture
    _tap: int = 0
    _cpu: CpuShortage = field(default_factory=CpuShortage)
    _past: Carried = NOTHING  # by programs that were replaced

    def follow(self) -> None:
        """Follow a change of what `read_tunnel()` returns: what is no longer allowed at once, the rest soon."""
        self._changed.set()
        if self._programs is not None:
            tunnel = self.read_tunnel()
            try:
                self._programs.set(self._program_settings(tunnel))
                if len(tunnel.limits.table.vteps) <= INLINE:
                    self._programs.follow(tunnel.limits, tunnel.mtu, self._devices)
            except BpfError as exc:
                self._switch_off(_explain(exc))

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
            if self._is_short_of_cpu() != self.short_of_cpu:
                self.short_of_cpu = not self.short_of_cpu
                self._changed.set()
            self._follow_watchers()
            vteps = len(self.read_tunnel().limits.table.vteps)
            if beats % (LOOK_BEATS * (1 + vteps // INLINE)) == 0 or self._changed.is_set():
                self._changed.clear()
                await self._look()
            beats += 1
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

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
        self._divert(1)
        try:
            yield
        finally:
            self._divert(-1)

    def _follow_watchers(self) -> None:
        """Leave all frames to the daemon while tcpdump watches the TAP: outgoing ones of programs do not show there."""
        watched = self._programs is not None and is_watched(self._tap)
        if watched != self._watched:
            self._watched = watched
            self._divert(1 if watched else -1)

    def _is_short_of_cpu(self) -> bool:
        now = cpu()
        return self._cpu.follow(now.limit, now.throttled_s, time.monotonic())

    def _divert(self, captures: int) -> None:
        self._captures += captures
        if self._programs is not None:
            self._programs.divert(self._captures > 0)

    @property
    def is_diverted(self) -> bool:
        """True while a capture, of vxlandctl or tcpdump, sends all frames to the daemon."""
        return self._captures > 0

    def targets(self) -> frozenset[Vtep]:
        """Return the VTEPs to which programs send."""
        return frozenset() if self._programs is None else self._programs.targets()

    def senders(self) -> frozenset[Vtep]:
        """Return the VTEPs from which programs receive: they are attached to the interface that leads there."""
        found = frozenset[Vtep]() if self._programs is None else self._programs.senders()
        return frozenset(vtep for vtep in found if vtep.address in self._devices)

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
            devices = await self.netlink.interfaces_to(vtep.address for vtep in tunnel.limits.table.vteps)
            used = {index, *devices.values()}
            ethernet = {each for each in used if is_ethernet(each)}
            below = self.short_of_cpu or all(carries_superframes(features(each)) for each in ethernet)
            self.superframes = below and may_carry_superframes(self.settings.datapath.offloads)
            self._devices = {address: at for address, at in devices.items() if at in ethernet}
            await self._carry(self.read_tunnel())
        except BpfError as exc:
            if exc.errno == errno.ENODEV:
                self._not_followed(exc)
            else:
                self._switch_off(_explain(exc))
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

    async def _carry(self, tunnel: Tunnel) -> None:
        wanted = self._program_settings(tunnel)
        device, running = self.settings.device, self._programs
        if running is None:
            running = await asyncio.to_thread(Programs, device) if self._prepared is None else self._prepared
            self._prepared = None
        try:
            running.set(wanted)
            await asyncio.to_thread(running.follow, tunnel.limits, tunnel.mtu, self._devices)
            used = {tunnel.underlay.index, *self._devices.values()}
            tap, problem = self._find_tap()
            running.attach(tap, used)
            self._tap = tap
            if self._programs is None:  # an earlier process may have had another underlay
                others = {index for index, _ in socket.if_nameindex()} - used - {tap}
                programs.remove(device, others)
        except BaseException:
            if self._programs is None:
                running.close()
            raise
        if self._programs is None:
            self._programs = running
            self._divert(0)
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
        settings, outer, address = self.settings, self.settings.outer, tunnel.underlay.address
        assert isinstance(address, IPv4Address)  # noqa: S101  (why_not() has refused others)
        public = [each for each in tunnel.public if isinstance(each, IPv4Address)]
        return ProgramSettings(
            vni=settings.overlay.vni,
            address=address,
            public=public[0] if public else address,
            port=settings.overlay.port,
            ports=tunnel.source_ports,
            mtu=tunnel.mtu,
            mac=tunnel.mac,
            ttl=outer.ttl or 0,
            tos=(outer.dscp or 0) << 2,
            tos_bits=0xFF if outer.dscp is None else 0x03,
            df=("unset", "set", "inherit").index(outer.df),
            check_source=tunnel.check_source,
            superframes=self.superframes,
            aggregates=self.short_of_cpu,
            flood=0xFFFF_FFFF if self.short_of_cpu else FLOOD,
            unattended_ns=settings.datapath.fast_path_unattended_s * 1_000_000_000,
        )

    def _switch_off(self, reason: str) -> None:
        if reason != self.off:
            self.remove()
            self._note(reason)


def surroundings(settings: Settings, underlay: Underlay, *, has_address: bool = True) -> Surroundings:
    """Return what the fast path depends on, as it is on this machine now."""
    return Surroundings(
        wanted=settings.datapath.fast_path == "auto",
        elsewhere=underlay.elsewhere,
        address_version=underlay.address.version,
        is_ethernet=is_ethernet(underlay.index),
        in_vrf=underlay.vrf != 0,
        has_ipsec=has_policies(),
        little_endian=sys.byteorder == "little",
        has_address=has_address,
    )


def why_not_here(settings: Settings, underlay: Underlay) -> str:
    """Return the reason why the programs could not run; empty if the kernel loads them. Nothing is attached."""
    if reason := why_not(surroundings(settings, underlay)):
        return reason
    try:
        Programs(settings.device).close()
    except BpfError as exc:
        return _explain(exc)
    return ""


def removed(device: str) -> bool:
    """Detach the programs of an overlay device from every interface; return whether there were any."""
    try:
        return programs.remove(device, [index for index, _ in socket.if_nameindex()])
    except BpfError as exc:
        log.warning("fast_path_not_removed", device=device, error=str(exc))
        return False


def _explain(exc: BpfError) -> str:
    if exc.errno == 0:
        return f"{exc.what}: install the package libbpf1 (Alpine: libbpf)"
    if exc.what == UNREADABLE and exc.errno == errno.EPERM:
        return f"{exc}: a filter of system calls refuses memfd_create to libbpf; start vxland again, or allow the call"
    if exc.errno in (errno.EPERM, errno.EACCES) and not exc.log:
        return f"{exc}: vxland needs the capabilities BPF and NET_ADMIN, outside of user namespaces"
    return f"{exc}, on Linux {release()}; the fast path needs 5.13 with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS"
