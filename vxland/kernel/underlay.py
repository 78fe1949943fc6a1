"""Which interface and address the tunnel leaves from: by name, by address, or by the default route. Pure.

flannel: pkg/ipmatch/match.go. IPv4 is preferred where nothing says otherwise, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vxland.errors import ConfigError
from vxland.kernel.rtparse import SCOPE_LINK, LinkInfo
from vxland.model import Address
from vxland.state import InterfaceAddress, Route, Underlay

_INTERFACE, _ADDRESS = "underlay.interface", "underlay.address"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What there is to choose from: links, their addresses as (index, scope, address), default routes best first."""

    links: Sequence[LinkInfo]
    addresses: Sequence[tuple[int, int, InterfaceAddress]]
    default_routes: Sequence[Route]

    def addresses_of(self, link: LinkInfo) -> list[Address]:
        """The link's global unicast addresses, IPv4's first."""
        found = [address.ip for index, scope, address in self.addresses if index == link.index and scope < SCOPE_LINK]
        return sorted(found, key=lambda address: address.version)

    def __str__(self) -> str:
        names = (f"{link.name} ({', '.join(map(str, self.addresses_of(link))) or 'no address'})" for link in self.links)
        return ", ".join(names) or "none"


def choose_underlay(inventory: Inventory, interface: str | None, address: Address | None) -> Underlay:
    """The Underlay that settings mean. ConfigError of the key at fault, naming what exists."""
    if interface is not None:
        return _by_name(inventory, interface, address)
    if address is not None:
        for link in inventory.links:
            if address in inventory.addresses_of(link):
                return Underlay(link.name, link.index, address, link.mtu)
        raise ConfigError(_ADDRESS, str(address), f"use an address of this node: {inventory}")
    if not inventory.default_routes:
        raise ConfigError(_INTERFACE, None, f"there is no default route; name one of {inventory}")
    name = inventory.default_routes[0].device
    if not name:
        raise ConfigError(_INTERFACE, None, f"the default route has several nexthops; name one of {inventory}")
    return _by_name(inventory, name, None, inventory.default_routes[0].subnet.version)


def _by_name(inventory: Inventory, name: str, address: Address | None, version: int | None = None) -> Underlay:
    link = next((link for link in inventory.links if link.name == name), None)
    if link is None:
        raise ConfigError(_INTERFACE, name, f"no such interface; use one of {inventory}")
    found = inventory.addresses_of(link)
    if address is not None:
        if address not in found:
            remedy = (
                f"not an address of {name}; use one of {', '.join(map(str, found)) or 'none'}, or another interface"
            )
            raise ConfigError(_ADDRESS, str(address), remedy)
        return Underlay(link.name, link.index, address, link.mtu)
    if not found:
        raise ConfigError(_INTERFACE, name, f"it has no global address; use one of {inventory}")
    best = next((candidate for candidate in found if candidate.version == version), found[0])
    return Underlay(link.name, link.index, best, link.mtu)
