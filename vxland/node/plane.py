"""One overlay device and all that belongs to it: TAP, sockets, workers, table, and the kernel state beside it.

A static node has one plane, for all its networks. A node of a flannel cluster has one for each family, as flannel has
(flannel.N over the IPv4 underlay, flannel-v6.N over the IPv6 one), with the same VNI and port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, closing
from functools import partial
from ipaddress import ip_interface

import structlog

from vxland.config import Settings
from vxland.datapath.limits import Limits
from vxland.datapath.owners import Owners
from vxland.firewall.forward_check import ForwardCheck
from vxland.firewall.programs import FirewallPrograms
from vxland.forwarding.endpoints import expected
from vxland.forwarding.io.fdstore import Inherited, Mismatch, TakeFd
from vxland.forwarding.workers import Workers
from vxland.kernel.kernel_drops import QueueDrops
from vxland.kernel.stable_mac import machine_mac
from vxland.model.errors import StartError
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Change, Lease, Mac, Subnet, Vtep
from vxland.model.mtu import OVERHEAD
from vxland.model.shortage import shortage
from vxland.model.slices import in_slices
from vxland.model.source_check import SourceCheck
from vxland.netlink.client import Netlink
from vxland.netlink.port_owner import unopened
from vxland.node.fast_path import FastPath
from vxland.node.overlay_mtu import OverlayMtu
from vxland.node.path_mtu_kernel import Paths, UnseenPaths, icmp_counts
from vxland.node.peer_changes import in_parts, part_of
from vxland.node.peer_table import PeerTable
from vxland.node.public_sockets import PublicSockets
from vxland.node.recovery import Recovery
from vxland.node.running_flanneld import FlanneldWatch, free_name
from vxland.node.source_filter import SourceFilter
from vxland.node.tunnel import Tunnel
from vxland.probes import PathTest, ProbedTunnel, Prober, Responder
from vxland.reconcile.path_mtu import PathMtus
from vxland.reconcile.plan import Want
from vxland.reconcile.public_address import PublicAddress
from vxland.reconcile.reconciler import Reconciler

log = structlog.get_logger()


class Plane:
    """The device of `settings`, over `underlay`, which `path_mtus` follows once it is open.

    `on_mtu()` is called after a change of `mtu`; it may raise StartError. `published()` returns this node's leases.
    `overwrites` are the addresses that peers send to in place of ours, by IP version, as the store has them before the
    leases are published. `direct` asks for routes without encapsulation to peers on the same link.
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
        self.versions = frozenset(network.version for network in settings.networks)
        self.given_up: dict[str, str] = {}
        """Offloads that the kernel has refused since they were opened, and why."""
        # A direct route is in table main, which no VRF reads, and needs the interface.
        self.direct = direct and not underlay.vrf and not underlay.elsewhere
        self.own: tuple[Subnet, ...] = ()
        self.former: tuple[Subnet, ...] = ()
        self.former_networks: tuple[Subnet, ...] = ()
        self.bases: dict[int, Address] = {}
        """The overlay address of the node itself, by IP version."""
        self._overlay_mtu = OverlayMtu(settings, underlay)
        self._on_mtu = on_mtu
        self._published = published
        self._overwrite = (overwrites or {}).get(underlay.address.version)
        self._following = asyncio.Lock()
        self._check_source = settings.security.source_check
        self._peers = PeerTable(settings.overlay.port, underlay.address.version)
        self._has_leases = False

    @property
    def mtu(self) -> int:
        """MTU of the device in bytes."""
        return self._overlay_mtu.value

    def expected(self) -> dict[str, Mismatch]:
        """Return the descriptors that open() can take over from an earlier process: names, and a check of each."""
        return expected(self.settings, self.underlay, self.published)

    async def open(
        self,
        stack: AsyncExitStack,
        inherited: Inherited,
        recall: Callable[[], Awaitable[Mac | None]],
        flanneld: FlanneldWatch | None = None,
    ) -> None:
        """Open device and sockets; `stack` closes them. Nothing moves yet. StartError names the obstacle.

        The MAC is the configured one, or the one that peers know, or the device's, or one that a reboot keeps. In a
        flannel cluster, which has a `flanneld` watch, a kernel vxlan device of the same name is replaced once no
        flanneld runs here, as flanneld replaces a device of another kind: flanneld left it on this node.
        """
        settings, underlay = self.settings, self.underlay
        self.netlink = stack.enter_context(closing(Netlink()))
        self.reconciler = Reconciler(self.netlink)
        link = await self.netlink.link(settings.device)
        ours = {"tun"} if flanneld is None else {"tun", "vxlan"}
        existing = link.mac if link is not None and link.kind in ours else None
        self._was_up = link is not None and link.kind == "tun" and link.up
        await free_name(self.netlink, settings.device, flanneld, in_use=False)
        recalled = await recall()  # a flanneld that has just ended may have published another
        self.mac = settings.overlay.mac or recalled or existing or machine_mac(underlay.address, settings.device)
        paths = stack.enter_context(closing(self._open_paths()))
        self.path_mtus = PathMtus(paths, underlay, self._paths_changed, icmp_counts(settings, underlay))
        take = inherited.of(settings.device)
        self.fast_path = FastPath(
            settings,
            self.netlink,
            self.owners,
            self._following,
            self._tunnel,
            lambda: self.workers.drained(),  # noqa: PLW0108  (not open yet)
        )
        stack.callback(self.fast_path.close)
        await self.fast_path.prepare()
        self.workers = stack.enter_context(closing(await self._open_workers(take)))
        self.workers.heed_path_mtus(not underlay.elsewhere)
        stack.push_async_callback(self._leave_to_programs)
        self.recovery = Recovery(
            settings.device,
            self.workers,
            self.reconciler,
            partial(free_name, self.netlink, settings.device, flanneld, in_use=True),
            self._device_recreated,
            self.fast_path.follow,
        )
        self.reconciler.on_missing = self.recovery.missed
        self.workers.telemetry.carried = self.fast_path.peers
        self.source_filter = SourceFilter(settings, underlay.address)
        await self.source_filter.prepare(stack)
        self.queues = QueueDrops(
            settings.device,
            None if underlay.elsewhere else underlay.address.version,
            lambda: sum(queue.dropped for queue in self.workers.queues()),
            lambda: self.source_filter.dropped,
        )
        sockets = PublicSockets(self.workers, self.source_filter, self.netlink, settings.overlay.port, take)
        is_local = partial(self.netlink.is_local, vrf=underlay.vrf)
        self.public = PublicAddress(
            settings.device,
            underlay.address,
            self._received_at,
            sockets.serve,
            is_local,
            self.fast_path.follow,
        )
        await self.public.check()
        sockets.opened()
        tunnel = ProbedTunnel(
            settings.overlay.vni,
            settings.overlay.port,
            self.mac,
            underlay.address,
            self.bases,
            self.workers.telemetry,
            underlay.vrf,
            underlay.elsewhere,
        )
        self.prober = Prober(settings.device, self.mtu, tunnel, lambda: self.reconciler.on_link)
        self.prober.set_interval(settings.probe.interval_s)
        port = settings.probe.responder_port
        self.path_test = PathTest(settings.device, tunnel, lambda: self.reconciler.on_link, port, FirewallPrograms())
        self.responder = Responder(settings.device, self.bases, port if settings.probe.responder == "on" else 0)
        to_pods = self.netlink.interface_to
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
    def owners(self) -> Owners:
        """The owners of the data path's keys, by the peers' leases."""
        return self._peers.owners

    @property
    def advertised(self) -> Address:
        """The address that this node publishes."""
        return self.settings.underlay.public_address or self.underlay.address

    @property
    def published(self) -> Address:
        """The address that peers send to, once it is published: the advertised one, or the store's in its place."""
        own = (lease.vtep.address for lease in self._published() if lease.subnet.version in self.versions)
        return next(own, self._overwrite or self.advertised)

    def _received_at(self) -> Address:
        """Return the address to receive at: the published one, which may need sockets that nobody has passed."""
        return self.underlay.address if self.underlay.elsewhere else self.published

    @property
    def vtep(self) -> Vtep:
        """The VTEP of this plane, as peers learn it."""
        return Vtep(self.advertised, self.mac)

    @property
    def not_ready(self) -> str:
        """Reason why frames cannot move yet; empty if they can."""
        return "the leases are not known yet" if not self._has_leases else self._device_problem

    @property
    def _device_problem(self) -> str:
        """Reason why the device takes no frames, as last read; empty if it does."""
        if self.recovery.problem:
            return self.recovery.problem
        if not self.reconciler.tried.is_set():
            return f"{self.settings.device} has not been set up yet"
        return self.reconciler.link_problem

    async def start(self) -> None:
        """Move frames from now on.

        Those from the underlay wait for settled() where the device is new: the kernel takes none before it is up, and
        none whose sender has no route yet (rp_filter).
        """
        await self.fast_path.take_over()
        self.workers.start(receive=self._was_up)

    async def settled(self) -> None:
        """Return once the device has been set up, as far as that was possible."""
        await self.reconciler.tried.wait()
        self.workers.receive()

    async def _leave_to_programs(self) -> None:
        """Let programs carry what comes from now on, if there are any, and move what waits already."""
        if not self.fast_path.off:
            self.fast_path.close()
            await self.workers.drain()

    def set_source_check(self, wanted: SourceCheck) -> None:
        """Check senders at this level of `security.source_check`, from now on."""
        self._check_source = wanted
        self.workers.set_source_check(wanted)
        self.fast_path.follow()

    def hold(self, own: Collection[Subnet], former: Iterable[Subnet], former_networks: Iterable[Subnet]) -> None:
        """Set the subnets that the node holds, and the subnets and networks that it held before, of all planes."""
        self.former_networks = tuple(network for network in former_networks if network.version in self.versions)
        self.own = self.forwarding.own = tuple(subnet for subnet in own if subnet.version in self.versions)
        self.former = tuple(subnet for subnet in former if subnet not in own)
        self.bases |= {subnet.version: subnet.network_address for subnet in self.own}

    async def follow(self, change: Change) -> bool:
        """Apply the part of a change of the peers' leases that is this plane's. Return whether there is any.

        The data path comes first, then the kernel, so that no route leads to an unknown VTEP. Calls take effect in
        order.
        """
        async with self._following:
            mine = await in_slices(part_of(change, self.versions, self.underlay.address.version))
            if not mine and self._has_leases:
                return False
            owned = await in_slices(self._peers.changing(mine))
            self._has_leases = True
            self.workers.set_table(self._peers.table)
            self._set_limits()
            await self.fast_path.follow_owners(owned)
            await self.source_filter.follow(owned)
            self._set_want()
            await self.reconciler.follow(mine)
            await in_slices(in_parts(mine, self._follow_peers))
            return True

    def _follow_peers(self, removed: list[Lease], added: list[Lease]) -> None:
        """Poll and ping added peers, and answer them; forget removed ones."""
        self.path_mtus.follow(
            removed=[lease.vtep.address for lease in removed], added=[lease.vtep.address for lease in added]
        )
        self.prober.follow(removed=removed, added=added)
        self.responder.follow(removed=[lease.subnet for lease in removed], added=[lease.subnet for lease in added])

    async def set_probe_interval(self, seconds: float) -> None:
        """Probe each peer once in this interval; 0: no probes. Probing starts over if that is another interval."""
        async with self._following:
            if seconds == self.prober.interval_s:
                return
            self.prober.set_interval(seconds)
            if self._has_leases:
                known = Change(added=frozenset(self.owners.leases.values()))
                await in_slices(in_parts(known, lambda _, added: self.prober.follow(added=added)))

    def _set_want(self) -> None:
        want = Want(
            device=self.settings.device,
            mtu=self.mtu,
            mac=self.mac,
            addresses=frozenset(ip_interface(subnet.network_address) for subnet in self.own),
            networks=self.settings.networks,
            direct=self.direct,
            blackholes=self.own if self.settings.firewall.blackhole else (),
            former=self.former,
            former_networks=self.former_networks,
        )
        self.reconciler.set_want(want)

    def _paths_changed(self) -> None:
        before, now = self.underlay, self.path_mtus.underlay
        self.underlay = now
        if now.interface != before.interface:
            device = self.settings.device
            log.info("underlay_interface_changed", device=device, interface=now.interface, was=before.interface)
        if now.mtu != before.mtu and self._overlay_mtu.follow(now):
            self._apply_mtu()
        self.workers.heed_path_mtus(not self.path_mtus.distrusted)
        self._set_limits()
        if now != before:
            self.fast_path.follow()

    def _apply_mtu(self) -> None:
        self.prober.set_mtu(self.mtu)
        if self._has_leases:
            self._set_want()
        try:
            self._on_mtu()
        except StartError as exc:  # new pods still get the old MTU
            log.warning("subnet_env_unwritten", cause=exc.cause, remedy=exc.remedy)

    def _set_limits(self) -> None:
        """Pass the paths to the data path that carry less than the device's MTU, in bytes of inner packets."""
        overhead = OVERHEAD[self.underlay.address.version]
        narrow = {vtep: mtu - overhead for vtep, mtu in self.path_mtus.below(self.mtu + overhead).items()}
        if narrow != self.workers.limits.inner:
            self.workers.set_limits(Limits(narrow))
            self.fast_path.follow()

    def _tunnel(self) -> Tunnel:
        """Return what the fast path takes over, as it is now."""
        takes_frames = self._was_up and not self.reconciler.tried.is_set()  # left by an earlier process
        return Tunnel(
            self.underlay,
            self.mac,
            self.mtu,
            self.workers.limits.inner,
            self.workers.source_ports,
            self.public.further,
            self._check_source,
            ("" if takes_frames else self._device_problem) or self.workers.tap_mismatch(),
        )

    def _open_paths(self) -> Paths | UnseenPaths:
        underlay = self.underlay
        if underlay.elsewhere:
            return UnseenPaths()
        return Paths(underlay.address, self.settings.overlay.port, underlay.vrf)

    async def _open_workers(self, take: TakeFd) -> Workers:
        try:
            return Workers(
                self.settings,
                self.underlay,
                self.mac,
                lambda code: self.recovery.lost(code),  # noqa: PLW0108  (recovery needs the workers)
                self._offload_refused,
                self.path_mtus.poll_all_soon,
                take,
            )
        except OSError as exc:
            short = shortage(exc, f"{self.settings.device} with its sockets")
            raise short or await unopened(self.netlink, self.settings.overlay.port, exc) from exc

    def _offload_refused(self, offload: str, why: str) -> None:
        if offload not in self.given_up:  # else another worker of the device reported it
            self.given_up[offload] = why
            log.warning("offload_off", offload=offload, error=why)

    def _device_recreated(self) -> None:
        self.queues.renewed()
        self.prober.renewed()
        self.responder.renewed()
