"""One node: builds everything, starts it in named stages, stops it in reverse order."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from ipaddress import ip_interface
from pathlib import Path

import structlog

from vxland.config import Settings, clashes, load
from vxland.control import subnet_env
from vxland.control.plan import Want
from vxland.control.reconcile import Reconciler
from vxland.control.registry import followed
from vxland.control.static import StaticRegistry
from vxland.datapath.table import Table
from vxland.errors import InvalidConfigError, StartError, VxlandError
from vxland.gear import pure_wanted
from vxland.kernel.identity import machine_mac
from vxland.kernel.netlink import Netlink
from vxland.kernel.ports import holder_of
from vxland.kernel.tap import Tap, claim
from vxland.model import Lease, Mac, Vtep
from vxland.ops.drops import DropLog
from vxland.ops.sample import Sample
from vxland.pump import COMPILED
from vxland.state import Underlay
from vxland.workers import Workers

log = structlog.get_logger()


class Node:
    """One node of the overlay, as `settings` of the file at `path` want it; None: of no file, so none to reload."""

    def __init__(self, path: Path | None, settings: Settings, subnet_file: Path) -> None:
        self._path = path
        self._settings = settings
        self._subnet_file = subnet_file
        self._registry = StaticRegistry(settings)
        self._leases: frozenset[Lease] = frozenset()
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Start, forward until SIGTERM or SIGINT, stop. VxlandError names what stood in the way."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            netlink = stack.enter_context(closing(Netlink()))
            self._underlay = underlay = await netlink.find_underlay(
                next(iter(settings.underlay.interface), None), settings.underlay.address
            )
            self._mtu = settings.overlay_mtu(underlay.mtu, underlay.address.version)
            self._mac = await _choose_mac(settings, underlay, netlink)
            if problems := clashes(settings, underlay.address, self._mac):
                raise InvalidConfigError(problems)
            self._workers = stack.enter_context(closing(await self._open_workers(netlink)))
            log.info(
                "devices_open",
                device=settings.device,
                mac=str(self._mac),
                mtu=self._mtu,
                underlay=underlay.interface,
                address=str(underlay.address),
                port=settings.overlay.port,
                workers=self._workers.count,
                **self._workers.offloads,
            )
            vtep = Vtep(settings.underlay.public_address or underlay.address, self._mac)
            await self._registry.publish(dict.fromkeys((4, 6), vtep))
            self._reconciler = Reconciler(netlink)
            await stack.enter_async_context(self._background())
            self._hear_signals()
            self._workers.start()
            log.info("forwarding", gear="compiled" if COMPILED else "interpreted", pure_wanted=pure_wanted())
            self._write_subnet_env()
            self._serve_metrics(stack)
            await self._stop
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the stop short
            log.info("stopping")

    async def _open_workers(self, netlink: Netlink) -> Workers:
        port = self._settings.overlay.port
        try:
            return Workers(self._settings, self._underlay, self._mac, self._mtu, self._tap_lost, self._segment_refused)
        except OSError as exc:
            cause, remedy = f"UDP port {port} cannot be opened: {exc.strerror}", "choose another overlay.port"
            if exc.errno == errno.EADDRINUSE:
                devices = await netlink.vxlan_devices_on_port(port)
                holder = f"the kernel vxlan device {', '.join(devices)}" if devices else holder_of(port)
                cause = f"UDP port {port} is held by {holder or 'another process'}"
                remedy = "stop it, or choose another overlay.port"
                if devices:
                    delete = f"stop what made it (flanneld?), then 'ip link delete {devices[0]}'"
                    remedy = f"{delete}; or choose another overlay.port"
            raise StartError(cause, remedy) from exc

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._finish, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        """The tasks that follow registry, kernel and counters; whichever ends with an error ends the node."""
        drops = DropLog(self._drops, self._workers.last_errnos)
        tasks = [
            asyncio.create_task(task, name=name)
            for name, task in (
                ("registry", self._follow()),
                ("reconciler", self._reconciler.run()),
                ("drops", drops.run()),
            )
        ]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        """Give each change of leases to the data path first, then to the kernel: no route leads to an unknown VTEP."""
        async with aclosing(self._registry.watch()) as events:
            async for event in events:
                self._leases = followed(self._leases, event)
                self._workers.set_table(Table(self._leases, self._settings.overlay.port))
                self._reconciler.set_want(self._want())
                log.info("leases_changed", leases=len(self._leases))

    def _want(self) -> Want:
        own = self._settings.own_subnets
        return Want(
            device=self._settings.device,
            mtu=self._mtu,
            mac=self._mac,
            addresses=frozenset(ip_interface(subnet.network_address) for subnet in own),
            networks=self._settings.networks,
            peers=self._leases,
        )

    def _reload_soon(self) -> None:
        self._reloading = asyncio.create_task(self.reload())

    async def reload(self) -> bool:
        """Take what may change from the file again; False: the file is refused, the log says why, nothing changed."""
        if self._path is None:
            log.error("reload_refused", remedy="restart with other flags: they are not read from a file")
            return False
        try:
            settings = await asyncio.to_thread(load, self._path)  # a second for 5,000 peers
            problems = self._settings.restart_needed(settings) or clashes(settings, self._underlay.address, self._mac)
        except InvalidConfigError as exc:
            problems = exc.problems
        for problem in problems:
            log.error("reload_refused", key=problem.key, value=problem.value, remedy=problem.remedy)
        if problems:
            return False
        self._settings = settings
        self._workers.set_source_check(settings.security.source_check != "off")
        self._registry.reload(settings)
        log.info("reloaded", path=str(self._path))
        return True

    def _write_subnet_env(self) -> None:
        text = subnet_env.render(self._settings.networks, self._settings.own_subnets, self._mtu, ip_masq=False)
        try:
            subnet_env.write(self._subnet_file, text)
        except OSError as exc:
            cause = f"{self._subnet_file} cannot be written: {exc.strerror}"
            raise StartError(cause, "make its directory writable, or name another file with --subnet-file") from exc

    def _serve_metrics(self, stack: AsyncExitStack) -> None:
        listen = self._settings.metrics.listen
        if listen is None:
            return
        from vxland.ops.metrics import MetricsServer  # noqa: PLC0415  (3 MB that a node without it need not have)

        try:
            server = MetricsServer(str(listen.address), listen.port, self.sample)
        except StartError as exc:  # two nodes in one test bed, or no loopback: forwarding matters more
            log.warning("metrics_off", cause=exc.cause, remedy=exc.remedy)
        else:
            stack.push_async_callback(asyncio.to_thread, server.close)  # it waits for the thread

    def sample(self) -> Sample:
        """What this node has done, and why it may not be ready."""
        not_ready = "" if self._reconciler.counters.passes else "the device has not been set up yet"
        return Sample(self._workers.directions(), leases=len(self._leases), not_ready=not_ready)

    def _drops(self) -> dict[str, Mapping[str, int]]:
        return {name: done.drops for name, done in self._workers.directions().items()}

    def _segment_refused(self, code: int) -> None:
        log.warning("offload_off", offload="UDP_SEGMENT", error=os.strerror(code))

    def _tap_lost(self, code: int) -> None:
        cause = f"the TAP {self._settings.device} cannot be read any more: {os.strerror(code)}"
        self._finish(StartError(cause, "if it was deleted, start vxland again: it makes a new one"))

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._finish(task.exception() or VxlandError(f"the {task.get_name()} task ended"))

    def _finish(self, error: BaseException | None) -> None:
        if self._stop.done():
            return
        if error is None:
            self._stop.set_result(None)
        else:
            self._stop.set_exception(error)


async def serve(path: Path | None, settings: Settings, subnet_file: Path) -> None:
    """Run a Node to its end."""
    await Node(path, settings, subnet_file).run()


async def cleanup(settings: Settings) -> bool:
    """Remove the TAP that a stopped vxland left, and with it its routes and neighbours; False: there was none."""
    with closing(Netlink()) as netlink, closing(claim(settings.device)):
        if await netlink.link_kind(settings.device) == "tun":
            Tap(settings.device, offload=False).close()  # StartError where a running program holds it
        return await netlink.delete_device_state(settings.device)


async def find_underlay(settings: Settings) -> Underlay:
    """The underlay that the settings mean on this machine; ConfigError of the key at fault."""
    with closing(Netlink()) as netlink:
        return await netlink.find_underlay(next(iter(settings.underlay.interface), None), settings.underlay.address)


async def _choose_mac(settings: Settings, underlay: Underlay, netlink: Netlink) -> Mac:
    """The MAC of our device: as configured, or as it is, or one that a reboot keeps."""
    link = (await netlink.read(settings.device, settings.networks)).link
    existing = link.mac if link is not None and link.kind == "tun" else None
    return settings.overlay.mac or existing or machine_mac(underlay.address, settings.device)
