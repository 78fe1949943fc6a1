"""A Registry over flannel's keys in etcd v3.

A watch lists the entries at a revision and then follows the changes from there. If the connection ends, a new one
continues from the last revision, with another member if necessary, after 0.1 s to 5 s, in a large cluster up to 30 s.
Everything is listed again only if that revision was compacted, or the store was replaced. Two more loops keep this
node's own entry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import aclosing
from functools import partial
from random import SystemRandom
from typing import Any, Final, TypeVar

from vxland.config import Settings
from vxland.config.flannel import EtcdSettings
from vxland.model.errors import ConfigError, StartError
from vxland.model.lease import Address, Delta, Lease, RegistryHealth, Snapshot, Subnet, Vtep
from vxland.registry.errors import StoreError, guarded
from vxland.registry.etcd.answers import CredentialsError
from vxland.registry.etcd.follower import EtcdFollower
from vxland.registry.etcd.gateway import Gateway
from vxland.registry.etcd.own_lease import NEVER, TTL_S, OwnLease
from vxland.registry.etcd.store import Store
from vxland.registry.net_conf import NetConf, parse
from vxland.registry.protocol import Recall
from vxland.registry.retry import Retrier
from vxland.registry.view import View
from vxland.registry.watches import Watches

CONFIG_RETRY_S: Final = 1.0  # flannel: WatchNetworkConfig
RENEW_S: Final = 60.0  # the longest time between two checks of the clock, and between two tries
CHECK_S: Final = 1.0
"""The least time between two checks of our entry: a store may report changes all the time."""

_BELOW = SystemRandom().randrange
_JITTER = SystemRandom().random

T = TypeVar("T")


class EtcdRegistry:
    """A Registry over the etcd of `settings`; `previous` returns this node's last subnets. The rest is for tests.

    ConfigError if the files for TLS cannot be used.
    """

    def __init__(
        self,
        settings: EtcdSettings,
        previous: Callable[[], Mapping[int, Subnet]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        below: Callable[[int], int] = _BELOW,
        jitter: Callable[[], float] = _JITTER,
    ) -> None:
        self._settings = settings
        self._previous = previous
        self._sleep = sleep
        self._gateway = Gateway(settings)
        self._store = Store(self._gateway, settings.prefix)
        self._watches = Watches(sleep)
        self._holder = OwnLease(self._store, clock, below, self._watches.hide)
        self._retrier = Retrier(sleep, jitter)
        self._margin_s = _spread_margin(settings.renew_margin_min * 60.0, jitter())
        self._touched = asyncio.Event()
        self._conf: NetConf | None = None

    @property
    def source(self) -> str:
        """The prefix and the endpoints, whatever their order."""
        return f"etcd {self._settings.prefix} at {', '.join(sorted(self._settings.endpoints))}"

    @property
    def health(self) -> RegistryHealth:
        """The reason why the store cannot be read, and the quarantined entries."""
        return RegistryHealth(*self._retrier.error, self._watches.quarantined)

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds; empty before publish()."""
        return frozenset() if self._holder.held is None else self._holder.held.leases

    @property
    def ends(self) -> float:
        """The time.monotonic() at which the entry expires; infinity for a reservation."""
        return NEVER if self._holder.held is None else self._holder.held.ends

    async def net_conf(self) -> NetConf:
        """Wait for the network's configuration at PREFIX/config, and return it."""
        if self._conf is None:
            source = f"{self._store.config_key} in etcd"
            while (text := await self._persist(self._store.config)) is None:
                self._retrier.note("config", f"{source} is missing: put flannel's network configuration there")
                await self._sleep(CONFIG_RETRY_S)
            self._retrier.note("config", "")
            conf = parse(text.decode(errors="replace"), source, pools=True)
            if all(network.version != 4 for network in conf.networks):
                remedy = "enable IPv4 too, or use registry.kind kube: flannel's keys in etcd cannot name IPv6 alone"
                raise ConfigError(f"{source}: EnableIPv4", value=False, remedy=remedy)
            self._conf = conf
        return self._conf

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:
        """Return the MACs of the entry with this node's IPv4 VTEP address."""
        if 4 not in advertised:
            return Recall()
        conf = await self.net_conf()
        return Recall(await self._persist(partial(self._holder.recall, conf, advertised[4])))

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Take or keep this node's subnets, as flannel does; waits for the store."""
        conf = await self.net_conf()
        for network in conf.networks:
            vtep = vteps.get(network.version)
            if vtep is None or vtep.address.version != network.version:
                cause = f"the network {network} needs VTEPs with IPv{network.version} addresses, and this node has none"
                raise StartError(cause, f"give the underlay interface an IPv{network.version} address, or name another")
        ours = {version: vteps[version] for version in conf.by_version}
        return await self._persist(partial(self._holder.acquire, conf, ours, self._previous()))

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Quarantine leases with these VTEP addresses."""
        self._watches.avoid(addresses)

    async def announce(self) -> None:
        """Do nothing: the entry is enough."""

    async def pod_names(self, addresses: Collection[Address]) -> Mapping[Address, str]:  # noqa: ARG002  (the Protocol's)
        """Return nothing: etcd has no pods."""
        return {}

    def reload(self, settings: Settings) -> None:
        """Do nothing: the store has the leases."""

    async def close(self) -> None:
        """Close the connections; the entry stays until it expires."""
        await self._gateway.close()

    async def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """Yield the leases of others; LeaseLostError if another node has this one's subnet."""
        conf = await self.net_conf()

        def loops(view: View) -> list[Coroutine[Any, Any, None]]:
            follower = EtcdFollower(self._store, view, conf, self._retrier, self._touch)
            return [follower.follow(), self._renew(), self._guard()]

        async with aclosing(self._watches.run(loops)) as events:
            async for event in events:
                yield event

    async def _renew(self) -> None:
        while True:
            delay = RENEW_S
            try:
                with guarded():
                    delay = min(delay, max(0.0, await self._holder.renew(self._margin_s)))
                self._retrier.note("renewal", "")
            except StoreError as exc:
                self._retrier.note("renewal", str(exc))
            await self._sleep(delay)

    async def _guard(self) -> None:
        """Check our entry whenever it may have changed."""
        while True:
            await self._touched.wait()
            self._touched.clear()
            await self._retrier.persist("own lease", self._holder.check)
            await self._sleep(CHECK_S)

    def _touch(self, key: bytes | None) -> None:
        """Note that the entry at `key` may have changed; None: all may."""
        held = self._holder.held
        if held is not None and key in {None, held.record.key}:
            self._touched.set()

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `call`, once the store answers; ConfigError if it refuses our credentials."""

        async def attempt() -> T:
            try:
                return await call()
            except CredentialsError as exc:
                remedy = f"give etcd.username and etcd.password as the store knows them: {exc}"
                raise ConfigError("etcd.username", self._settings.username, remedy) from exc

        return await self._retrier.persist("store", attempt)


def _spread_margin(margin_s: float, drawn: float) -> float:
    """Return a margin of one to two times `margin_s`: nodes that started together must not renew together.

    It stays below the lease's time, or the node would renew all the time.
    """
    return margin_s + drawn * min(margin_s, (TTL_S - margin_s) / 2)
