"""The Node objects of a Kubernetes API server: an in-repo fake, or a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.registry.fakekube import FakeKube
from tests.registry.kubeapi import OWN, Admin, flannel_annotations, registry
from tests.registry.realkube import RealKube
from tests.registry.stores import NETWORKS, OWN_SUBNETS, Store
from vxland.model.lease import Lease, Subnet
from vxland.registry.protocol import Registry


@asynccontextmanager
async def opened_fake(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Yield a fake API server with only this node."""
    server = FakeKube()
    await server.start()
    try:
        async with Admin(server) as admin:
            yield await KubeStore.made(admin, request.getfixturevalue("tmp_path"))
    finally:
        await server.stop()


@asynccontextmanager
async def opened_real(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Yield the session's API server with only this node."""
    server: RealKube = request.getfixturevalue("real_kube")
    async with Admin(server) as admin:
        await admin.clear()
        yield await KubeStore.made(admin, request.getfixturevalue("tmp_path"))


class KubeStore:
    """A Node has both podCIDRs from the start; a lease is there once its family is annotated."""

    def __init__(self, admin: Admin, folder: Path) -> None:
        self.outer: Mapping[int, int] = {4: 4, 6: 6}
        self.registry: Registry = registry(admin.server, folder, *NETWORKS)
        self._admin = admin
        self._nodes: set[str] = set()

    @classmethod
    async def made(cls, admin: Admin, folder: Path) -> KubeStore:
        """Return the store, with this node in it."""
        await admin.add(OWN, *OWN_SUBNETS)
        return cls(admin, folder)

    async def put(self, lease: Lease) -> None:
        """Add or change another node's `lease`. The two leases of a node have subnets of one number."""
        number = _number(lease.subnet)
        name = f"node{number}"
        if name not in self._nodes:
            self._nodes.add(name)
            await self._admin.add(name, f"10.244.{number}.0/24", f"fd00:10:244:{number:x}::/64")
        await self._admin.annotate(name, flannel_annotations(lease))

    async def remove(self, subnet: Subnet) -> None:
        """End the lease on `subnet`."""
        name = f"node{_number(subnet)}"
        self._nodes.remove(name)
        await self._admin.delete(name)


def _number(subnet: Subnet) -> int:
    host_bits = 8 if subnet.version == 4 else 64
    return int(subnet.network_address) >> host_bits & 0xFF
