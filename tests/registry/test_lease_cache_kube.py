"""A start while the Kubernetes API is unavailable, with overwritten addresses of this node and of a peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.patience import PATIENCE_S
from tests.registry.fakekube import FakeKube
from tests.registry.following import Reading, until
from tests.registry.kubeapi import OWN, PREFIX, Admin, flannel_annotations, registry
from tests.registry.kubecase import VTEPS, peer
from vxland.model.lease import Address, Lease, Vtep
from vxland.registry.lease_cache import LeaseCache

OVERWRITE = ip_address("203.0.113.7")
SUBNET = ip_network("10.244.0.0/24")
BEHIND_NAT = Lease(peer(1).subnet, peer(1).vtep, (ip_network("192.168.111.201/32"),))
"""A peer whose annotation public-ip-overwrite is set: its datagrams come from the address of its Node's status."""


class Node:
    """The registries of one node, one for each of its starts, over one API server and one cache file."""

    def __init__(self, server: FakeKube, admin: Admin, folder: Path, stack: AsyncExitStack) -> None:
        self.server = server
        self.admin = admin
        self.path = folder / "leases.json"
        self._folder = folder
        self._stack = stack

    def start(self, patience_s: float = 0.2) -> LeaseCache:
        """Return a registry that waits `patience_s` for the API."""
        cache = LeaseCache(registry(self.server, self._folder), self.path, pools=False, patience_s=patience_s)
        self._stack.push_async_callback(cache.close)
        return cache

    async def live(self) -> None:
        """Run beside BEHIND_NAT until the file is written, then stop."""
        cache = self.start(PATIENCE_S)
        await ask_as_a_daemon(cache, OVERWRITE)
        async with Reading(cache) as reading:
            await reading.until(BEHIND_NAT)
            await until(self.path.exists)
        await cache.close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node with an overwrite, beside a peer with one."""
    server = FakeKube()
    await server.start()
    try:
        async with AsyncExitStack() as stack:
            admin = await stack.enter_async_context(Admin(server))
            await admin.add(OWN, str(SUBNET), annotations={f"{PREFIX}public-ip-overwrite": str(OVERWRITE)})
            overwritten = {**flannel_annotations(BEHIND_NAT), "public-ip-overwrite": str(BEHIND_NAT.vtep.address)}
            await admin.add("node1", str(BEHIND_NAT.subnet))
            annotations = {PREFIX + key: text for key, text in overwritten.items()}
            addresses = [{"type": "InternalIP", "address": "192.168.111.201"}]
            await admin.ask(
                "PATCH",
                "nodes/node1/status",
                {"metadata": {"annotations": annotations}, "status": {"addresses": addresses}},
                "application/strategic-merge-patch+json",
            )
            yield Node(server, admin, tmp_path, stack)
    finally:
        await server.stop()


async def ask_as_a_daemon(cache: LeaseCache, overwrite: Address) -> None:
    """Make a daemon's calls before watch(), and check the results."""
    await cache.net_conf()
    assert (await cache.recall({})).overwrites == {4: overwrite}
    assert (await cache.recall({4: VTEPS[4].address})).macs.get(4, VTEPS[4].mac) == VTEPS[4].mac
    held = await cache.publish({4: VTEPS[4]})
    assert held == cache.published == {Lease(SUBNET, Vtep(overwrite, VTEPS[4].mac))}


async def test_a_node_with_an_overwrite_starts_from_the_cache(node: Node) -> None:
    """It refused its cache as another node's, because its lease has the overwrite and not its own address.

    Datagrams of a peer behind NAT were dropped as an unknown sender's until the store was back: the cache had no
    `sources`.
    """
    await node.live()
    await node.server.stop()
    cache = node.start()
    with capture_logs() as logs:
        await ask_as_a_daemon(cache, OVERWRITE)
    assert [entry["event"] for entry in logs] == ["registry_trouble", "leases_remembered"]
    await cache.announce()
    async with Reading(cache) as reading:
        assert reading.knows(BEHIND_NAT)
        assert cache.health.cached
        await node.server.start()
        await until(lambda: not cache.health.cached)
        assert reading.knows(BEHIND_NAT)
        assert cache.published == {Lease(SUBNET, Vtep(OVERWRITE, VTEPS[4].mac))}
    assert (await node.admin.annotations())["public-ip"] == str(OVERWRITE)


async def test_an_overwrite_that_was_removed_meanwhile(node: Node) -> None:
    """The node is published with its own address once the API answers, and goes on."""
    await node.live()
    await node.admin.annotate(OWN, {"public-ip-overwrite": None})
    await node.server.stop()
    cache = node.start()
    await ask_as_a_daemon(cache, OVERWRITE)
    async with Reading(cache):
        await node.server.start()
        await until(lambda: not cache.health.cached)
        assert cache.published == {Lease(SUBNET, VTEPS[4])}
    assert (await node.admin.annotations())["public-ip"] == str(VTEPS[4].address)


async def test_an_overwrite_that_was_set_while_the_node_ran(node: Node) -> None:
    """The file has it at the next start, although the node started without it."""
    await node.admin.annotate(OWN, {"public-ip-overwrite": None})
    cache = node.start(PATIENCE_S)
    await cache.net_conf()
    await cache.publish({4: VTEPS[4]})
    async with Reading(cache):
        await node.admin.annotate(OWN, {"public-ip-overwrite": str(OVERWRITE)})
        await until(lambda: cache.published == {Lease(SUBNET, Vtep(OVERWRITE, VTEPS[4].mac))})
    await cache.close()
    await node.server.stop()
    await ask_as_a_daemon(node.start(), OVERWRITE)
