"""The Node object of this machine: finds it, publishes this node's annotations there, and restores them.

The kubelet creates the Node, and a controller assigns its podCIDR; both may happen after our start. If somebody deletes
the Node, the kubelet creates it again, without our annotations and perhaps with another podCIDR.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from vxland.config.flannel import KubeSettings
from vxland.model.errors import ConfigError, LeaseLostError, StartError
from vxland.model.lease import Lease, Subnet, Vtep
from vxland.model.log_quota import LogQuota
from vxland.model.text import printable
from vxland.registry.entries import MAX_NAME, MAX_REASON, Own
from vxland.registry.errors import StoreError, guarded
from vxland.registry.kube.annotations import (
    Names,
    Node,
    annotations_of,
    chosen_addresses,
    essence,
    overwrites,
    pod_subnets,
    render,
    stored_macs,
    uid_of,
)
from vxland.registry.kube.client import ApiError, Client
from vxland.registry.net_conf import NetConf
from vxland.registry.protocol import Recall
from vxland.registry.retry import Retrier

_CONDITION: Final = {
    "type": "NetworkUnavailable",
    "status": "False",
    "reason": "FlannelIsUp",
    "message": "Flannel is running on this node",
}

log = structlog.get_logger()


class OwnNode:
    """The Node of this machine. `name` is empty before find(), `leases` before publish().

    `changed` is called with each new Own.
    """

    def __init__(
        self,
        client: Client,
        retrier: Retrier,
        settings: KubeSettings,
        environ: Mapping[str, str],
        changed: Callable[[Own], None],
    ) -> None:
        self.names = Names.under(settings.annotation_prefix)
        self.name = ""
        self.leases: frozenset[Lease] = frozenset()
        self.problem = ""
        """Why the published annotations are not as they should be; empty if they are."""

        self.due = asyncio.Event()
        """Set when repair() may have something to do."""

        self._client = client
        self._retrier = retrier
        self._settings = settings
        self._environ = environ
        self._changed = changed
        self._node: Node | None = None  # from the last event of a watch
        self._vni = 0
        self._vteps: dict[int, Vtep] = {}
        self._announcing = False
        self._announced: str | None = None  # the uid of the Node that has the condition
        self._quota = LogQuota("this node's Node")

    async def find(self) -> str:
        """Return the name of the Node, found as flanneld does; ConfigError if nothing names it."""
        if not self.name:
            self.name = self._settings.node_name or self._environ.get("NODE_NAME", "") or await self._name_of_pod()
        return self.name

    async def _name_of_pod(self) -> str:
        pod, namespace = (self._environ.get(key, "") for key in ("POD_NAME", "POD_NAMESPACE"))
        if not pod or not namespace:
            remedy = "name this node's Node object, or set NODE_NAME, or POD_NAME and POD_NAMESPACE, in the environment"
            raise ConfigError("kube.node_name", "", remedy)

        async def ask() -> str:
            match await self._client.get_pod(namespace, pod):
                case {"spec": {"nodeName": str(name)}} if name and name == printable(name, MAX_NAME):
                    return name
            raise ApiError(f"node name not present in pod spec '{namespace}/{pod}'")

        return await self._retrier.persist("pod", ask)

    async def recall(self) -> Recall:
        """Wait for the Node, and return its earlier annotations. ConfigError of an administrator's annotation."""
        name = await self.find()
        texts = annotations_of(await self._retrier.persist("own node", lambda: self._client.get_node(name)))
        chosen = chosen_addresses(texts, self.names)
        return Recall(stored_macs(texts, self.names), chosen, overwrites(texts, self.names))

    async def publish(self, vteps: Mapping[int, Vtep], conf: NetConf) -> frozenset[Lease]:
        """Wait for the Node and its podCIDRs, and annotate it; StartError if they do not fit the network."""
        name = await self.find()

        async def attempt() -> None:
            node = await self._client.get_node(name)
            subnets = self._fitting(node, conf)
            self._vni, self._vteps = conf.vni, {version: vteps[version] for version in conf.by_version}
            await self._annotate(node, subnets)

        await self._retrier.persist("own node", attempt)
        return self.leases

    def _fitting(self, node: Node, conf: NetConf) -> dict[int, Subnet]:
        """Return the podCIDRs of the network's families; StartError with flannel's text, ApiError while unassigned."""
        name = self.name
        try:
            subnets = pod_subnets(node)
        except ValueError as exc:
            raise StartError(f'node "{name}": {exc}', "correct the Node's spec") from None
        if not subnets:
            raise ApiError(f'node "{name}" pod cidr not assigned')
        networks = conf.by_version
        for version, subnet in subnets.items():
            v6 = "IPv6 " if version == 6 else ""
            network = networks.get(version)
            if network is None and version == 6:
                raise StartError(
                    f'subnet "{subnet}" specified in the PodCIDR, but doesn\'t exist in the flannel net config'
                    f' of the "{name}" node',
                    f"add EnableIPv6 and IPv6Network to {self._settings.net_conf}",
                )
            if network is None:
                continue
            if not conf.contains(subnet):
                raise StartError(
                    f'subnet "{network}" specified in the flannel net config doesn\'t contain "{subnet}" {v6}PodCIDR'
                    f' of the "{name}" node',
                    f"make {self._settings.net_conf} name the cluster's --cluster-cidr",
                )
        for version in networks.keys() - subnets.keys():
            raise StartError(
                f'node "{name}" has no IPv{version} podCIDR, and the network has {networks[version]}',
                "give the Node one when it is made (a podCIDR cannot be added later), or take that network away",
            )
        return {version: subnets[version] for version in networks}

    async def _annotate(self, node: Node, subnets: Mapping[int, Subnet]) -> bool:
        """Patch the annotations that differ, return whether any did, and record the leases; ApiError, ConfigError."""
        texts = annotations_of(node)
        chosen = overwrites(texts, self.names)
        vteps = {
            version: replace(vtep, address=chosen.get(version, vtep.address)) for version, vtep in self._vteps.items()
        }
        wanted = render(self.names, self._vni, vteps)
        changed = {key: text for key, text in wanted.items() if texts.get(key) != text}
        if changed:
            await self._client.patch_node_status(self.name, {"metadata": {"annotations": changed}})
            if self._quota.allows():
                log.info(
                    "node_annotated", node=self.name, **{key.rpartition("/")[2]: text for key, text in changed.items()}
                )
        self.leases = frozenset(Lease(subnet, vteps[version]) for version, subnet in subnets.items())
        self._changed(Own(frozenset({self.name}), self.leases))
        return bool(changed)

    async def announce(self) -> None:
        """Set the NetworkUnavailable condition to false, if configured; a failure is logged, and retried later."""
        if not self._settings.set_network_unavailable:
            return
        try:
            with guarded():
                await self._set_condition()
        except StoreError as exc:
            log.warning("condition_not_set", node=self.name, error=str(exc))
        self._announcing = True  # not before, or repair() would set it too
        self.due.set()

    async def _set_condition(self) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {**_CONDITION, "lastTransitionTime": now, "lastHeartbeatTime": now}
        node = await self._client.patch_node_status(self.name, {"status": {"conditions": [condition]}})
        self._announced = uid_of(node)
        if self._quota.allows():
            log.info("condition_set", node=self.name, **_CONDITION)

    def see(self, node: Node | None) -> None:
        """Note the Node as a watch has reported it; None: it is gone."""
        self._node = None if node is None else essence(node, self.names)
        self.due.set()

    async def repair(self) -> bool:
        """Restore annotations and condition, return whether any was missing; ApiError, LeaseLostError (new podCIDR)."""
        node = self._node
        if not self.leases:
            return False
        if node is None:
            return self._note("the Node is gone, and the other nodes have dropped this one")
        try:
            subnets: Mapping[int, Subnet] = pod_subnets(node)
            if not subnets:
                return self._note(f'node "{self.name}" pod cidr not assigned')
            for lease in self.leases:
                now = subnets.get(lease.subnet.version)
                if now != lease.subnet:
                    raise LeaseLostError(f'node "{self.name}" has podCIDR {now} now, and no longer {lease.subnet}')
            repaired = await self._annotate(node, {lease.subnet.version: lease.subnet for lease in self.leases})
        except (ValueError, ConfigError) as exc:
            return self._note(str(exc))
        self._note("")
        if self._announcing and self._announced != uid_of(node):
            await self._set_condition()
            return True
        return repaired

    def _note(self, problem: str) -> bool:
        """Record the Node's problem, and log it if it is new. Returns False: nothing was repaired."""
        problem = printable(problem, MAX_REASON)
        if problem and problem != self.problem and self._quota.allows():
            log.warning("own_node_strange", node=self.name, reason=problem)
        self.problem = problem
        return False
