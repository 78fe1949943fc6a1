"""One overlay device and all that belongs to it: TAP, sockets, workers, table, and the kernel state beside it.

A static node has one plane, for all its networks. A node of a flannel cluster has one for each family, as flannel has
(flannel.N over the IPv4 underlay, flannel-v6.N over the IPv6 one), with the same VNI and port.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import structlog

from vxland.config import Settings
from vxland.control.input_filter import InputFilter, remove_tables
from vxland.control.plan import Want
from vxland.control.reconcile import Reconciler
from vxland.datapath.table import Table
from vxland.errors import StartError
from vxland.kernel.bpf import MAX_INSTRUCTIONS, build_filter
from vxland.kernel.firewall import Firewall
from vxland.kernel.identity import machine_mac
from vxland.kernel.inherit import Inherited, Misfit, Take
from vxland.kernel.netlink import Netlink
from vxland.kernel.ports import holder_of
from vxland.kernel.tap import dropped_of
from vxland.model import Address, Lease, Mac, Subnet, Vtep
from vxland.ops.sample import Device, Reconciling
from vxland.probes import Prober, Tunnel
from vxland.state import Underlay
from vxland.workers import Workers, expected

log = structlog.get_logger()


class Plane:
    """The device of `settings`, over `underlay`. `on_lost(error)` is told when its TAP cannot be read any more."""

    def __init__(
        self, settings: Settings, underlay: Underlay, on_lost: Callable[[StartError], None], *, direct: bool = False
    ) -> None:
        self.settings = settings
        self.underlay = underlay
        self.mtu = settings.overlay_mtu(underlay.mtu, underlay.address.version)
        self.versions = frozenset(network.version for network in settings.networks)
        self.segment_refused = ""
        self._on_lost = on_lost
        self.direct = direct
        self._leases: frozenset[Lease] | None = None
        self._nats: Mapping[Address, tuple[Subnet, ...]] = {}
        self.own: tuple[Subnet, ...] = ()
        self.input_filter: InputFilter | None = None
        self.filter_error = ""
        self.bases: dict[int, Address] = {}
        """The overlay address of the node itself, by IP version."""

    def expected(self) -> dict[str, Misfit]:
        """What open() can take over of an earlier process: names, and what tells whether it fits."""
        return expected(self.settings, self.underlay.address)

    async def open(
        self,
        stack: AsyncExitStack,
        inherited: Inherited,
        recalled: Mac | None = None,
        *,
        replace_kernels: bool = False,
    ) -> None:
        """Open device and sockets, to be closed with `stack`; nothing moves yet. StartError names what is in the way.

        The MAC is the configured one, or the one that peers know, or the device's, or one that a reboot keeps. With
        `replace_kernels` a kernel vxlan device of the same name gives way, as flanneld replaces a device of another
        kind: it is what flanneld left on this node.
        """
        settings, underlay = self.settings, self.underlay
        self._netlink = stack.enter_context(closing(Netlink()))
        self.reconciler = Reconciler(self._netlink)
        link = (await self._netlink.read(settings.device, settings.networks)).link
        ours = {"tun", "vxlan"} if replace_kernels else {"tun"}
        existing = link.mac if link is not None and link.kind in ours else None
        self.mac = settings.overlay.mac or recalled or existing or machine_mac(underlay.address, settings.device)
        if link is not None and link.kind == "vxlan" and replace_kernels:
            await self._netlink.delete_device_state(settings.device, "vxlan")
            log.warning("kernel_device_replaced", device=settings.device, mac=str(link.mac))
        self.workers = stack.enter_context(closing(await self._open_workers(inherited.of(settings.device))))
        await self._prepare_filter(stack)
        tunnel = Tunnel(
            settings.overlay.vni, settings.overlay.port, self.mac, underlay.address, self.bases, self.workers.eyes
        )
        self.prober = Prober(settings.device, self.mtu, tunnel, lambda: self.reconciler.on_link)
        self.prober.set_interval(settings.probe.interval_s)
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
        """The address that peers send to."""
        return self.settings.underlay.public_address or self.underlay.address

    @property
    def vtep(self) -> Vtep:
        """What peers are told of this plane."""
        return Vtep(self.advertised, self.mac)

    @property
    def not_ready(self) -> str:
        """Why frames cannot move yet; empty if they can."""
        if self._leases is None:
            return "the leases are not known yet"
        if not self.reconciler.tried.is_set():
            return f"{self.settings.device} has not been set up yet"
        return self.reconciler.link_problem

    @property
    def stuck(self) -> str:
        """Why frames cannot move although all was set up, if a new start may help; empty otherwise."""
        return self.reconciler.link_problem if self.reconciler.obstacle else ""

    def measured(self) -> Device:
        """What metrics show of the device now."""
        counters = self.reconciler.counters
        return Device(
            name=self.settings.device,
            offloads={
                name: bool(got) if name != "udp_segment" else got > 1 and not self.segment_refused
                for name, got in self.workers.offloads.items()
            },
            peers=self.workers.eyes.peers(),
            sockets=self.workers.queues(),
            tap_dropped=dropped_of(self.settings.device),
            filtered=None if self.input_filter is None else self.input_filter.dropped,
            reconciling=Reconciling(
                passes=counters.passes,
                failed_reads=counters.failed_reads,
                actions={(verb, cause): count for (verb, cause), count in tuple(counters.mended.items())},
                errors=dict(counters.failed),
                pending=counters.pending,
            ),
            probing=self.prober.probing(),
        )

    def hold(self, own: Iterable[Subnet]) -> None:
        """Take the subnets that this node holds."""
        self.own = tuple(subnet for subnet in own if subnet.version in self.versions)
        self.bases |= {subnet.version: subnet.network_address for subnet in self.own}

    def follow(self, leases: Iterable[Lease], nats: Mapping[Address, tuple[Subnet, ...]]) -> None:
        """Take the peers' leases: the data path first, then the kernel, so that no route leads to an unknown VTEP.

        `nats` are where datagrams of VTEPs may come from, beside what the leases tell.
        """
        mine = frozenset(
            lease
            for lease in leases
            if lease.subnet.version in self.versions and lease.vtep.address.version == self.underlay.address.version
        )
        if (mine, nats) == (self._leases, self._nats):
            return
        self._leases, self._nats = mine, nats
        known = {replace(lease, sources=lease.sources + nats.get(lease.vtep.address, ())) for lease in mine}
        self.workers.set_table(Table(known, self.settings.overlay.port))
        own = (ip_network(lease.vtep.address) for lease in mine)
        self._filter_input({*own, *(source for lease in known for source in lease.sources)})
        want = Want(
            device=self.settings.device,
            mtu=self.mtu,
            mac=self.mac,
            addresses=frozenset(ip_interface(subnet.network_address) for subnet in self.own),
            networks=self.settings.networks,
            peers=mine,
            direct=self.direct,
            blackholes=self.own if self.settings.firewall.blackhole else (),
        )
        self.reconciler.set_want(want)
        self.prober.follow(Lease(subnet, vtep) for subnet, vtep in want.subnets.items())

    @property
    def filter_problem(self) -> str:
        """Why the wanted input filter may not be in force; empty where it is, or none is wanted."""
        return self.filter_error if self.input_filter is None else self.input_filter.error

    async def _prepare_filter(self, stack: AsyncExitStack) -> None:
        """Remove what an earlier run may have left that this one does not replace, as it keeps out new nodes."""
        wanted, overlay = self.settings.security.input_filter, self.settings.overlay
        if wanted != "bpf":
            self.workers.set_filter(None)
        if wanted == "nftables":
            self.input_filter = InputFilter(
                Firewall(), self.settings.device, self.underlay.address, overlay.port, self.settings.firewall.resync_s
            )
            stack.push_async_callback(self.input_filter.remove)
        else:
            await remove_tables(Firewall(), self.settings.device)

    def _filter_input(self, sources: AbstractSet[Subnet]) -> None:
        """Have the kernel drop what comes from others, if that is wanted."""
        if self.input_filter is not None:
            self.input_filter.set_sources(sources)
        if self.settings.security.input_filter != "bpf":
            return
        error, program = "", build_filter(sources)
        try:
            self.workers.set_filter(program)
        except OSError as exc:
            error = f"the kernel refuses a filter for {len(sources)} sources: {exc.strerror}"
        if program is None:
            error = f"{len(sources)} sources do not fit into the {MAX_INSTRUCTIONS} instructions of a socket filter"
        if error and not self.filter_error:
            remedy = "raise net.core.optmem_max if memory is short, or write security.input_filter: nftables"
            log.warning("input_filter_failed", error=error, remedy=remedy)
        self.filter_error = error

    async def _open_workers(self, take: Take) -> Workers:
        port = self.settings.overlay.port
        try:
            return Workers(self.settings, self.underlay, self.mac, self.mtu, self._tap_lost, self._refused, take)
        except OSError as exc:
            cause, remedy = f"UDP port {port} cannot be opened: {exc.strerror}", "choose another overlay.port"
            if exc.errno == errno.EADDRINUSE:
                devices = await self._netlink.vxlan_devices_on_port(port)
                holder = f"the kernel vxlan device {', '.join(devices)}" if devices else holder_of(port)
                cause = f"UDP port {port} is held by {holder or 'another process'}"
                remedy = "stop it, or choose another overlay.port"
                if devices:
                    delete = f"stop what made it (flanneld?), then 'ip link delete {devices[0]}'"
                    remedy = f"{delete}; or choose another overlay.port"
            raise StartError(cause, remedy) from exc

    def _refused(self, code: int) -> None:
        if self.segment_refused:  # by another worker's send, of the same device
            return
        self.segment_refused = os.strerror(code)
        log.warning("offload_off", offload="UDP_SEGMENT", error=self.segment_refused)

    def _tap_lost(self, code: int) -> None:
        cause = f"the TAP {self.settings.device} cannot be read any more: {os.strerror(code)}"
        self._on_lost(StartError(cause, "if it was deleted, start vxland again: it makes a new one"))
