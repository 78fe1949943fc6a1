"""The suite's interface to a store, and the network that all stores have; one module here for each kind of store.

Such a module has one `opened(request)`, an async context manager that yields an empty Store; conftest.py lists them.
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
    """The store behind a registry, changed as by other nodes or an administrator."""

    registry: Registry
    """That of this node, which is to hold OWN_SUBNETS of NETWORKS."""

    outer: Mapping[int, int]
    """The IP version of VTEP addresses, by the version of the subnets behind them."""

    async def put(self, lease: Lease) -> None:
        """Add or change another node's `lease`. The two leases of a node have subnets of one number."""

    async def remove(self, subnet: Subnet) -> None:
        """End the lease on `subnet`."""


def node_address(number: int, version: int) -> Address:
    """Return the underlay address of node `number`; this node is 0."""
    if version == 4:
        return IPv4Address("192.168.111.128") + number
    return IPv6Address("fd00:192:168::80") + number


def own_vteps(store: Store, mac: Mac = OWN_MAC) -> dict[int, Vtep]:
    """Return this node's VTEPs, by the IP version of its subnets."""
    return {version: Vtep(node_address(0, outer), mac) for version, outer in store.outer.items()}


def own_leases(store: Store, mac: Mac = OWN_MAC) -> frozenset[Lease]:
    """Return the leases of this node after publish()."""
    vteps = own_vteps(store, mac)
    return frozenset(Lease(subnet, vteps[subnet.version]) for subnet in map(ip_network, OWN_SUBNETS))


def lease(number: int, *, mac: int = 0, version: int = 4, outer: int = 4) -> Lease:
    """Return the lease of node `number` on its subnet of IP `version`, with a VTEP address of version `outer`."""
    subnet = ip_network(f"10.244.{number}.0/24" if version == 4 else f"fd00:10:244:{number:x}::/64")
    vtep = Vtep(node_address(number, outer), Mac(0x3A87CF816A00 + (mac or number)))
    return Lease(subnet, vtep)
