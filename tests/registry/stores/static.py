"""A configuration file, reloaded after each change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import yaml

from tests.registry.stores import NETWORKS, OWN_MAC, OWN_SUBNETS, Store, node_address
from vxland.config import Settings, parse
from vxland.model.lease import Lease, Subnet, Vtep
from vxland.registry.protocol import Registry
from vxland.registry.static import StaticRegistry


@asynccontextmanager
async def opened(_request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Yield a file without peers."""
    yield StaticStore()


class StaticStore:
    """A store in which both families of subnets share a VTEP: a node has one underlay address."""

    def __init__(self) -> None:
        self.outer: Mapping[int, int] = {4: 4, 6: 4}
        self._leases: dict[Subnet, Vtep] = {}
        self._registry = StaticRegistry(self._settings())
        self.registry: Registry = self._registry

    async def put(self, lease: Lease) -> None:
        """Add or change another node's `lease`."""
        self._leases[lease.subnet] = lease.vtep
        self._registry.reload(self._settings())

    async def remove(self, subnet: Subnet) -> None:
        """End the lease on `subnet`."""
        del self._leases[subnet]
        self._registry.reload(self._settings())

    def _settings(self) -> Settings:
        subnets_of: dict[Vtep, list[str]] = {}
        for subnet, vtep in self._leases.items():
            subnets_of.setdefault(vtep, []).append(str(subnet))
        peers = [
            {"subnet": subnets, "vtep": str(vtep.address), "mac": str(vtep.mac)} for vtep, subnets in subnets_of.items()
        ]
        return parse(
            yaml.safe_dump(
                {
                    "overlay": {"network": list(NETWORKS), "subnet": list(OWN_SUBNETS), "mac": str(OWN_MAC)},
                    "underlay": {"address": str(node_address(0, 4))},
                    "registry": {"kind": "static", "peers": peers},
                }
            )
        )
