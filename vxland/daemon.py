"""One node: builds everything, starts it in named stages, stops it in reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from vxland.answers import Standing, open_control
from vxland.assembly import (
    choose_planes,
    find_underlays,
    make_registry,
    make_rules,
    remembering,
    with_stored_addresses,
)
from vxland.config import Settings, clashes, load
from vxland.control import subnet_env
from vxland.control.addresses import UnderlayAddresses
from vxland.control.static import StaticRegistry
from vxland.errors import ConfigError, InvalidConfigError, StartError, VxlandError
from vxland.gear import pure_wanted
from vxland.kernel.inherit import Inherited
from vxland.ops import notify as manager
from vxland.ops.drops import DropLog
from vxland.ops.notify import notify
from vxland.plane import Plane
from vxland.pump import COMPILED

T = TypeVar("T")

log = structlog.get_logger()


class Node:
    """One node of the overlay, as `settings` want it; `path` is the file they came from, which a reload will `read`."""

    def __init__(
        self, path: Path | None, settings: Settings, subnet_file: Path, read: Callable[[Path], Settings]
    ) -> None:
        self._path = path
        self._read = read
        self._settings = settings
        self._subnet_file = subnet_file
        self._registry = remembering(make_registry(settings, subnet_file), settings)
        self._standing = Standing(settings, self._registry)
        self._planes = self._standing.planes
        self._inherited = Inherited.from_environment(os.environ)
        self._leases_known = asyncio.Event()
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Start, forward until SIGTERM or SIGINT, stop. VxlandError names what stood in the way."""
        async with AsyncExitStack() as stack, AsyncExitStack() as front:  # no questions once it stops
            self._hear_signals()
            unheard = await open_control(front, self._standing.look, self.reload)
            starting = asyncio.create_task(self._start(stack, unheard), name="start")
            await asyncio.wait({starting, self._stop}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():  # a store may let it wait for long
                starting.cancel()
                await asyncio.wait({starting})
            elif (error := starting.exception()) is not None:
                raise error
            await self._stop
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the stop short
            notify(stopping=1)
            log.info("stopping")

    async def _start(self, stack: AsyncExitStack, unheard: StartError | None) -> None:
        registry = self._registry
        self._serve_metrics(stack)
        stack.push_async_callback(registry.close)
        self._standing.enter("waiting for the network's configuration")
        conf = await registry.net_conf()
        self._standing.enter("opening devices")
        direct = conf is not None and conf.direct_routing
        settings = await with_stored_addresses(self._settings, registry)
        planes = [
            Plane(each, underlay, self._write_subnet_env, direct=direct)
            for each, underlay in choose_planes(settings, conf, await find_underlays(settings, conf))
        ]
        stack.callback(self._inherited.close)
        manager.forget(self._inherited.sort_out({k: v for plane in planes for k, v in plane.expected().items()}))
        recalled = (await registry.recall(_by_version(planes, lambda plane: plane.advertised))).macs
        for plane in planes:
            mac = recalled.get(plane.underlay.address.version)
            await plane.open(stack, self._inherited, mac, replace_kernels=conf is not None)
            self._planes.append(plane)  # now there is something to show of it
            manager.store(self._inherited.new_ones(plane.workers.descriptors))
            if problems := clashes(plane.settings, plane.underlay.address, plane.mac):
                raise InvalidConfigError(problems)
        if unheard is not None:  # told only now: a second vxland on the device has ended, and said why in one line
            log.error("control_off", cause=unheard.cause, remedy=unheard.remedy)
        self._standing.enter("waiting for this node's lease")
        own = await registry.publish(_by_version(planes, lambda plane: plane.vtep))
        for plane in self._planes:
            plane.hold(lease.subnet for lease in own)
        self._standing.enter("setting up the firewall")
        self._standing.rules = rules = make_rules(self._settings, conf, [lease.subnet for lease in own])
        if rules is not None:
            await rules.settle()
        self._write_subnet_env()
        by_address = {plane.underlay.address: plane for plane in planes}
        self._standing.addresses = UnderlayAddresses(
            lambda: [plane.underlay for plane in planes],
            [plane.underlay.address for plane in planes if plane.address_is_fixed],
            planes[0].usable_addresses,
            partial(find_underlays, settings, conf),
            lambda address, index: by_address[address].ways.move(index),
        )
        await stack.enter_async_context(self._background(self._standing.addresses))
        self._standing.enter("waiting for the leases of the other nodes")
        await self._leases_known.wait()  # frames that queued during a restart would find an empty table
        for plane in self._planes:
            plane.start()
        log.info("forwarding", gear="compiled" if COMPILED else "interpreted", pure_wanted=pure_wanted())
        await registry.announce()
        self._standing.enter("setting up routes and neighbours")
        for plane in self._planes:
            await plane.settled()
        self._standing.enter("")
        notify(ready=1, status=self._standing.status())

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._finish, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)

    @asynccontextmanager
    async def _background(self, addresses: UnderlayAddresses) -> AsyncIterator[None]:
        """The tasks that follow registry, kernel and counters; whichever ends with an error ends the node."""
        drops = DropLog(self._standing.drops, self._standing.last_errnos)
        jobs: dict[str, Coroutine[Any, Any, None]] = {
            "registry": self._follow(),
            "drops": drops.run(),
            "lag": self._standing.lag.run(),
            "underlay addresses": addresses.run(),
        }
        if self._standing.rules is not None:
            jobs["firewall"] = self._standing.rules.run()
        if manager.wanted():
            jobs["service manager"] = manager.keep_told(self._standing.status, self._moving)
        for plane in self._planes:
            if plane.gate.table is not None:
                jobs[f"input filter of {plane.settings.device}"] = plane.gate.table.run()
            jobs[f"reconciler of {plane.settings.device}"] = plane.reconciler.run()
            jobs[f"recovery of {plane.settings.device}"] = plane.recovery.run()
            jobs[f"path MTUs of {plane.settings.device}"] = plane.ways.run()
            jobs[f"prober of {plane.settings.device}"] = plane.prober.run(plane.reconciler.tried)
        tasks = [asyncio.create_task(job, name=name) for name, job in jobs.items()]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        async with aclosing(self._registry.watch()) as events:
            async for event in events:
                self._standing.follow(event)
                await self._tell_planes()
                self._leases_known.set()
                log.info("leases_changed", leases=len(self._standing.leases))

    async def _tell_planes(self) -> None:
        for plane in self._planes:
            await plane.follow(self._standing.leases, dict(self._settings.security.sources))

    async def _moving(self) -> bool:
        """Whether every worker's loop has its turn, which is waited for.

        A store that is away does not count: frames move by what is known. Nor does a device that is lost: a new process
        could do no more about it than this one does.
        """
        for plane in self._planes:
            await plane.workers.answer()
        return True

    def _reload_soon(self) -> None:
        self._reloading = asyncio.create_task(self.reload())

    async def reload(self) -> list[ConfigError]:
        """Take what may change from the file again. Problems: it is refused, the log tells them, nothing changed."""
        try:
            settings = await self._reread()
        except InvalidConfigError as exc:
            for problem in exc.problems:
                log.error("reload_refused", key=problem.key, value=problem.value, remedy=problem.remedy)
            return exc.problems
        self._settings = self._standing.settings = settings
        for plane in self._planes:
            plane.workers.set_source_check(settings.security.source_check)
            plane.prober.set_interval(settings.probe.interval_s)
        if isinstance(self._registry, StaticRegistry):
            self._registry.reload(settings)
        elif self._leases_known.is_set():
            await self._tell_planes()
        log.info("reloaded", path=str(self._path))
        return []

    async def _reread(self) -> Settings:
        """What the file says now; InvalidConfigError where a running node cannot take it."""
        if self._path is None:
            remedy = "restart vxland to change it: it has its settings from its command line"
            raise InvalidConfigError([ConfigError("configuration", "flags", remedy)])
        settings = await asyncio.to_thread(self._read, self._path)  # a second for 5,000 peers
        problems = self._settings.restart_needed(settings)
        for plane in self._planes:
            problems += clashes(settings, plane.underlay.address, plane.mac)
        if problems:
            raise InvalidConfigError(problems)
        return settings

    def _write_subnet_env(self) -> None:
        networks = [network for plane in self._planes for network in plane.settings.networks]
        subnets = [lease.subnet for lease in self._registry.published]
        # One MTU for both families: what the narrower tunnel carries.
        mtu = min(plane.mtu for plane in self._planes)
        text = subnet_env.render(networks, subnets, mtu, ip_masq=self._settings.firewall.masquerade)
        try:
            subnet_env.write(self._subnet_file, text)
        except OSError as exc:
            cause = f"{self._subnet_file} cannot be written: {exc.strerror}"
            remedy = "make its directory writable, with room in it, or name another file with --subnet-file"
            raise StartError(cause, remedy) from exc

    def _serve_metrics(self, stack: AsyncExitStack) -> None:
        listen = self._settings.metrics.listen
        if listen is None:
            return
        from vxland.ops.metrics import MetricsServer  # noqa: PLC0415  (3 MB that a node without it need not have)

        try:
            server = MetricsServer(
                str(listen.address),
                listen.port,
                self._standing.sample,
                lambda: [plane.measured() for plane in self._planes],
            )
        except StartError as exc:  # two nodes in one test bed, or no loopback: forwarding matters more
            log.warning("metrics_off", cause=exc.cause, remedy=exc.remedy)
        else:
            stack.push_async_callback(asyncio.to_thread, server.close)  # it waits for the thread

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


def _by_version(planes: Iterable[Plane], tell: Callable[[Plane], T]) -> dict[int, T]:
    """What `tell` says of the plane that carries each IP version of subnets."""
    return {version: tell(plane) for plane in planes for version in plane.versions}


async def serve(
    path: Path | None, settings: Settings, subnet_file: Path, read: Callable[[Path], Settings] = load
) -> None:
    """Run a node to its end."""
    await Node(path, settings, subnet_file, read).run()
