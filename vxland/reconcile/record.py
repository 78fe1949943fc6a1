"""Record of what the kernel has, by base address: filled by a full read, and kept true by folding in its events. Pure.

Routes and neighbours of nested subnets share a base address (Subnet.network_address), so plan_peers() compares all that
belongs to some base addresses with what is wanted there. With 5,000 peers nearly every route is flannel's, alone in its
slot: of these only the prefix length is kept. Addresses and MACs are the leases' own objects where they are equal.

An event that does not say surely what the kernel now has makes `unsure` true: everything must then be read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from vxland.model.kernel_state import Have, InterfaceAddress, LinkState, Neighbour, Route, RouteEvent
from vxland.model.lease import Address, Lease, Mac, Subnet

T = TypeVar("T")


class Record:
    """The kernel's state for `device`; `leases` are the wanted ones by base address."""

    def __init__(self, device: str, leases: Mapping[Address, Sequence[Lease]]) -> None:
        self.device = device
        self.link: LinkState | None = None
        self.on_link: dict[Address, str] = {}
        """Have.on_link, which its reader keeps up."""
        self.unsure = False
        self._leases = leases
        self._addresses: tuple[InterfaceAddress, ...] = ()
        self._marked: frozenset[InterfaceAddress] = frozenset()
        self._flannels: dict[Address, tuple[int, ...]] = {}  # prefix lengths of routes that are alone in their slot
        self._others: dict[Address, tuple[Route, ...]] = {}
        self._neighbours: dict[Address, Mac | None] = {}  # permanent ones: plan_peers() takes others for absent

    @property
    def bases(self) -> dict[Address, None]:
        """Every base address that has something."""
        return dict.fromkeys(self._flannels) | dict.fromkeys(self._others) | dict.fromkeys(self._neighbours)

    def part(self, bases: Iterable[Address]) -> Have:
        """Return the state with the routes and neighbours of these base addresses."""
        routes: list[Route] = []
        neighbours: list[Neighbour] = []
        for base in bases:
            routes += self._routes(base)
            if base in self._neighbours:
                neighbours.append(Neighbour(base, self._neighbours[base], permanent=True))
        return Have(self.link, self._addresses, tuple(routes), tuple(neighbours), self._marked, self.on_link)

    def set_device(self, have: Have) -> bool:
        """Replace link and addresses; return whether routes and neighbours may have gone with the old ones."""
        before, self.link = self.link, have.link
        self._addresses, self._marked = have.addresses, have.marked
        return before is None or have.link is None or replace(before, accept_ra=have.link.accept_ra) != have.link

    def add(self, found: Route | Neighbour) -> None:
        """Add what a read has found, in lookup order; the same again changes nothing."""
        if isinstance(found, Neighbour):
            self._set_neighbour(found)
            return
        base = found.subnet.network_address
        here = self._routes(base)
        if found not in here:
            self._set_routes(base, [*here, found])

    def fold(self, event: RouteEvent | Neighbour | LinkState) -> Address | None:
        """Apply an event; return the base address whose state may have changed, if that can be said."""
        if isinstance(event, LinkState):
            self.unsure |= self.link is None or event != replace(self.link, accept_ra=None)
            return None
        if isinstance(event, Neighbour):
            return event.address if self._set_neighbour(event) else None
        return self._fold_route(event)

    def _fold_route(self, event: RouteEvent) -> Address | None:
        route, base = event.route, event.route.subnet.network_address
        here = self._routes(base)
        slot = [other for other in here if other.slot == route.slot]
        if event.gone:
            left = [other for other in slot if other != route]
            self.unsure |= left == slot != []  # the kernel had another one
        else:
            left = [route]
            self.unsure |= bool(slot) and slot != left and not (event.replaces and len(slot) == 1)
        if left == slot:
            return None
        self._set_routes(base, [*(other for other in here if other.slot != route.slot), *left])
        return base

    def _routes(self, base: Address) -> list[Route]:
        subnets = (_network(base, length) for length in self._flannels.get(base, ()))
        return [*(Route.flannels(subnet, self.device) for subnet in subnets), *self._others.get(base, ())]

    def _set_routes(self, base: Address, routes: list[Route]) -> None:
        base = self._shared(base)
        lengths: tuple[int, ...] = ()
        others: list[Route] = []
        for route in routes:
            if route.is_flannels(self.device) and not any(r.slot == route.slot for r in routes if r is not route):
                lengths += (route.subnet.prefixlen,)
            else:
                others.append(route)
        _put(self._flannels, base, _LENGTHS.setdefault(lengths, lengths))
        _put(self._others, base, tuple(others))

    def _set_neighbour(self, found: Neighbour) -> bool:
        """Note a neighbour; return whether the record has changed."""
        address, mac = found.address, found.mac
        known = address in self._neighbours
        if not found.permanent:
            self._neighbours.pop(address, None)
            return known
        if known and self._neighbours[address] == mac:
            return False
        macs = (lease.vtep.mac for lease in self._leases.get(address, ()))
        self._neighbours[self._shared(address)] = next((own for own in macs if own == mac), mac)
        return True

    def _shared(self, base: Address) -> Address:
        leases = self._leases.get(base)
        return leases[0].subnet.network_address if leases else base


_LENGTHS: dict[tuple[int, ...], tuple[int, ...]] = {}  # one object for each combination: nearly always (24,)


def _put(where: dict[Address, tuple[T, ...]], base: Address, value: tuple[T, ...]) -> None:
    if value:
        where[base] = value
    else:
        where.pop(base, None)


def _network(base: Address, length: int) -> Subnet:
    return IPv4Network((base, length)) if base.version == 4 else IPv6Network((base, length))
