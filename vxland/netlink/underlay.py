"""The choice of the underlay: the interface and addresses that the tunnel sends from. Pure.

flannel: pkg/ipmatch/match.go, pkg/ip/iface.go. A network of both IP versions has one interface, and an address of each.
Link-local IPv4 addresses are a last resort. IPv6 ones are never chosen, since a VTEP's address is published without its
interface.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

from vxland.config.goregex import translate
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import KIND_LOCAL, KIND_UNICAST, Route, Underlay, UnderlaySelector
from vxland.model.lease import Address
from vxland.model.text import link_name
from vxland.netlink.parse import LinkInfo, LocalAddress, RouteLookup

_INTERFACE, _PATTERN, _CAN_REACH = "underlay.interface", "underlay.interface_regex", "underlay.can_reach"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Links, addresses and routes to choose from.

    `default_routes` has the best first; `reached` is the route to UnderlaySelector.can_reach.
    """

    links: Sequence[LinkInfo]
    addresses: Sequence[LocalAddress]
    default_routes: Sequence[Route]
    reached: RouteLookup | None = None

    def addresses_of(self, link: LinkInfo) -> list[Address]:
        """Return the link's usable addresses: IPv4 before IPv6, each with the best first."""
        found = [
            (address.interface.version, self._rank(link, address, at), address.interface.ip)
            for at, address in enumerate(self.addresses)
            if address.index == link.index and address.bindable and not address.deprecated
        ]
        return [ip for _, _, ip in sorted(found, key=lambda each: each[:2])]

    def _rank(self, link: LinkInfo, address: LocalAddress, at: int) -> tuple[bool, bool, bool, bool, bool, int, int]:
        """Return a sort key, the best address first; `at` is its place in the kernel's list.

        The best is the address that the kernel itself sends from by the link's default route: the route's `src`, else
        an address in the gateway's subnet. So a VIP (/32, /128) that comes and goes is not preferred to the node's own.
        Then follows the first IPv4 address of the list, as in flannel, and the oldest IPv6 one, since the kernel lists
        the newest first. Kernel: inet_select_addr, ipv6_link_dev_addr. An address's lifetime is no criterion: a DHCP
        client's address is the node's own, and a VIP has no end.
        """
        ip, network = address.interface.ip, address.interface.network
        route = next((r for r in self.default_routes if r.device == link.name and r.subnet.version == ip.version), None)
        source, gateway = (None, None) if route is None else (route.source, route.gateway)
        return (
            ip.is_link_local,
            source is not None and ip != source,
            address.secondary,
            gateway is not None and ip.version == gateway.version and gateway not in network,
            address.lone and (ip.version == 6 or route is None),
            address.made if ip.version == 6 else 0,
            at if ip.version == 4 else -at,
        )

    def has(self, link: LinkInfo, address: Address) -> bool:
        """Return whether a VTEP on this link can have the address; a configured one may be deprecated."""
        return any(a.index == link.index and a.bindable and a.interface.ip == address for a in self.addresses)

    def __str__(self) -> str:
        names = (
            f"{link_name(link.name)} ({', '.join(map(str, self.addresses_of(link))) or 'no address'})"
            for link in self.links
        )
        return ", ".join(names) or "none"


def choose_underlay(inventory: Inventory, interface: str | None, address: Address | None) -> Underlay:
    """Return the Underlay by interface, by address, or by the default route, as choose_either()."""
    interfaces = () if interface is None else (interface,)
    return choose_either(
        inventory, UnderlaySelector(interfaces, addresses={address.version: address} if address else {})
    )


def choose_either(inventory: Inventory, selector: UnderlaySelector) -> Underlay:
    """Return the Underlay of a tunnel of one IP version: that of the configured address, else IPv4 if there is any.

    ConfigError as choose_underlays().
    """
    for version in selector.addresses:
        return choose_underlays(inventory, selector, (version,))[version]
    try:
        return choose_underlays(inventory, selector, (4,))[4]
    except ConfigError as without_v4:
        try:
            return choose_underlays(inventory, selector, (6,))[6]
        except ConfigError:
            raise without_v4 from None


def choose_underlays(inventory: Inventory, selector: UnderlaySelector, versions: Iterable[int]) -> dict[int, Underlay]:
    """Return the Underlay of each IP version, all on one interface. ConfigError names the wrong key and what exists."""
    search = _Search(inventory, selector, tuple(sorted(set(versions))))
    refusals: list[ConfigError] = []
    for attempt in search.attempts():
        try:
            return attempt()
        except ConfigError as refusal:
            refusals.append(refusal)
    if len(refusals) == 1:
        raise refusals[0]
    tried = ", ".join(str(refusal.value) for refusal in refusals)
    raise ConfigError(_INTERFACE, tried, f"none of these has {search.needs}; use one of {inventory}")


