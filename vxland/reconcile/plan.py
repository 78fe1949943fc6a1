"""plan(want, have): what must change in the kernel, as a list. Pure; one pass over what is wanted and what is there.

For each remote lease flannel keeps one onlink route and one permanent neighbour (flannel: vxlan_network.go); the same
here, on one device for both families. No bridge FDB: a TAP stores no destination, so that table lives in the data path.

What belongs to us on the device: its MAC, MTU, accept_ra and state, routes of exactly flannel's shape, permanent
neighbours, and these addresses: IPv4 ones inside the overlay networks, those that a vxland has marked, and those of
subnets that the node held before. Anything else there is a user's and stays. Beside the device: the blackhole of a
subnet that the node held before.

A route to a peer's subnet in the very slot of ours (same TOS and metric) is replaced, wherever it leads, as flannel's
`route replace` does; one that stands before ours is deleted, since the kernel then refuses to replace (EEXIST). IPv6
routes of a better metric stay.

Left to the next round, once the kernel shows it: what an action itself flushes (a new MAC: neighbours; the last
address gone: IPv4 routes and neighbours).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from vxland.model.actions import (
    Action,
    AddAddress,
    DelAddress,
    DelNeighbour,
    DelRoute,
    ReplaceBlackhole,
    ReplaceDirectRoute,
    ReplaceNeighbour,
    ReplaceRoute,
    SetAcceptRa,
    SetMac,
    SetMtu,
    SetUp,
)
from vxland.model.kernel_state import KIND_UNICAST, Have, InterfaceAddress, LinkState, Route
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep

Ways: TypeAlias = Mapping[Subnet, tuple[Address, str]]
"""Gateway and interface by subnet."""

OUR_KINDS = frozenset({"tun", ""})  # IFLA_INFO_KIND of a TAP; "" from kernels that don't say


@dataclass(frozen=True)
class Want:
    """What the kernel should hold: our device with our addresses (/32, /128), and a way to each peer's lease."""

    device: str
    mtu: int
    mac: Mac
    addresses: frozenset[InterfaceAddress]
    networks: tuple[Subnet, ...]
    peers: frozenset[Lease] = frozenset()
    direct: bool = False
    blackholes: tuple[Subnet, ...] = ()
    former: tuple[Subnet, ...] = ()
    """What this node held before, as its subnet.env says, and does not hold any more."""
    former_networks: tuple[Subnet, ...] = ()
    """The networks of then."""

    @property
    def watched(self) -> tuple[Subnet, ...]:
        """The subnets whose routes Have.routes must tell of."""
        return (*self.networks, *self.former, *self.former_networks)

    @cached_property
    def subnets(self) -> dict[Subnet, Vtep]:
        """The peers' subnets and VTEPs, in order."""
        ours = {address.ip for address in self.addresses}
        found: dict[Subnet, Vtep] = {}
        for lease in self.peers:
            if lease.subnet.network_address in ours:  # the kernel takes no gateway that is an address of its own
                continue
            known = found.get(lease.subnet)
            # Two claims on one subnet: the registry should not let it happen; choose the same one every time.
            found[lease.subnet] = lease.vtep if known is None else min(known, lease.vtep, key=_preference)
        return dict(sorted(found.items(), key=lambda item: _order(item[0])))

    @cached_property
    def direct_ways(self) -> dict[Subnet, Address]:
        """The subnets that may be reached past the tunnel, and the VTEP addresses through which; none unless `direct`.

        Not those outside the networks: Have.routes would not show their routes.
        """
        if not self.direct:
            return {}
        return {
            subnet: vtep.address
            for subnet, vtep in self.subnets.items()
            if vtep.address.version == subnet.version and _inside(subnet, self.networks)
        }

    @property
    def vteps(self) -> frozenset[Address]:
        """The VTEP addresses that Have.on_link must tell of."""
        return frozenset(self.direct_ways.values())

    def neighbours(self, direct: Collection[Subnet] = ()) -> dict[Address, Mac]:
        """Base addresses and VTEP MACs of the subnets not `direct`; of nested ones that share a base, the longest's."""
        return {subnet.network_address: v.mac for subnet, v in self.subnets.items() if subnet not in direct}


def plan(want: Want, have: Have) -> list[Action]:
    """Actions that turn `have` into `want`, in an order the kernel takes; none while the device is missing or foreign.

    Addresses are added before any is deleted: a device without IPv4 address loses its routes. Kernel: fib_disable_ip.
    """
    if have.link is None or have.link.kind not in OUR_KINDS:
        return []
    direct = {s: (via, have.on_link[via]) for s, via in want.direct_ways.items() if via in have.on_link}
    drop_routes, put_routes = _routes(want, have.routes, direct)
    drop_neighbours, put_neighbours = _neighbours(want, have, direct)
    return [
        *_link(want, have.link),
        *_addresses(want, have.addresses, have.marked),
        *drop_routes,
        *drop_neighbours,
        *put_neighbours,
        *put_routes,
        *_blackholes(want, have.routes),
    ]


def _link(want: Want, link: LinkState) -> Iterator[Action]:
    if link.mac != want.mac:
        yield SetMac(want.device, want.mac)
    if link.mtu != want.mtu:
        yield SetMtu(want.device, want.mtu)
    if link.accept_ra not in {None, 0}:
        yield SetAcceptRa(want.device, 0)
    if not link.up:
        yield SetUp(want.device)


