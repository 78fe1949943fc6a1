"""A Registry over flannel's keys in etcd v3.

A watch lists the entries at a revision and then follows the changes from there. A connection that ends is made again
from the revision last seen, at another member if need be, after 0.1 s and up to 5 s; only where the store has forgotten
that revision, or is not the one it was, everything is listed again. Beside it two loops keep this node's own entry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Final, TypeVar

from vxland.config.flannel import Etcd
from vxland.control import subnet_env
from vxland.control.etcd import formats
from vxland.control.etcd.answers import CredentialsError, GatewayError
from vxland.control.etcd.follower import Follower
from vxland.control.etcd.gateway import Gateway
from vxland.control.etcd.holder import Holder
from vxland.control.etcd.store import Store
from vxland.control.etcd.trouble import Pace, Troubles
from vxland.control.etcd.view import Hidden, View
from vxland.control.netconf import NetConf, parse
from vxland.control.registry import Recall
from vxland.errors import ConfigError, StartError
from vxland.model import Address, Delta, Lease, RegistryHealth, Snapshot, Vtep

CONFIG_RETRY_S: Final = 1.0  # flannel: WatchNetworkConfig
RENEW_S: Final = 60.0  # between looks at the clock, and between tries

_REST = 2  # changes wait this many times as long as the reader took: a storm costs a third of a CPU at most
_REST_MOST_S = 0.5
_BELOW = SystemRandom().randrange

T = TypeVar("T")


class EtcdRegistry:
    """The node in the store of `settings`; `subnet_file` tells which subnets it had. The rest is for tests.

    ConfigError where the files for TLS cannot be used.
    """

    def __init__(
        self,
        settings: Etcd,
        subnet_file: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        below: Callable[[int], int] = _BELOW,
    ) -> None:
        self._settings = settings
        self._subnet_file = subnet_file
        self._clock = clock
        self._sleep = sleep
        self._below = below
        self._gateway = Gateway(settings)
        self._store = Store(self._gateway, settings.prefix)
        self._holder = Holder(self._store, clock, below, self._hide)
        self._troubles = Troubles(clock)
        self._views: list[View] = []
        self._touched = asyncio.Event()
        self._conf: NetConf | None = None

    @property
    def health(self) -> RegistryHealth:
        """What keeps the store from being read, and the entries not understood."""
        quarantined = {name: reason for view in self._views for name, reason in view.quarantined.items()}
        return RegistryHealth(self._troubles.text, self._troubles.since, quarantined)

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds; empty before publish()."""
        return frozenset() if self._holder.held is None else self._holder.held.leases

    async def net_conf(self) -> NetConf:
        """The network at PREFIX/config, once it is there."""
        if self._conf is None:
            source = f"{self._store.config_key} in etcd"
            while (text := await self._persist(self._store.config)) is None:
                self._troubles.note("config", f"{source} is missing: put flannel's network configuration there")
                await self._sleep(CONFIG_RETRY_S)
            self._troubles.note("config", "")
            conf = parse(text.decode(errors="replace"), source, pools=True)
            if all(network.version != 4 for network in conf.networks):
                remedy = "enable IPv4 too, or use registry.kind kube: flannel's keys in etcd cannot name IPv6 alone"
                raise ConfigError(f"{source}: EnableIPv4", value=False, remedy=remedy)
            self._conf = conf
        return self._conf

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:
        """The MACs of the entry with this node's IPv4 VTEP address."""
        if 4 not in advertised:
            return Recall()
        networks = formats.by_version(await self.net_conf())
        return Recall(await self._persist(partial(self._holder.recall, networks, advertised[4])))

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Take or keep the subnets of this node, as flannel does; waits for the store."""
        conf = await self.net_conf()
        for network in conf.networks:
            vtep = vteps.get(network.version)
            if vtep is None or vtep.address.version != network.version:
                cause = f"the network {network} needs VTEPs with IPv{network.version} addresses, and this node has none"
                raise StartError(cause, f"give the underlay interface an IPv{network.version} address, or name another")
        ours: dict[int, Vtep] = {network.version: vteps[network.version] for network in conf.networks}
        previous = subnet_env.read(self._subnet_file)
        return await self._persist(partial(self._holder.acquire, conf, ours, previous))

    async def announce(self) -> None:
        """Nobody to tell: the entry says it all."""

    async def close(self) -> None:
        """Close the connections; the entry stays until its day is over."""
        await self._gateway.close()

    async def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """The leases of others; what changes while the reader works is told in one event."""
        conf = await self.net_conf()
        networks = formats.by_version(conf)
        view = View(partial(formats.read, networks=networks), self._store.name, conf.vni, self._clock)
        view.hide(self._holder.hidden)
        self._views.append(view)
        follower = Follower(self._store, view, self._troubles, self._pace(), self._sleep, self._touch)
        tasks = [
            asyncio.create_task(loop)
            for loop in (follower.follow(), follower.tell_oddities(), self._renew(), self._guard())
        ]
        for task in tasks:
            task.add_done_callback(lambda _: view.changed.set())
        try:
            while True:
                await view.changed.wait()
                view.changed.clear()
                for task in tasks:
                    if task.done():
                        task.result()
                event = view.take()
                if event is not None:
                    began = self._clock()
                    yield event
                    if rest := min(_REST * (self._clock() - began), _REST_MOST_S):
                        await self._sleep(rest)
        finally:
            self._views.remove(view)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> None:
        margin_s = self._settings.renew_margin_min * 60.0
        while True:
            delay = RENEW_S
            try:
                delay = min(delay, max(0.0, await self._holder.renew(margin_s)))
                self._troubles.note("renewal", "")
            except GatewayError as exc:
                self._troubles.note("renewal", f"this node's lease cannot be renewed: {exc}")
            await self._sleep(delay)

    async def _guard(self) -> None:
        """Look after our entry whenever it was touched."""
        pace = self._pace()
        while True:
            await self._touched.wait()
            self._touched.clear()
            try:
                await self._holder.check()
                self._troubles.note("own lease", "")
                pace.reset()
            except GatewayError as exc:
                self._troubles.note("own lease", f"this node's lease cannot be put back: {exc}")
                self._touched.set()
                await self._sleep(pace.next())

    def _touch(self, key: bytes | None) -> None:
        """The entry at `key` may have changed; None: all may."""
        held = self._holder.held
        if held is not None and key in {None, held.record.key}:
            self._touched.set()

    def _hide(self, hidden: Hidden) -> None:
        for view in self._views:
            view.hide(hidden)

    def _pace(self) -> Pace:
        return Pace(self._below)

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns once the store answers; ConfigError where it refuses our credentials."""
        pace = self._pace()
        while True:
            try:
                found = await call()
            except CredentialsError as exc:
                remedy = f"give etcd.username and etcd.password as the store knows them: {exc}"
                raise ConfigError("etcd.username", self._settings.username, remedy) from exc
            except GatewayError as exc:
                self._troubles.note("store", str(exc))
                await self._sleep(pace.next())
            else:
                self._troubles.note("store", "")
                return found
