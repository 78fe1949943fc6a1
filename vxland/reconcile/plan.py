"""plan_device() and plan_peers(): the actions that turn what the kernel has into what is wanted. Pure.

plan_peers() compares what belongs to some base addresses (Subnet.network_address), of which Want and Have then contain
everything; a whole comparison is the same over all of them. Routes and neighbours of nested subnets share a base.

For each remote lease flannel keeps one onlink route and one permanent neighbour (flannel: vxlan_network.go). So does
vxland, on one device for both families. There is no bridge FDB: a TAP stores no destination, so that table is in the
data path.

On the device, these belong to vxland: MAC, MTU, accept_ra and state; routes of exactly flannel's form; permanent
neighbours; IPv4 addresses inside the overlay networks, addresses that a vxland has marked, and those of subnets that
the node held before. Everything else there is a user's and stays. Outside the device, the blackhole route of a subnet
that the node held before belongs to vxland too.

A route to a peer's subnet with our TOS and metric is replaced, wherever it leads, as flannel's `route replace` does.
One that precedes ours is deleted, because the kernel then refuses to replace (EEXIST). IPv6 routes of a better metric
stay.

The next round, with a new Have, restores what an action flushes: a new MAC flushes the neighbours, deletion of the last
address flushes IPv4 routes and neighbours.
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
from vxland.model.kernel_state import KIND_BLACKHOLE, KIND_UNICAST, Have, InterfaceAddress, LinkState, Route
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep

DirectRoutes: TypeAlias = Mapping[Subnet, tuple[Address, str]]
"""Gateway and interface by subnet."""

OUR_KINDS = frozenset({"tun", ""})  # IFLA_INFO_KIND of a TAP; "" from kernels that do not report it


@dataclass(frozen=True)
class Want:
    """The state to reach: our device with our addresses (/32, /128), and a route to each peer's subnet."""

    device: str
    mtu: int
    mac: Mac
    addresses: frozenset[InterfaceAddress]
    networks: tuple[Subnet, ...]
    peers: frozenset[Lease] = frozenset()
    direct: bool = False
    blackholes: tuple[Subnet, ...] = ()
    """Our own subnets, if packets for no pod are to be dropped."""
    former: tuple[Subnet, ...] = ()
    """Subnets that this node held before, by its subnet.env, and does not hold any more."""
    former_networks: tuple[Subnet, ...] = ()
    """The networks of that time."""

    @property
    def watched(self) -> tuple[Subnet, ...]:
        """The subnets whose routes are compared."""
        return (*self.networks, *self.former, *self.former_networks)

    @cached_property
    def subnets(self) -> dict[Subnet, Vtep]:
        """The peers' VTEPs by subnet, in order."""
        ours = {address.ip for address in self.addresses}
        found: dict[Subnet, Vtep] = {}
        for lease in self.peers:
            if lease.subnet.network_address in ours:  # the kernel accepts none of its own addresses as a gateway
                continue
            known = found.get(lease.subnet)
            # The registry should not allow two claims on one subnet. Choose the same one every time.
            found[lease.subnet] = lease.vtep if known is None else min(known, lease.vtep, key=_preference)
        return dict(sorted(found.items(), key=lambda item: _order(item[0])))

    @cached_property
    def direct_gateways(self) -> dict[Subnet, Address]:
        """The gateway, a VTEP address, of each subnet that may be reached past the tunnel; empty unless `direct`.

        Subnets outside the networks are left out: their routes are not read.
        """
        if not self.direct:
            return {}
        return {
            subnet: vtep.address
            for subnet, vtep in self.subnets.items()
            if vtep.address.version == subnet.version and _inside(subnet, self.networks)
        }

    def neighbours(self, direct: Collection[Subnet] = ()) -> dict[Address, Mac]:
        """Return VTEP MACs by base address, without `direct` subnets; of nested ones with one base, the longest's."""
        return {subnet.network_address: v.mac for subnet, v in self.subnets.items() if subnet not in direct}


def plan_device(want: Want, have: Have) -> list[Action]:
    """Return the actions for link and addresses, in an order that the kernel accepts; none without our device.

    Addresses are added before others are deleted: a device without an IPv4 address loses its routes (kernel:
    fib_disable_ip).
    """
    if have.link is None or have.link.kind not in OUR_KINDS:
        return []
    return [*_link(want, have.link), *_addresses(want, have.addresses, have.marked)]


