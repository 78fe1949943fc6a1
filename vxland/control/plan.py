"""plan(want, have): what must change in the kernel, as a list. Pure; one pass over what is wanted and what is there.

For each remote lease flannel keeps one onlink route and one permanent neighbour (flannel: vxlan_network.go); the same
here, on one device for both families. No bridge FDB: a TAP stores no destination, so that table lives in the data path.

What belongs to us on the device: its MAC, MTU, accept_ra and state, IPv4 addresses inside the overlay networks, routes
of exactly flannel's shape, permanent neighbours. Anything else there is a user's and stays. A route to a peer's subnet
in the very slot of ours (same TOS and metric) is replaced, wherever it leads, as flannel's `route replace` does; one
that stands before ours is deleted, since the kernel then refuses to replace (EEXIST). IPv6 routes of a better metric
stay.

Left to the next round, once the kernel shows it: what an action itself flushes (a new MAC: neighbours; the last
address gone: IPv4 routes and neighbours).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from vxland.model import Address, Lease, Mac, Subnet
from vxland.state import (
    Action,
    AddAddress,
    DelAddress,
    DelNeighbour,
    DelRoute,
    Have,
    InterfaceAddress,
    LinkState,
    Neighbour,
    ReplaceNeighbour,
    ReplaceRoute,
    Route,
    SetAcceptRa,
    SetMac,
    SetMtu,
    SetUp,
)

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

    @cached_property
    def subnets(self) -> dict[Subnet, Mac]:
        """The peers' subnets and VTEP MACs, in order."""
        ours = {address.ip for address in self.addresses}
        found: dict[Subnet, Mac] = {}
        for lease in self.peers:
            if lease.subnet.network_address in ours:  # the kernel takes no gateway that is an address of its own
                continue
            known = found.get(lease.subnet)
            # Two claims on one subnet: the registry should not let it happen; choose the same one every time.
            found[lease.subnet] = lease.vtep.mac if known is None else min(known, lease.vtep.mac)
        return dict(sorted(found.items(), key=lambda item: _order(item[0])))

    @cached_property
    def neighbours(self) -> dict[Address, Mac]:
        """The peers' base addresses and VTEP MACs; of nested subnets that share a base, the longest prefix keeps it."""
        return {subnet.network_address: mac for subnet, mac in self.subnets.items()}


def plan(want: Want, have: Have) -> list[Action]:
    """Actions that turn `have` into `want`, in an order the kernel takes; none while the device is missing or foreign.

    Addresses are added before any is deleted: a device without IPv4 address loses its routes. Kernel: fib_disable_ip.
    """
    if have.link is None or have.link.kind not in OUR_KINDS:
        return []
    drop_routes, put_routes = _routes(want, have.routes)
    drop_neighbours, put_neighbours = _neighbours(want, have.neighbours)
    return [
        *_link(want, have.link),
        *_addresses(want, have.addresses),
        *drop_routes,
        *drop_neighbours,
        *put_neighbours,
        *put_routes,
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


def _addresses(want: Want, have: tuple[InterfaceAddress, ...]) -> Iterator[Action]:
    for address in sorted(want.addresses.difference(have), key=_order):
        yield AddAddress(want.device, address)
    for address in have:
        # flannel: EnsureV4AddressOnLink clears the overlay network of IPv4 addresses not its own
        if address.version == 4 and address not in want.addresses and _inside(address.ip, want.networks):
            yield DelAddress(want.device, address)


def _routes(want: Want, have: tuple[Route, ...]) -> tuple[list[Action], list[Action]]:
    device = want.device
    drop: list[Action] = []
    before: dict[Subnet, list[Route]] = {}  # routes in our slot that the kernel meets before ours
    found: set[Subnet] = set()
    for route in have:
        subnet = route.subnet
        if subnet not in want.subnets:
            if route.is_flannels(device):
                drop.append(DelRoute(device, route))
        elif subnet not in found:
            if route.is_flannels(device):
                found.add(subnet)
            elif route.in_flannels_slot:
                before.setdefault(subnet, []).append(route)
    for subnet, routes in before.items():
        if subnet in found:
            drop.extend(DelRoute(device, route) for route in routes)
    return drop, [ReplaceRoute(device, subnet) for subnet in want.subnets if subnet not in found]


def _neighbours(want: Want, have: tuple[Neighbour, ...]) -> tuple[list[Action], list[Action]]:
    drop: list[Action] = []
    found: set[Address] = set()
    for neighbour in have:
        mac = want.neighbours.get(neighbour.address)
        if mac is None:
            if neighbour.permanent:
                drop.append(DelNeighbour(want.device, neighbour.address))
        elif neighbour.permanent and neighbour.mac == mac:
            found.add(neighbour.address)
    missing = ((address, mac) for address, mac in want.neighbours.items() if address not in found)
    return drop, [ReplaceNeighbour(want.device, address, mac) for address, mac in missing]


def _order(where: Subnet | InterfaceAddress) -> tuple[int, int, int]:
    network = where.network if isinstance(where, InterfaceAddress) else where
    return network.version, int(network.network_address), network.prefixlen


def _inside(address: Address, networks: Iterable[Subnet]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