@dataclass(frozen=True, slots=True)
class _Search:
    inventory: Inventory
    selector: UnderlaySelector
    versions: tuple[int, ...]

    @property
    def needs(self) -> str:
        return " and ".join(f"an IPv{version} address" for version in self.versions)

    def attempts(self) -> Iterator[Callable[[], dict[int, Underlay]]]:
        selector = self.selector
        for name in selector.interfaces:
            yield partial(self._by_interface, name)
        for pattern in selector.patterns:
            yield partial(self._by_pattern, pattern)
        if selector.can_reach is not None:
            yield partial(self._by_route, selector.can_reach)
        if not selector.interfaces and not selector.patterns and selector.can_reach is None:
            wanted = next(
                (selector.addresses[version] for version in self.versions if version in selector.addresses), None
            )
            yield self._by_default_route if wanted is None else partial(self._by_address, wanted)

    def _by_interface(self, name: str) -> dict[int, Underlay]:
        try:
            address = ip_address(name)
        except ValueError:
            return self._on(self._link(name))
        link = next((link for link in self.inventory.links if self.inventory.has(link, address)), None)
        if link is None or address.version not in self.versions:
            raise ConfigError(_INTERFACE, name, f"no interface has this address; use one of {self.inventory}")
        return self._on(link, {address.version: address})

    def _by_pattern(self, pattern: str) -> dict[int, Underlay]:
        search = re.compile(translate(pattern)).search
        for link in self.inventory.links:
            matches: dict[int, Address] = {}
            for address in self.inventory.addresses_of(link):
                if search(str(address)):
                    matches.setdefault(address.version, address)
            if matches.keys() >= set(self.versions):
                return self._on(link, matches)
        for link in self.inventory.links:
            if search(link.name):
                return self._on(link)
        raise ConfigError(_PATTERN, pattern, f"it is found in no address and no name of {self.inventory}")

    def _by_route(self, address: Address) -> dict[int, Underlay]:
        route = self.inventory.reached
        links = () if route is None else (link for link in self.inventory.links if link.index == route.index)
        link = next(iter(links), None)
        if route is None or link is None or route.kind not in {KIND_UNICAST, KIND_LOCAL}:
            raise ConfigError(
                _CAN_REACH, str(address), "no route leads there; name an address that this node can reach"
            )
        if route.kind == KIND_LOCAL:
            raise ConfigError(_CAN_REACH, str(address), "this node has it; name an address of another node")
        source = route.source
        usable = source is not None and any(self.inventory.has(link, source) for link in self.inventory.links)
        return self._on(link, {source.version: source} if source is not None and usable else {})

    def _by_address(self, address: Address) -> dict[int, Underlay]:
        for link in self.inventory.links:
            if self.inventory.has(link, address):
                return self._on(link)
        raise ConfigError(self._key(address), str(address), f"use an address of this node: {self.inventory}")

    def _by_default_route(self) -> dict[int, Underlay]:
        names: dict[int, str] = {}
        for version in self.versions:
            routes = [
                r for r in self.inventory.default_routes if r.subnet.version == version and r.kind == KIND_UNICAST
            ]
            if not routes:
                which = f"IPv{version} " if self.inventory.default_routes else ""
                raise self._unnamed(f"there is no {which}default route")
            names[version] = routes[0].device
            if not names[version]:
                raise self._unnamed("the default route has several nexthops")
        if len(set(names.values())) > 1:
            which = ", ".join(f"that of IPv{version} is {link_name(name)}" for version, name in names.items())
            raise self._unnamed(f"the default routes have different interfaces: {which}")
        return self._on(self._link(names[self.versions[0]]))

    def _link(self, name: str) -> LinkInfo:
        for link in self.inventory.links:
            if link.name == name:
                return link
        raise ConfigError(_INTERFACE, name, f"no such interface; use one of {self.inventory}")

    def _on(self, link: LinkInfo, chosen: Mapping[int, Address] | None = None) -> dict[int, Underlay]:
        """Return the underlays on a link, with the configured addresses, else those `chosen`, else its best."""
        usable, name = self.inventory.addresses_of(link), link_name(link.name)
        best = {address.version: address for address in reversed(usable)} | dict(chosen or {})
        for version in self.versions:
            wanted = self.selector.addresses.get(version)
            if wanted is not None:
                if not self.inventory.has(link, wanted):
                    there = ", ".join(map(str, usable)) or "none"
                    remedy = f"not an address of {name}; use one of {there}, or another interface"
                    raise ConfigError(self._key(wanted), str(wanted), remedy)
                best[version] = wanted
            elif version not in best:
                missing = f"usable IPv{version}" if usable else "global"
                raise ConfigError(_INTERFACE, name, f"it has no {missing} address; use one of {self.inventory}")
        if link.mtu <= 0:
            raise ConfigError(_INTERFACE, name, "its MTU is 0; set one with 'ip link set', or use another interface")
        return {version: Underlay(name, link.index, best[version], link.mtu, link.vrf) for version in self.versions}

    def _key(self, address: Address) -> str:
        return "underlay.address_v6" if address.version == 6 and len(self.versions) > 1 else "underlay.address"

    def _unnamed(self, why: str) -> ConfigError:
        return ConfigError(_INTERFACE, None, f"{why}; name one of {self.inventory}")
