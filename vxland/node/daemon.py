"""One node: builds everything, starts it in named stages, stops it in reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from vxland import pure_wanted
from vxland.config import Settings, clashes, load
from vxland.forwarding.io.fdstore import Inherited
from vxland.forwarding.pump import COMPILED
from vxland.model.errors import ConfigError, InvalidConfigError, RivalError, VxlandError
from vxland.model.lease import Address, Delta, Snapshot
from vxland.model.log_quota import ROUTINE, LogQuota
from vxland.node.api import NodeState, open_control
from vxland.node.api.http import serve_metrics
from vxland.node.assembly import (
    choose_planes,
    find_underlays,
    make_rules,
    open_planes,
    remove_former_devices,
    sweep_rules,
    with_stored_addresses,
    write_subnet_env,
)
from vxland.node.plane import Plane
from vxland.node.registry_factory import make_registry
from vxland.node.rival import RivalWatch
from vxland.ops import notify as manager
from vxland.ops.drop_log import DropLog
from vxland.ops.notify import notify
from vxland.reconcile import subnet_env
from vxland.reconcile.addresses import UnderlayAddresses

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
        self._former = tuple(subnet_env.read(subnet_file).values())  # before anybody writes the file
        self._former_networks = tuple(subnet_env.read_networks(subnet_file).values())
        self._registry = make_registry(settings, subnet_file)
        self._state = NodeState(settings, self._registry)
        self._planes = self._state.planes
        self._inherited = Inherited.from_environment(os.environ)
        self._leases_known = asyncio.Event()
        self._quota = LogQuota("leases_changed", ROUTINE)
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        listen = settings.metrics.listen
        self._rival = RivalWatch(None if listen is None else listen.port)
        self._telling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start, forward until SIGTERM or SIGINT, stop. VxlandError names what stood in the way.

        Where flanneld turns up on the node, everything is left to it; once it is gone, the node starts anew.
        """
        async with AsyncExitStack() as front:
            self._hear_signals()
            self._unheard = await open_control(front, self._state.look, self.reload)
            if (listen := self._settings.metrics.listen) is not None:
                await front.enter_async_context(self._working({"metrics": serve_metrics(listen, self._state)}))
            front.push_async_callback(self._stop_telling)
            while True:
                async with AsyncExitStack() as stack:
                    try:
                        await self._live(stack)
                    except RivalError as exc:
                        await self._leave(exc)
                    except BaseException:
                        await front.aclose()  # no questions once it stops
                        raise
                    else:
                        await front.aclose()
                        return
                self._begin_anew()

    async def _live(self, stack: AsyncExitStack) -> None:
        """Start, and forward until the node is to stop; RivalError where the device has to be left to flanneld."""
        starting = asyncio.create_task(self._start(stack), name="start")
        ends = {self._stop, self._left}
        await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # a store may let it wait for long
            starting.cancel()
            await asyncio.wait({starting})
        elif (error := starting.exception()) is not None:
            raise error
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await (self._stop if self._stop.done() else self._left)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the stop short
        notify(stopping=1)
        log.info("stopping")

    async def _leave(self, rival: RivalError) -> None:
        """Give up what flanneld needs: its device, and the port, which the service manager would hold as well."""
        log.warning("node_waits", cause=rival.cause, remedy=rival.remedy)
        self._state.enter(str(rival))
        await self._stop_telling()
        names = [name for plane in self._planes for name in plane.workers.descriptors]
        await asyncio.to_thread(manager.forget, names)
        self._state.retire()

    def _begin_anew(self) -> None:
        self._tell_manager()  # of a process that is well, and waits
        self._registry = self._state.registry = make_registry(self._settings, self._subnet_file)
        self._inherited = Inherited([])
        self._leases_known.clear()
        self._left = asyncio.get_running_loop().create_future()

    async def _start(self, stack: AsyncExitStack) -> None:
        registry = self._registry
        stack.push_async_callback(registry.close)
        self._state.enter("waiting for the network's configuration")
        conf = await registry.net_conf()
        self._state.enter("opening devices")
        direct = conf is not None and conf.direct_routing
        stored = await registry.recall({})
        settings = with_stored_addresses(self._settings, stored)
        planes = [
            Plane(each, underlay, self._write_subnet_env, lambda: registry.published, stored.overwrites, direct=direct)
            for each, underlay in choose_planes(settings, conf, await find_underlays(settings, conf))
        ]
        stack.callback(self._inherited.close)
        manager.forget(self._inherited.sort_out({k: v for plane in planes for k, v in plane.expected().items()}))
        rival = None if conf is None else self._rival
        await open_planes(stack, planes, registry, self._inherited, rival, self._state.enter)
        for plane in planes:
            self._planes.append(plane)  # now there is something to show of it
            manager.store(self._inherited.new_ones(plane.workers.descriptors))
            if problems := clashes(plane.settings, plane.underlay.address, plane.mac):
                raise InvalidConfigError(problems)
        if (unheard := self._unheard) is not None:  # told only now: a second vxland on the device has ended
            self._unheard = None
            log.error("control_off", cause=unheard.cause, remedy=unheard.remedy)
        self._state.enter("waiting for this node's lease")
        own = await registry.publish(_by_version(planes, lambda plane: plane.vtep))
        for plane in self._planes:
            plane.hold([lease.subnet for lease in own], self._former, self._former_networks)
        await remove_former_devices(planes, [*self._former, *(lease.subnet for lease in own)])
        self._state.enter("setting up the firewall")
        self._state.rules = rules = make_rules(self._settings, conf, [lease.subnet for lease in own])
        if rules is not None:
            await rules.settle()
        self._write_subnet_env()
        by_address = {plane.underlay.address: plane for plane in planes}
        registry.avoid(await planes[0].taken_addresses())

        async def here() -> Mapping[Address, Collection[int]]:
            registry.avoid(await planes[0].taken_addresses())
            return await planes[0].usable_addresses()

        self._state.addresses = UnderlayAddresses(
            lambda: [plane.underlay for plane in planes],
            [plane.underlay.address for plane in planes if plane.address_is_fixed],
            here,
            partial(find_underlays, settings, conf),
            lambda address, index: by_address[address].ways.move(index),
        )
        await stack.enter_async_context(self._background(self._state.addresses))
        self._state.enter("waiting for the leases of the other nodes")
        await self._leases_known.wait()  # frames that queued during a restart would find an empty table
        for plane in self._planes:
            plane.start()
        log.info("forwarding", gear="compiled" if COMPILED else "interpreted", pure_wanted=pure_wanted())
        await registry.announce()
        self._state.enter("setting up routes and neighbours")
        for plane in self._planes:
            await plane.settled()
        self._state.enter("")
        notify(ready=1, status=self._state.status())
        if rules is None and self._former:  # a node ran here since the machine started
            await sweep_rules(self._settings)

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._finish, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)

    def _background(self, addresses: UnderlayAddresses) -> AbstractAsyncContextManager[None]:
        """The tasks that follow registry, kernel and counters."""
        drops = DropLog(self._state.drops, self._state.last_errnos)
        jobs: dict[str, Coroutine[Any, Any, None]] = {
            "registry": self._follow(),
            "drops": drops.run(),
            "lag": self._state.lag.run(),
            "underlay addresses": addresses.run(),
        }
        if self._state.rules is not None:
            jobs["firewall"] = self._state.rules.run()
        self._tell_manager()
        for plane in self._planes:
            if plane.source_filter.table is not None:
                jobs[f"input filter of {plane.settings.device}"] = plane.source_filter.table.run()
            jobs[f"reconciler of {plane.settings.device}"] = plane.reconciler.run()
            jobs[f"recovery of {plane.settings.device}"] = plane.recovery.run()
            jobs[f"public address of {plane.settings.device}"] = plane.public.run()
            jobs[f"path MTUs of {plane.settings.device}"] = plane.ways.run()
            jobs[f"forwarding of {plane.settings.device}"] = plane.forwarding.run(plane.reconciler.tried)
            jobs[f"prober of {plane.settings.device}"] = plane.prober.run(plane.reconciler.tried)
        return self._working(jobs)

    @asynccontextmanager
    async def _working(self, jobs: Mapping[str, Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Run jobs, by name, meanwhile; whichever ends by itself ends the node."""
        tasks = [asyncio.create_task(job, name=name) for name, job in jobs.items()]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _tell_manager(self) -> None:
        """Keep the service manager told from now on, whatever else ends; once."""
        if manager.wanted() and self._telling is None:
            job = manager.keep_told(self._state.status, self._moving)
            self._telling = asyncio.create_task(job, name="service manager")
            self._telling.add_done_callback(self._task_ended)

    async def _stop_telling(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
            self._telling = None

    async def _follow(self) -> None:
        async with aclosing(self._registry.watch()) as events:
            async for event in events:
                await self._take(event)
                self._leases_known.set()

    async def _take(self, event: Snapshot | Delta) -> None:
        self._state.follow(event)
        await self._tell_planes()

    async def _tell_planes(self) -> None:
        """Have the planes follow the leases and the sources of now; the log tells if that changes anything."""
        changed = [
            await plane.follow(self._state.leases, dict(self._settings.security.sources)) for plane in self._planes
        ]
        if any(changed) and self._quota.allows():
            log.info("leases_changed", leases=len(self._state.leases))

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
        self._settings = self._state.settings = settings
        for plane in self._planes:
            plane.workers.set_source_check(settings.security.source_check)
            plane.prober.set_interval(settings.probe.interval_s)
        leases = self._registry.reload(settings)
        if self._leases_known.is_set():  # `reloaded` then says that the new peers and sources are in the table
            await self._take(leases or Delta())
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
        published = [lease.subnet for lease in self._registry.published]
        write_subnet_env(self._planes, published, self._settings, self._subnet_file)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._finish(task.exception() or VxlandError(f"the {task.get_name()} task ended"))

    def _finish(self, error: BaseException | None) -> None:
        if isinstance(error, RivalError):
            if not self._left.done():
                self._left.set_exception(error)
        elif self._stop.done():
            return
        elif error is None:
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