def _addresses(
    want: Want, have: tuple[InterfaceAddress, ...], marked: Collection[InterfaceAddress]
) -> Iterator[Action]:
    for address in sorted(want.addresses.difference(have), key=_order):
        yield AddAddress(want.device, address)
    has_v6 = any(address.version == 6 for address in want.addresses)
    for address in have:
        if address in want.addresses:
            continue
        # flannel: EnsureV4AddressOnLink clears the overlay network, EnsureV6AddressOnLink all that is not link-local
        stale = _inside(address.ip, want.networks) if address.version == 4 else has_v6 and not address.ip.is_link_local
        # After a change of network an old one would stay first, and be the source of the node's own packets to pods
        if stale or address in marked or _was_own(address, want.former):
            yield DelAddress(want.device, address)


def _was_own(address: InterfaceAddress, former: Iterable[Subnet]) -> bool:
    """Whether it is the whole and only address that a node has on the device for one of these subnets."""
    lone = address.network.prefixlen == address.max_prefixlen
    return lone and any(address.ip == subnet.network_address for subnet in former)


def _routes(want: Want, have: tuple[Route, ...], direct: Ways) -> tuple[list[Action], list[Action]]:
    device = want.device
    drop: list[Action] = []
    before: dict[Subnet, list[Route]] = {}  # routes in our slot that the kernel meets before ours
    missing = dict(want.subnets)
    for route in have:
        subnet = route.subnet
        if subnet in missing:
            way = direct.get(subnet) if direct else None
            if route.is_flannels(device) if way is None else _leads(route, way):
                del missing[subnet]
            elif route.in_flannels_slot:
                before.setdefault(subnet, []).append(route)
        elif subnet not in want.subnets and (route.is_flannels(device) or (want.direct and _was_direct(want, route))):
            drop.append(DelRoute(device, route))
    for subnet, routes in before.items():
        if subnet not in missing:
            drop.extend(DelRoute(device, route) for route in routes)
    return drop, [a for s in missing for a in _put_route(device, s, direct.get(s), before.get(s, ()))]


def _put_route(device: str, subnet: Subnet, way: tuple[Address, str] | None, there: Iterable[Route]) -> list[Action]:
    if way is not None:
        gateway, interface = way
        return [ReplaceDirectRoute(interface, subnet, gateway)]
    return [*(DelRoute(device, route) for route in there if _blocks(route, device)), ReplaceRoute(device, subnet)]


def _blocks(route: Route, device: str) -> bool:
    """Whether the kernel refuses our route while this one is there: its device has our gateway.

    Kernel: ip6_route_check_nh_onlink, which lets loopback's routes pass, as it rejects what they take.
    """
    return route.subnet.version == 6 and route.kind == KIND_UNICAST and route.device not in {"", "lo", device}


def _leads(route: Route, way: tuple[Address, str]) -> bool:
    return route.is_direct and (route.gateway, route.device) == way


def _was_direct(want: Want, route: Route) -> bool:
    """Whether it led to a peer that is gone; what leads to a pod, in the overlay networks themselves, did not."""
    networks = (*want.networks, *want.former_networks)
    if route.gateway is None or route.device in {"", want.device} or not _inside(route.subnet, networks):
        return False
    return route.is_direct and not _inside(route.gateway, networks)


def _blackholes(want: Want, have: tuple[Route, ...]) -> Iterator[Action]:
    there = {route.subnet for route in have if route.is_blackhole}
    for subnet in want.blackholes:
        if subnet not in there:
            yield ReplaceBlackhole(want.device, subnet)
    for route in have:
        subnet = route.subnet
        if subnet in want.former:
            stale = route.is_blackhole or route.is_flannels_blackhole
        elif _inside(subnet, want.networks):
            stale = route.is_flannels_blackhole if subnet in want.blackholes else route.is_blackhole
        else:
            stale = False
        if stale:
            yield DelRoute(want.device, route)


def _neighbours(want: Want, have: Have, direct: Ways) -> tuple[list[Action], list[Action]]:
    drop: list[Action] = []
    found: set[Address] = set()
    wanted = want.neighbours(direct)
    # The kernel may refuse the direct route: until it is there, packets go on through the tunnel
    in_use = {r.gateway for r in have.routes if r.is_flannels(want.device) and r.subnet in direct} if direct else set()
    for neighbour in have.neighbours:
        mac = wanted.get(neighbour.address)
        if mac is None:
            if neighbour.permanent and neighbour.address not in in_use:
                drop.append(DelNeighbour(want.device, neighbour.address))
        elif neighbour.permanent and neighbour.mac == mac:
            found.add(neighbour.address)
    missing = ((address, mac) for address, mac in wanted.items() if address not in found)
    return drop, [ReplaceNeighbour(want.device, address, mac) for address, mac in missing]


def _preference(vtep: Vtep) -> tuple[Mac, int, int]:
    return vtep.mac, vtep.address.version, int(vtep.address)


def _order(where: Subnet | InterfaceAddress) -> tuple[int, int, int]:
    network = where.network if isinstance(where, InterfaceAddress) else where
    return network.version, int(network.network_address), network.prefixlen


def _inside(part: Address | Subnet, networks: Iterable[Subnet]) -> bool:
    """Whether an address or subnet lies in one of the networks."""
    first = part if isinstance(part, IPv4Address | IPv6Address) else part.network_address
    last = part if isinstance(part, IPv4Address | IPv6Address) else part.broadcast_address
    return any(part.version == network.version and first in network and last in network for network in networks)
