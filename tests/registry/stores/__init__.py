"""What the suite needs of a store, and the network that all of them hold; a module here for each kind of store.

Such a module has one `opened(request)`, an async context manager that gives an empty Store; conftest.py lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, Protocol

from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep
from vxland.registry.protocol import Registry

NETWORKS: Final = ("10.244.0.0/16", "fd00:10:244::/56")
OWN_SUBNETS: Final = ("10.244.0.0/24", "fd00:10:244::/64")
OWN_MAC: Final = Mac.parse("ce:5f:f6:73:cf:b9")


class Store(Protocol):
    """What stands behind a registry, changed as other nodes or an administrator would."""

    registry: Registry
    """That of this node, which is to hold OWN_SUBNETS of NETWORKS."""

    outer: Mapping[int, int]
    """The IP version of VTEP addresses, by the version of the subnets behind them."""

    async def put(self, lease: Lease) -> None:
        """Another node takes `lease`, or changes it. Its two leases have subnets of one number."""

    async def remove(self, subnet: Subnet) -> None:
        """The lease on `subnet` ends."""


def node_address(number: int, version: int) -> Address:
    """The underlay address of node `number`; this node is 0."""
    if version == 4:
        return IPv4Address("192.168.111.128") + number
    return IPv6Address("fd00:192:168::80") + number


def own_vteps(store: Store, mac: Mac = OWN_MAC) -> dict[int, Vtep]:
    """What this node publishes, by the IP version of its subnets."""
    return {version: Vtep(node_address(0, outer), mac) for version, outer in store.outer.items()}


def own_leases(store: Store, mac: Mac = OWN_MAC) -> frozenset[Lease]:
    """What this node holds once it has published."""
    vteps = own_vteps(store, mac)
    return frozenset(Lease(subnet, vteps[subnet.version]) for subnet in map(ip_network, OWN_SUBNETS))


def lease(number: int, *, mac: int = 0, version: int = 4, outer: int = 4) -> Lease:
    """The lease of node `number` on its subnet of IP version `version`; `outer` is that of its VTEP address."""
    subnet = ip_network(f"10.244.{number}.0/24" if version == 4 else f"fd00:10:244:{number:x}::/64")
    vtep = Vtep(node_address(number, outer), Mac(0x3A87CF816A00 + (mac or number)))
    return Lease(subnet, vtep)
