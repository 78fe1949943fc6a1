"""One overlay device and all that belongs to it: TAP, sockets, workers, table, and the kernel state beside it.

A static node has one plane, for all its networks. A node of a flannel cluster has one for each family, as flannel has
(flannel.N over the IPv4 underlay, flannel-v6.N over the IPv6 one), with the same VNI and port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface, ip_network

import structlog

from vxland.config import Settings
from vxland.datapath.limits import Limits
from vxland.datapath.table import Table
from vxland.firewall.forward_check import ForwardCheck
from vxland.firewall.programs import FirewallPrograms
from vxland.forwarding.io.fdstore import Inherited, Mismatch, TakeFd, nothing
from vxland.forwarding.workers import Workers, expected
from vxland.kernel.kernel_drops import QueueDrops, bad_checksums, lost_below
from vxland.kernel.stable_mac import machine_mac
from vxland.model.errors import ConfigError, StartError
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep
from vxland.model.mtu import OVERHEAD
from vxland.model.shortage import shortage
from vxland.netlink.client import Netlink
from vxland.netlink.port_owner import unopened
from vxland.node.path_mtu_kernel import Paths
from vxland.node.recovery import Recovery
from vxland.node.rival import RivalWatch
from vxland.node.sample import DeviceSample, Reconciling
from vxland.node.source_filter import SourceFilter
from vxland.ops import notify as manager
from vxland.probes import ProbedTunnel, Prober
from vxland.reconcile.path_mtu import PathMtus
from vxland.reconcile.plan import Want
from vxland.reconcile.public_address import PublicAddress
from vxland.reconcile.reconciler import Reconciler

_BUILT_AT_ONCE = 1000
"""Leases whose table is built at once: that takes 20 ms. A larger one is built on a thread, so that the loop has turns:
16,000 leases take half a second."""

log = structlog.get_logger()


class Plane:
    """The device of `settings`, over `underlay`, which `ways` follows once it is open.

    `on_mtu()` is called when `mtu` is another one; it may raise StartError. `published()` are this node's leases.
    `overwrites` are the addresses that the store has peers send to in place of ours, by IP version, before that.
    """

    def __init__(
        self,
        settings: Settings,
        underlay: Underlay,
        on_mtu: Callable[[], None],
        published: Callable[[], Iterable[Lease]] = tuple,
        overwrites: Mapping[int, Address] | None = None,
        *,
        direct: bool = False,
    ) -> None:
        self.settings = settings
        self.underlay = underlay
        self.mtu = settings.overlay_mtu(underlay.mtu, underlay.address.version)
        self.versions = frozenset(network.version for network in settings.networks)
        self.given_up: dict[str, str] = {}
        """Offloads that the kernel has refused since they were opened, and why."""
        self._on_mtu = on_mtu
        self._published = published
        self._overwrite = (overwrites or {}).get(underlay.address.version)
        self.direct = direct and not underlay.vrf  # a direct route is of table main, whose packets no VRF takes
        self._following = asyncio.Lock()
        self._leases: frozenset[Lease] | None = None
        self._nats: Mapping[Address, tuple[Subnet, ...]] = {}
        self.own: tuple[Subnet, ...] = ()
        self.former: tuple[Subnet, ...] = ()
        self.former_networks: tuple[Subnet, ...] = ()
        self.bases: dict[int, Address] = {}
        """The overlay address of the node itself, by IP version."""

    def expected(self) -> dict[str, Mismatch]:
        """What open() can take over of an earlier process: names, and what tells whether it fits."""
        return expected(self.settings, self.underlay, self.published)

    async def open(
        self,
        stack: AsyncExitStack,
        inherited: Inherited,
        recall: Callable[[], Awaitable[Mac | None]],
        rival: RivalWatch | None = None,
    ) -> None:
        """Open device and sockets, to be closed with `stack`; nothing moves yet. StartError names what is in the way.

        The MAC is the configured one, or the one that peers know, or the device's, or one that a reboot keeps. In a
        flannel cluster, which has a `rival`, a kernel vxlan device of the same name gives way once no flanneld runs
        here, as flanneld replaces a device of another kind: it is what flanneld left on this node.
        """
        settings, underlay = self.settings, self.underlay
        self._netlink = stack.enter_context(closing(Netlink()))
        self.reconciler = Reconciler(self._netlink)
        link = (await self._netlink.read(settings.device, settings.networks)).link
        ours = {"tun"} if rival is None else {"tun", "vxlan"}
        existing = link.mac if link is not None and link.kind in ours else None
        self._was_up = link is not None and link.kind == "tun" and link.up
        await self._make_room(rival, in_use=False)
        recalled = await recall()  # a flanneld that has just ended may have published another
        self.mac = settings.overlay.mac or recalled or existing or machine_mac(underlay.address, settings.device)
        paths = stack.enter_context(closing(Paths(underlay.address, settings.overlay.port, underlay.vrf)))
        self.ways = PathMtus(paths, underlay, self._ways_changed, _icmp_counts(settings, underlay))
        self.workers = stack.enter_context(closing(await self._open_workers(inherited.of(settings.device))))
        self.recovery = Recovery(
            settings.device,
            self.workers,
            self.reconciler,
            partial(self._make_room, rival, in_use=True),
            self._renewed,
        )
        self.reconciler.on_missing = self.recovery.missed
        self.source_filter = SourceFilter(settings, underlay.address)
        await self.source_filter.prepare(stack)
        self.queues = QueueDrops(
            settings.device,
            underlay.address.version,
            lambda: sum(queue.dropped for queue in self.workers.queues()),
            lambda: self.source_filter.dropped,
        )
        self._take: TakeFd | None = inherited.of(settings.device)  # until the first look
        is_local = partial(self._netlink.is_local, vrf=underlay.vrf)
        self.public = PublicAddress(settings.device, underlay.address, lambda: self.published, self._serve, is_local)
        await self.public.look()
        self._take = None
        tunnel = ProbedTunnel(
            settings.overlay.vni,
            settings.overlay.port,
            self.mac,
            underlay.address,
            self.bases,
            self.workers.telemetry,
            underlay.vrf,
        )
        self.prober = Prober(settings.device, self.mtu, tunnel, lambda: self.reconciler.on_link)
        self.prober.set_interval(settings.probe.interval_s)
        to_pods = self._netlink.interface_to
        self.forwarding = ForwardCheck(settings.device, settings.networks, FirewallPrograms(), to_pods)
        log.info(
            "devices_open",
            device=settings.device,
            mac=str(self.mac),
            mtu=self.mtu,
            underlay=underlay.interface,
            address=str(underlay.address),
            port=settings.overlay.port,
            workers=self.workers.count,
            **self.workers.offloads,
        )

    @property
    def advertised(self) -> Address:
        """The address that this node publishes."""
        return self.settings.underlay.public_address or self.underlay.address

    @property
    def published(self) -> Address:
        """The address that peers send to, once it is published: what advertised is, or what the store has instead."""
        own = (lease.vtep.address for lease in self._published() if lease.subnet.version in self.versions)
        return next(own, self._overwrite or self.advertised)

    async def _serve(self, public: Address | None) -> None:
        """Receive at this address too. StartError."""
        before = [name for name in self.workers.descriptors if name.startswith("public/")]
        try:
            await self.workers.serve(public, self._take or nothing)
        except OSError as exc:
            raise await unopened(self._netlink, self.settings.overlay.port, exc) from exc
        self.source_filter.cover(public)
        if self._take is None and manager.wanted():
            await asyncio.to_thread(manager.forget, before)
            manager.store({name: fd for name, fd in self.workers.descriptors.items() if name.startswith("public/")})

    @property
    def address_is_fixed(self) -> bool:
        """Whether the settings name the address that is bound, so that no other may take its place."""
        named = self.settings.underlay
        return self.underlay.address in {named.address, named.public_address}

    @property
    def vtep(self) -> Vtep:
        """What peers are told of this plane."""
        return Vtep(self.advertised, self.mac)

    @property
    def not_ready(self) -> str:
        """Why frames cannot move yet; empty if they can."""
        if self._leases is None:
            return "the leases are not known yet"
        if self.recovery.problem:
            return self.recovery.problem
        if not self.reconciler.tried.is_set():
            return f"{self.settings.device} has not been set up yet"
        return self.reconciler.link_problem

    def start(self) -> None:
        """Frames move from now on.

        Those from the underlay wait for settled() where the device is new: the kernel takes none before it is up, and
        none whose way back has no route yet (rp_filter).
        """
        self.workers.start(receive=self._was_up)

    async def settled(self) -> None:
        """Return once the device has been set up, as far as that was possible."""
        await self.reconciler.tried.wait()
        self.workers.receive()

    async def usable_addresses(self) -> Mapping[Address, Collection[int]]:
        """What a VTEP of this node can be bound to now, and on which interfaces. KernelRefusedError."""
        return await self._netlink.usable_addresses()

    async def taken_addresses(self) -> frozenset[Address]:
        """What no VTEP of another node can have now. KernelRefusedError."""
        return await self._netlink.taken_addresses()

    def measured(self) -> DeviceSample:
        """What metrics show of the device now."""
        counters = self.reconciler.counters
        return DeviceSample(
            name=self.settings.device,
            offloads={
                name: int(got) > (name == "udp_segment") and name not in self.given_up
                for name, got in self.workers.offloads.items()
            },
            peers=self.workers.telemetry.peers(),
            sockets=self.workers.queues(),
            underlay_mtu=self.underlay.mtu,
            narrower=len(self.ways.narrower),
            disbelieved=len(self.ways.distrusted),
            not_forwarded=len(self.forwarding.problems),
            tap_dropped=self.queues.at_tap,
            underlay_dropped=lost_below(self.underlay.address.version),
            socket_full=self.queues.by_direction()["decap"]["socket_queue_full"],
            bad_checksums=bad_checksums(self.underlay.address.version),
            filtered=self.source_filter.dropped,
            reconciling=Reconciling(
                passes=counters.passes,
                failed_reads=counters.failed_reads,
                actions={(verb, cause): count for (verb, cause), count in tuple(counters.mended.items())},
                errors=dict(counters.failed),
                pending=counters.pending,
            ),
            probing=self.prober.probing(),
        )

    def hold(self, own: Collection[Subnet], former: Iterable[Subnet], former_networks: Iterable[Subnet]) -> None:
        """Take the subnets that this node holds, and those that it held before, in which networks."""
        self.former_networks = tuple(network for network in former_networks if network.version in self.versions)
        held = frozenset(own)  # by all planes
        self.own = self.forwarding.own = tuple(subnet for subnet in own if subnet.version in self.versions)
        self.former = tuple(subnet for subnet in former if subnet not in held)
        self.bases |= {subnet.version: subnet.network_address for subnet in self.own}

    async def follow(self, leases: Iterable[Lease], nats: Mapping[Address, tuple[Subnet, ...]]) -> bool:
        """Take the peers' leases: the data path first, then the kernel, so that no route leads to an unknown VTEP.

        Return whether that changed anything. `nats` are where datagrams of VTEPs may come from, beside what the leases
        tell. Calls take effect in order.
        """
        async with self._following:
            held = tuple(leases)
            built = (
                await asyncio.to_thread(self._build, held, nats)
                if len(held) > _BUILT_AT_ONCE
                else self._build(held, nats)
            )
            if built is None:
                return False
            mine, known, table = built
            self._leases, self._nats = mine, nats
            self.workers.set_table(table)
            self.ways.set_vteps(lease.vtep.address for lease in mine)
            self._set_limits()
            own = (ip_network(lease.vtep.address) for lease in mine)
            self.source_filter.admit({*own, *(source for lease in known for source in lease.sources)})
            self._set_want(mine)
            return True

    def _build(
        self, leases: Iterable[Lease], nats: Mapping[Address, tuple[Subnet, ...]]
    ) -> tuple[frozenset[Lease], frozenset[Lease], Table] | None:
        """Return the leases of this plane, the same with all sources, and their table; None if nothing changed."""
        mine = frozenset(
            lease
            for lease in leases
            if lease.subnet.version in self.versions and lease.vtep.address.version == self.underlay.address.version
        )
        if (mine, nats) == (self._leases, self._nats):
            return None
        known = frozenset(replace(lease, sources=lease.sources + nats.get(lease.vtep.address, ())) for lease in mine)
        return mine, known, Table(known, self.settings.overlay.port)

    def _set_want(self, peers: frozenset[Lease]) -> None:
        want = Want(
            device=self.settings.device,
            mtu=self.mtu,
            mac=self.mac,
            addresses=frozenset(ip_interface(subnet.network_address) for subnet in self.own),
            networks=self.settings.networks,
            peers=peers,
            direct=self.direct,
            blackholes=self.own if self.settings.firewall.blackhole else (),
            former=self.former,
            former_networks=self.former_networks,
        )
        self.reconciler.set_want(want)
        self.prober.follow(Lease(subnet, vtep) for subnet, vtep in want.subnets.items())

    def _ways_changed(self) -> None:
        before, self.underlay = self.underlay, self.ways.underlay
        if before.interface != self.underlay.interface:
            log.info(
                "underlay_interface_changed",
                device=self.settings.device,
                interface=self.underlay.interface,
                was=before.interface,
            )
        if before.mtu != self.underlay.mtu:
            self._take_mtu(self.underlay.mtu)
        self.workers.heed_path_mtus(not self.ways.distrusted)
        self._set_limits()

    def _take_mtu(self, underlay_mtu: int) -> None:
        """Follow the interface, as far as the pods' MTU is not a configured one; the pods there are keep theirs."""
        before, problem = self.mtu, ""
        try:
            self.mtu = self.settings.overlay_mtu(underlay_mtu, self.underlay.address.version)
        except ConfigError as exc:
            problem = exc.remedy
        log.warning(
            "underlay_mtu_changed",
            interface=self.underlay.interface,
            device=self.settings.device,
            underlay_mtu=underlay_mtu,
            mtu=self.mtu,
            problem=problem,
        )
        if self.mtu != before:
            self.prober.set_mtu(self.mtu)
            if self._leases is not None:
                self._set_want(self._leases)
            try:
                self._on_mtu()
            except StartError as exc:  # pods to come get the MTU of before
                log.warning("subnet_env_unwritten", cause=exc.cause, remedy=exc.remedy)

    def _set_limits(self) -> None:
        """Tell the data path of the ways that do not carry all that the device may hand out."""
        overhead = OVERHEAD[self.underlay.address.version]
        inner = {vtep: mtu - overhead for vtep, mtu in self.ways.ways.items() if mtu - overhead < self.mtu}
        self.workers.set_limits(Limits(self.workers.table, inner))

    async def _open_workers(self, take: TakeFd) -> Workers:
        try:
            return Workers(
                self.settings,
                self.underlay,
                self.mac,
                self._tap_lost,
                self._refused,
                self.ways.look_soon,
                take,
            )
        except OSError as exc:
            what = f"{self.settings.device} with its sockets"
            raise shortage(exc, what) or await unopened(self._netlink, self.settings.overlay.port, exc) from exc

    def _refused(self, offload: str, why: str) -> None:
        if offload not in self.given_up:  # else by another worker, of the same device
            self.given_up[offload] = why
            log.warning("offload_off", offload=offload, error=why)

    async def _make_room(self, rival: RivalWatch | None, *, in_use: bool) -> None:
        """Delete what flanneld left of our name; RivalError where it is there, or made that of a TAP `in_use`."""
        if rival is None:
            return
        device = self.settings.device
        link = await self._netlink.link(device)
        if link is None or link.kind != "vxlan":
            rival.gone()
            if in_use:  # or its flanneld may be of another network
                await rival.check(device)
            return
        if in_use:
            raise rival.replaced(device, up=link.up)
        await rival.check(device)
        await self._netlink.delete_device_state(device, "vxlan")
        log.warning("kernel_device_replaced", device=device, mac=str(link.mac))

    def _tap_lost(self, code: int) -> None:
        self.recovery.lost(code)

    def _renewed(self) -> None:
        self.queues.renewed()
        self.prober.renewed()


def _icmp_counts(settings: Settings, underlay: Underlay) -> bool:
    """Whether a router can truly say that a datagram of ours is too big: not where it may fragment it."""
    return underlay.address.version == 6 or settings.outer.df != "unset"
