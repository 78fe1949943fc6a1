"""The registry of a Kubernetes cluster: each Node object is a node's lease, by flannel's annotations.

The network's configuration comes from a file, the ConfigMap's. A Node's subnets are its podCIDRs, which a controller
assigns. So there is nothing to allocate, renew or expire: a peer exists as long as its Node.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import aclosing
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from vxland.config import Settings
from vxland.config.flannel import KubeSettings
from vxland.model.errors import ConfigError
from vxland.model.lease import Address, Delta, Lease, RegistryHealth, Snapshot, Vtep
from vxland.registry import net_conf
from vxland.registry.kube.client import Client
from vxland.registry.kube.credentials import SERVICE_ACCOUNT, open_access
from vxland.registry.kube.follower import NodeFollower
from vxland.registry.kube.own_node import OwnNode
from vxland.registry.kube.pod_names import PodNames
from vxland.registry.protocol import Recall
from vxland.registry.retry import Retrier
from vxland.registry.view import View
from vxland.registry.watches import Watches

REPAIR_S: Final = 1.0
"""The least time between two repairs of our annotations: another program may change them all the time."""

_JITTER = SystemRandom().random


class KubeRegistry:
    """A Registry over the Kubernetes API. ConfigError if the settings lead to no server or credentials.

    `environ`, `service_account`, `sleep` and `jitter` are for tests.
    """

    def __init__(
        self,
        settings: KubeSettings,
        *,
        environ: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = _JITTER,
    ) -> None:
        self._settings = settings
        self._sleep = sleep
        self._retrier = Retrier(sleep, jitter)
        self._watches = Watches(sleep)
        self._client = Client(lambda: open_access(settings, environ, service_account))
        self._own = OwnNode(self._client, self._retrier, settings, environ, self._watches.hide)
        self._pods = PodNames(self._client.pods_at)
        self._conf: net_conf.NetConf | None = None

    @property
    def source(self) -> str:
        """The prefix of the annotations, and the API server or where its address is found."""
        server = self._settings.api_url or self._settings.kubeconfig or "the service account"
        return f"kube {self._settings.annotation_prefix} at {server}"

    @property
    def health(self) -> RegistryHealth:
        """Whether the API answers, and which Nodes are invalid."""
        quarantined = self._watches.quarantined
        if self._own.problem:
            quarantined[self._own.name] = self._own.problem
        return RegistryHealth(*self._retrier.error, quarantined)

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds; empty before publish()."""
        return self._own.leases

    @property
    def ends(self) -> float:
        """Never: a Node keeps its podCIDR."""
        return float("inf")

    async def net_conf(self) -> net_conf.NetConf:
        """Return the network of the file `net_conf`; ConfigError."""
        if self._conf is None:
            path = self._settings.net_conf
            try:
                text = await asyncio.to_thread(path.read_text, encoding="utf-8")
            except OSError as exc:
                remedy = f"mount flannel's net-conf.json there, or name where it is: {exc.strerror}"
                raise ConfigError("kube.net_conf", str(path), remedy) from exc
            except UnicodeDecodeError as exc:
                raise ConfigError("kube.net_conf", str(path), f"save it as UTF-8: {exc.reason}") from exc
            self._conf = net_conf.parse(text, str(path), pools=False)
        return self._conf

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:  # noqa: ARG002  (the Node has a name)
        """Wait for this node's Node, and return its annotations. ConfigError of an administrator's annotation."""
        return await self._own.recall()

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Wait for this node's Node and podCIDRs, and annotate it. StartError if they do not fit the network."""
        return await self._own.publish(vteps, await self.net_conf())

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Quarantine leases with these VTEP addresses."""
        self._watches.avoid(addresses)

    async def announce(self) -> None:
        """Set the Node's NetworkUnavailable condition to false, if configured. Does not fail."""
        await self._own.announce()

    async def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """Yield the other Nodes' leases; LeaseLostError if this node's Node has another podCIDR now."""
        conf = await self.net_conf()
        await self._own.find()

        def loops(view: View) -> list[Coroutine[Any, Any, None]]:
            follower = NodeFollower(self._client, view, conf, self._retrier, self._own)
            return [follower.follow(), self._keep()]

        async with aclosing(self._watches.run(loops)) as events:
            async for event in events:
                yield event

    async def _keep(self) -> None:
        """Repair our Node whenever it has changed."""
        while True:
            await self._own.due.wait()
            self._own.due.clear()
            if await self._retrier.persist("own node", self._own.repair):
                await self._sleep(REPAIR_S)

    async def pod_names(self, addresses: Collection[Address]) -> Mapping[Address, str]:
        """Return namespace and name of the pods with these addresses; ApiError. Nothing unless `kube.pod_names`."""
        return await self._pods.find(addresses) if self._settings.pod_names else {}

    def reload(self, settings: Settings) -> None:
        """Do nothing: the store has the leases."""

    async def close(self) -> None:
        """Close connections; the annotations stay, as flanneld's do."""
        await self._client.close()