def plan_peers(want: Want, have: Have) -> list[Action]:
    """Return the actions for routes and neighbours, in an order that the kernel accepts; none without our device.

    They come after those of plan_device(): the kernel takes no routes over a device that is down.
    """
    if have.link is None or have.link.kind not in OUR_KINDS:
        return []
    direct = {s: (via, have.on_link[via]) for s, via in want.direct_gateways.items() if via in have.on_link}
    drop_routes, put_routes = _routes(want, have.routes, direct)
    drop_neighbours, put_neighbours = _neighbours(want, have, direct)
    return [*drop_routes, *drop_neighbours, *put_neighbours, *put_routes, *_blackholes(want, have.routes)]


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
        # After a change of network the old address would stay first, the source of the node's own packets to pods
        if stale or address in marked or _was_own(address, want.former):
            yield DelAddress(want.device, address)


def _was_own(address: InterfaceAddress, former: Iterable[Subnet]) -> bool:
    """Return whether it is a /32 or /128 with the base address of one of these subnets."""
    lone = address.network.prefixlen == address.max_prefixlen
    return lone and any(address.ip == subnet.network_address for subnet in former)


def _routes(want: Want, have: tuple[Route, ...], direct: DirectRoutes) -> tuple[list[Action], list[Action]]:
    device = want.device
    drop: list[Action] = []
    before: dict[Subnet, list[Route]] = {}  # routes with our TOS and metric that precede ours
    missing = dict(want.subnets)
    for route in have:
        subnet = route.subnet
        if subnet in missing:
            via = direct.get(subnet) if direct else None
            if route.is_flannels(device) if via is None else _leads(route, via):
                del missing[subnet]
            elif route.in_flannels_slot:
                before.setdefault(subnet, []).append(route)
        elif subnet not in want.subnets and (route.is_flannels(device) or (want.direct and _was_direct(want, route))):
            drop.append(DelRoute(device, route))
    for subnet, routes in before.items():
        if subnet not in missing:
            drop.extend(DelRoute(device, route) for route in routes)
    return drop, [a for s in missing for a in _put_route(device, s, direct.get(s), before.get(s, ()))]


def _put_route(device: str, subnet: Subnet, via: tuple[Address, str] | None, there: Iterable[Route]) -> list[Action]:
    if via is not None:
        gateway, interface = via
        return [ReplaceDirectRoute(interface, subnet, gateway)]
    return [*(DelRoute(device, route) for route in there if _blocks(route, device)), ReplaceRoute(device, subnet)]


def _blocks(route: Route, device: str) -> bool:
    """Return whether the kernel refuses our route because of this one: its device has our gateway.

    Kernel: ip6_route_check_nh_onlink, which ignores reject routes and those of loopback.
    """
    return route.subnet.version == 6 and route.kind == KIND_UNICAST and route.device not in {"", "lo", device}


def _leads(route: Route, via: tuple[Address, str]) -> bool:
    return route.is_direct and (route.gateway, route.device) == via


def _was_direct(want: Want, route: Route) -> bool:
    """Return whether it is a direct route to a peer that is gone; one with a gateway in the overlay leads to a pod."""
    networks = (*want.networks, *want.former_networks)
    if route.gateway is None or route.device in {"", want.device} or not _inside(route.subnet, networks):
        return False
    return route.is_direct and not _inside(route.gateway, networks)


def _blackholes(want: Want, have: tuple[Route, ...]) -> Iterator[Action]:
    holes = [route for route in have if route.kind == KIND_BLACKHOLE]
    there = {route.subnet for route in holes if route.is_blackhole}
    for subnet in want.blackholes:
        if subnet not in there:
            yield ReplaceBlackhole(want.device, subnet)
    for route in holes:
        subnet = route.subnet
        if subnet in want.former:
            stale = route.is_blackhole or route.is_flannels_blackhole
        elif _inside(subnet, want.networks):
            stale = route.is_flannels_blackhole if subnet in want.blackholes else route.is_blackhole
        else:
            stale = False
        if stale:
            yield DelRoute(want.device, route)


def _neighbours(want: Want, have: Have, direct: DirectRoutes) -> tuple[list[Action], list[Action]]:
    drop: list[Action] = []
    found: set[Address] = set()
    wanted = want.neighbours(direct)
    # The kernel may refuse the direct route: until it is there, packets use the tunnel
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
    """Return whether an address or subnet lies in one of the networks."""
    first = part if isinstance(part, IPv4Address | IPv6Address) else part.network_address
    last = part if isinstance(part, IPv4Address | IPv6Address) else part.broadcast_address
    return any(part.version == network.version and first in network and last in network for network in networks)
