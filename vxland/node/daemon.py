"""One node: builds everything, starts it in named stages, and stops it in reverse order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from vxland import pure_wanted
from vxland.config import Settings, clashes, load
from vxland.forwarding.io.fdstore import Inherited
from vxland.forwarding.pump import COMPILED
from vxland.kernel.memory import Loaded, loaded, release_unused
from vxland.model.errors import FlanneldRunningError, InvalidConfigError
from vxland.model.lease import Address, Lease
from vxland.node.api.commands import open_control
from vxland.node.api.http import load_metrics, serve_metrics
from vxland.node.host_setup import make_firewall, remove_old_rules, write_subnet_env
from vxland.node.lease_follower import LeaseFollower
from vxland.node.passed_sockets import PassedSockets
from vxland.node.plane import Plane
from vxland.node.plane_opening import choose_planes, open_planes
from vxland.node.preflight.host import HostReport
from vxland.node.preflight.target import Target
from vxland.node.registry_factory import load_modules, make_registry
from vxland.node.reload import Reloader
from vxland.node.removal import remove_former_devices
from vxland.node.running_flanneld import FlanneldWatch
from vxland.node.state import NodeState
from vxland.node.tasks import ManagerReports, background_tasks, plane_jobs
from vxland.node.underlays import find_underlays, with_stored_addresses
from vxland.ops import notify as manager
from vxland.ops.drop_log import DropLog
from vxland.ops.loop_hold import LoopHold
from vxland.ops.notify import notify
from vxland.reconcile import subnet_env
from vxland.reconcile.addresses import UnderlayAddresses
from vxland.registry.net_conf import NetConf

log = structlog.get_logger()


class Node:
    """One node of the overlay, with these settings; a reload reads them again from `path`, with `read`."""

    def __init__(
        self,
        path: Path | None,
        settings: Settings,
        subnet_file: Path,
        read: Callable[[Path], Settings],
        hold: LoopHold,
        inherited: Inherited,
        libraries: Loaded,
    ) -> None:
        self._subnet_file = subnet_file
        self._former = tuple(subnet_env.read(subnet_file).values())  # before this node writes the file
        self._former_networks = tuple(subnet_env.read_networks(subnet_file).values())
        self._state = NodeState(settings, make_registry(settings, subnet_file), hold)
        self._follower = LeaseFollower(self._state)
        self._reloader = Reloader(path, read, self._state, self._follower)
        self._reports = ManagerReports(self._state.status, self._workers_answer, self._finish)
        self._inherited = inherited
        self._libraries = libraries
        self._sockets = PassedSockets(settings, self._inherited)
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flanneld_found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        listen = settings.metrics.listen
        self._flanneld = FlanneldWatch(None if listen is None else listen.port)
        self._host = HostReport()

    async def run(self) -> None:
        """Start, forward until SIGTERM or SIGINT, stop. VxlandError names the obstacle.

        When flanneld turns up on the node, everything is left to it; once it is gone, the node starts again.
        """
        async with AsyncExitStack() as front:
            self._handle_signals()
            self._control_error = await open_control(front, self._state.snapshot, self._reloader.reload)
            if (listen := self._state.settings.metrics.listen) is not None:
                metrics = serve_metrics(listen, self._state.sample, self._state.devices, self._reports.hung)
                await front.enter_async_context(background_tasks({"metrics": metrics}, self._finish))
            front.push_async_callback(self._reports.stop)
            while True:
                async with AsyncExitStack() as stack:
                    try:
                        await self._run_once(stack)
                    except FlanneldRunningError as exc:
                        await self._yield_to_flanneld(exc)
                    except BaseException:
                        await front.aclose()  # a node that stops answers no requests
                        raise
                    else:
                        await front.aclose()
                        return
                self._restart()

    async def _run_once(self, stack: AsyncExitStack) -> None:
        """Start, and forward until the node is to stop; FlanneldRunningError if flanneld needs the device."""
        starting = asyncio.create_task(self._start(stack), name="start")
        ends = {self._stop, self._flanneld_found}
        await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # a store may keep it waiting for long
            starting.cancel()
            await asyncio.wait({starting})
        elif (error := starting.exception()) is not None:
            raise error
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await (self._stop if self._stop.done() else self._flanneld_found)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the stop short
        notify(stopping=1)
        log.info("stopping")

    async def _yield_to_flanneld(self, found: FlanneldRunningError) -> None:
        """Give up what flanneld needs: its device, and the port, which the service manager would hold as well."""
        log.warning("node_waits", cause=found.cause, remedy=found.remedy)
        self._state.enter_stage(str(found))
        await self._reports.stop()
        names = [name for plane in self._state.planes for name in plane.workers.descriptors]
        await asyncio.to_thread(manager.forget, names)
        for plane in self._state.planes:
            plane.fast_path.remove()
        self._state.retire()

    def _restart(self) -> None:
        self._reports.start()  # the process is well, and waits
        self._state.restart(make_registry(self._state.settings, self._subnet_file))
        self._inherited = Inherited([])
        self._follower.known.clear()
        self._flanneld_found = asyncio.get_running_loop().create_future()

    async def _start(self, stack: AsyncExitStack) -> None:
        registry = self._state.registry
        stack.push_async_callback(registry.close)
        self._state.enter_stage("waiting for the network's configuration")
        conf = await registry.net_conf()
        self._state.enter_stage("opening devices")
        planes, settings = await self._open_planes(stack, conf)
        self._state.enter_stage("waiting for this node's lease")
        own = await registry.publish({version: plane.vtep for plane in planes for version in plane.versions})
        for plane in planes:
            plane.hold([lease.subnet for lease in own], self._former, self._former_networks)
        await remove_former_devices(planes, [*self._former, *(lease.subnet for lease in own)])
        self._state.enter_stage("setting up the firewall")
        firewall = make_firewall(self._state.settings, conf, [lease.subnet for lease in own])
        self._state.set_firewall(firewall)
        if firewall is not None:
            await firewall.settle()
        self._write_subnet_env()
        addresses = await self._watch_addresses(planes, settings, conf)
        await stack.enter_async_context(self._background(addresses))
        self._state.enter_stage("waiting for the leases of the other nodes")
        await self._follower.known.wait()  # frames that queued during a restart would find an empty table
        for plane in planes:
            await plane.start()
        log.info("forwarding", gear="compiled" if COMPILED else "interpreted", pure_wanted=pure_wanted())
        await registry.announce()
        self._state.enter_stage("setting up routes and neighbours")
        for plane in planes:
            await plane.settled()
        self._state.enter_stage("")
        gc.freeze()  # the leases stay: no later collection looks at them, and they are freed when they go
        notify(ready=1, status=self._state.status())
        await asyncio.to_thread(release_unused, self._libraries)
        if firewall is None and self._former:  # a node ran here since the machine started
            await remove_old_rules(self._state.settings)
        await self._host.log(planes[0].netlink, [Target.of(plane) for plane in planes], self._state.settings)

    async def _open_planes(self, stack: AsyncExitStack, conf: NetConf | None) -> tuple[Sequence[Plane], Settings]:
        """Open the planes; return them and the settings with the addresses that the store chose."""
        registry = self._state.registry
        stored = await registry.recall({})
        settings = with_stored_addresses(self._state.settings, stored)
        direct = conf is not None and conf.direct_routing

        def published() -> Collection[Lease]:
            return registry.published

        chosen = choose_planes(settings, conf, await find_underlays(settings, conf))
        planes = [
            Plane(each, underlay, self._write_subnet_env, published, stored.overwrites, direct=direct)
            for each, underlay in self._sockets.lend(chosen, self._inherited)
        ]
        stack.callback(self._inherited.close)
        manager.forget(self._inherited.sort_out({k: v for plane in planes for k, v in plane.expected().items()}))
        flanneld = None if conf is None else self._flanneld
        await open_planes(stack, planes, registry, self._inherited, flanneld, self._state.enter_stage)
        for plane in planes:
            self._state.add_plane(plane)
            manager.store(self._inherited.new_ones(plane.workers.descriptors))
            if problems := clashes(plane.settings, plane.underlay.address, plane.mac):
                raise InvalidConfigError(problems)
        if (error := self._control_error) is not None:  # not before: a second vxland on the device has ended by now
            self._control_error = None
            log.error("control_off", cause=error.cause, remedy=error.remedy)
        return planes, settings

    async def _watch_addresses(
        self, planes: Sequence[Plane], settings: Settings, conf: NetConf | None
    ) -> UnderlayAddresses:
        """Return the monitor of this node's underlay addresses; no peer may have one of them."""
        registry, netlink = self._state.registry, planes[0].netlink
        by_address = {plane.underlay.address: plane for plane in planes}
        registry.avoid(await netlink.taken_addresses())

        async def usable() -> Mapping[Address, Collection[int]]:
            registry.avoid(await netlink.taken_addresses())
            for plane in planes:
                plane.fast_path.follow()  # programs would go on with an address that is gone
            return await netlink.usable_addresses()

        addresses = UnderlayAddresses(
            lambda: [plane.underlay for plane in planes if not plane.underlay.elsewhere],
            [plane.underlay.address for plane in planes if _is_configured(plane.underlay.address, plane.settings)],
            usable,
            partial(find_underlays, settings, conf),
            lambda address, index: by_address[address].path_mtus.move(index),
        )
        self._state.set_addresses(addresses)
        return addresses

    def _background(self, addresses: UnderlayAddresses) -> AbstractAsyncContextManager[None]:
        """Return the tasks that follow registry, kernel and counters."""
        drops = DropLog(self._state.drops, self._state.last_errnos)
        jobs: dict[str, Coroutine[Any, Any, None]] = {
            "registry": self._follower.run(),
            "drops": drops.run(),
            "lag": self._state.lag.run(),
            "underlay addresses": addresses.run(),
        }
        if self._state.firewall is not None:
            jobs["firewall"] = self._state.firewall.run()
        self._reports.start()
        for plane in self._state.planes:
            jobs |= plane_jobs(plane)
        return background_tasks(jobs, self._finish)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._finish, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)

    def _reload_soon(self) -> None:
        self._reloading = asyncio.create_task(self._reloader.reload())

    async def _workers_answer(self) -> bool:
        """Wait until every worker's loop has answered.

        An unreachable store does not matter: frames move by what is known. Nor does a lost device: a new process could
        do no more about it than this one does.
        """
        for plane in self._state.planes:
            await plane.workers.answer()
        return True

    def _write_subnet_env(self) -> None:
        published = [lease.subnet for lease in self._state.registry.published]
        write_subnet_env(self._state.planes, published, self._state.settings, self._subnet_file)

    def _finish(self, error: BaseException | None) -> None:
        if isinstance(error, FlanneldRunningError):
            if not self._flanneld_found.done():
                self._flanneld_found.set_exception(error)
        elif self._stop.done():
            return
        elif error is None:
            self._stop.set_result(None)
        else:
            self._stop.set_exception(error)


def _is_configured(address: Address, settings: Settings) -> bool:
    """Return whether the settings name the address that is bound, so that no other may take its place."""
    return address in {settings.underlay.address, settings.underlay.public_address}


def preload(settings: Settings) -> None:
    """Import what a node with these settings needs and others do not, before an event loop waits for it."""
    load_modules(settings)
    if settings.metrics.listen is not None:
        load_metrics()


def serve(
    path: Path | None, settings: Settings, subnet_file: Path, read: Callable[[Path], Settings] = load
) -> Coroutine[Any, Any, None]:
    """Return what runs a node to its end. Call it before there is an event loop: that has descriptors and threads."""
    inherited, libraries = Inherited.from_environment(os.environ), loaded()

    async def run(hold: LoopHold) -> None:
        await Node(path, settings, subnet_file, read, hold, inherited, libraries).run()

    async def main() -> None:
        hold = LoopHold()
        asyncio.get_running_loop().set_task_factory(hold.new_task)
        await asyncio.create_task(run(hold), name="node")

    return main()
