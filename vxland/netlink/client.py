"""Links, addresses, routes and neighbours of this network namespace: read, changed and watched through netlink.

It has two sockets: one for requests (rtnl.py), one for events (events.py). An object belongs to the namespace of the
thread that makes it, and to one event loop. Each watches one device, so every Reconciler needs its own.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from vxland.model.actions import Action, DelAddress, DelNeighbour, DelRoute, SetAcceptRa
from vxland.model.errors import StartError, VxlandError
from vxland.model.kernel_state import (
    KIND_LOCAL,
    KIND_UNICAST,
    Have,
    InterfaceAddress,
    KernelChanges,
    LinkState,
    Neighbour,
    Route,
    Underlay,
    UnderlaySelector,
)
from vxland.model.lease import Address, Subnet
from vxland.netlink.build import build_request
from vxland.netlink.dumps import (
    FAMILIES,
    InterfaceNames,
    get_link,
    list_addresses,
    list_links,
    scan_neighbours,
    scan_routes,
)
from vxland.netlink.events import Events
from vxland.netlink.message import IFINFOMSG, RTM_DELLINK, Request
from vxland.netlink.parse import LinkInfo, RouteScope
from vxland.netlink.routes import look_up
from vxland.netlink.rtnl import KernelRefusedError, Rtnl, refusal
from vxland.netlink.underlay import Inventory, choose_either, choose_underlay, choose_underlays

# The errno of a deletion if the object is already gone; flannel retries that for 51 seconds
_GONE = {DelAddress: errno.EADDRNOTAVAIL, DelRoute: errno.ESRCH, DelNeighbour: errno.ENOENT}
_CONF = Path("/proc/sys/net/ipv6/conf")
_ALL = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class Netlink:
    """The kernel's network state. StartError if no netlink socket can be opened."""

    def __init__(self) -> None:
        self._rtnl = Rtnl()
        self._watched: tuple[object, ...] = ()
        try:
            self._events = Events()
        except BaseException:
            self._rtnl.close()
            raise

    @property
    def portid(self) -> int:
        """The netlink address of our requests: events that they cause carry it."""
        return self._rtnl.portid

    def close(self) -> None:
        """Close both sockets; the kernel's state stays."""
        self._events.close()
        self._rtnl.close()

    @property
    def requests(self) -> int:
        """Requests sent since start, each change counted by itself."""
        return self._rtnl.requests

    async def read_device(self, device: str) -> Have:
        """Return link and addresses of a device: a Have without routes and neighbours. KernelRefusedError."""
        link = await self.link(device)
        if link is None:
            return Have()
        addresses = await list_addresses(self._rtnl, link.index)
        return Have(
            link=LinkState(link.index, link.kind, link.mac, link.mtu, link.up, _read_accept_ra(device)),
            addresses=tuple([address.interface for address in addresses]),
            marked=frozenset(address.interface for address in addresses if address.marked),
        )

    async def scan(
        self, device: str, index: int, networks: Sequence[Subnet], found: Callable[[Route | Neighbour], None]
    ) -> None:
        """Call `found` with each main-table route on the device or into `networks`, and each neighbour on the device.

        One that changes meanwhile may come twice, as it was and as it is; its event is among changes(). If some change
        all the time, another may be left out; changes() then asks for a new read. KernelRefusedError.
        """
        scope = RouteScope(device, index, networks)
        self._rtnl.torn = False
        for family in FAMILIES:
            await scan_routes(self._rtnl, family, scope, found)
            await scan_neighbours(self._rtnl, family, index, found)
        if self._rtnl.torn:
            self._events.lose()

    async def on_link(self, vteps: Collection[Address], overlay: int) -> dict[Address, str]:
        """Return those of `vteps` that packets reach without a gateway, with the interface.

        Routes over the interface with the index `overlay` do not count. KernelRefusedError.
        """
        names = InterfaceNames()
        return {
            address: names.name_of(route.index)
            for address, route in (await look_up(self._rtnl, vteps)).items()
            if route.kind == KIND_UNICAST and not route.gateway and route.index != overlay
        }

    def watch(self, device: str, index: int, networks: Sequence[Subnet], *, underlay: bool) -> bool:
        """Collect the events about what scan() finds, and with `underlay` about routes to nodes.

        Return whether they were collected already.
        """
        wanted = (device, index, tuple(networks), underlay)
        if wanted == self._watched:
            return True
        self._watched, self._events.scope = wanted, RouteScope(device, index, networks, underlay)
        return False

    async def changes(self) -> KernelChanges:
        """Return what has changed since the last call, also by apply(). KernelRefusedError."""
        return await self._events.take(self._rtnl.portid)

    async def apply(self, actions: Sequence[Action]) -> dict[Action, VxlandError]:
        """Apply actions in order, each on its own; return those that failed. Deleting an absent object succeeds."""
        failures: dict[Action, VxlandError] = {}
        names = InterfaceNames()
        at = 0
        while at < len(actions):
            batch = actions[at : at + self._rtnl.batch]
            failures |= await self._apply_batch(batch, names)
            at += len(batch)
        return failures

    async def _apply_batch(self, actions: Sequence[Action], names: InterfaceNames) -> dict[Action, VxlandError]:
        failures: dict[Action, VxlandError] = {}
        requests: dict[Action, Request] = {}
        for action in actions:
            try:
                if isinstance(action, SetAcceptRa):
                    (_CONF / action.device / "accept_ra").write_text(f"{action.value}\n")
                else:
                    requests[action] = build_request(action, names.index_of)
            except OSError as exc:
                failures[action] = refusal(str(action), exc.errno or errno.EIO)
        refusals = await self._rtnl.change(list(requests.values()))
        for action, refused in zip(requests, refusals, strict=True):
            gone = isinstance(refused, KernelRefusedError) and refused.code == _GONE.get(type(action))
            if refused is not None and not gone:
                failures[action] = refused
        return failures

    async def wait_change(self) -> None:
        """Return after a change by others that is watched, since the last call of this or changes().

        Cancels cleanly. KernelRefusedError.
        """
        await self._events.wait_change(self._rtnl.portid)

    async def link(self, name: str) -> LinkInfo | None:
        """Return the link of that name; None if there is no such link. KernelRefusedError."""
        return await get_link(self._rtnl, name)

    async def links(self) -> list[LinkInfo]:
        """Return every link of this namespace. KernelRefusedError."""
        return await list_links(self._rtnl)

    async def link_kind(self, name: str) -> str | None:
        """Return IFLA_INFO_KIND of a link ("tun", "vxlan", "" for hardware); None if there is no such link."""
        link = await self.link(name)
        return None if link is None else link.kind

    async def vxlan_devices_on_port(self, port: int) -> list[str]:
        """Return the names of kernel vxlan devices that hold this UDP port. KernelRefusedError."""
        return [link.name for link in await self.links() if link.vxlan_port == port and link.up]

    async def interface_to(self, address: Address) -> str:
        """Return this node's interface with a direct route to an address; "" if there is none, or through a gateway."""
        try:
            route = (await look_up(self._rtnl, [address])).get(address)
            if route is None or route.kind != KIND_UNICAST or route.gateway:
                return ""
            return socket.if_indextoname(route.index)
        except (VxlandError, OSError):
            return ""

    async def interfaces_to(self, addresses: Iterable[Address], vrf: int = 0) -> dict[Address, int]:
        """Return the index of the interface that packets to each address leave from. KernelRefusedError."""
        found = await look_up(self._rtnl, addresses, vrf)
        return {address: route.index for address, route in found.items() if route.kind == KIND_UNICAST}

    async def is_local(self, address: Address, vrf: int = 0) -> bool:
        """Return whether this node receives packets to an address itself. KernelRefusedError."""
        route = (await look_up(self._rtnl, [address], vrf)).get(address)
        return route is not None and route.kind == KIND_LOCAL

    async def usable_addresses(self) -> dict[Address, set[int]]:
        """Return the addresses that a VTEP can have, with the indices of their interfaces. KernelRefusedError."""
        found: dict[Address, set[int]] = {}
        for address in await list_addresses(self._rtnl):
            if address.bindable:
                found.setdefault(address.interface.ip, set()).add(address.index)
        return found

    async def taken_addresses(self) -> frozenset[Address]:
        """Return addresses that no other node can have: this node's, and both ends of its IPv4 subnets.

        KernelRefusedError.
        """
        taken: set[Address] = set()
        for found in await list_addresses(self._rtnl):
            taken.add(found.interface.ip)
            if found.interface.version == 4 and found.interface.network.prefixlen < 31:  # RFC 3021
                taken |= {found.interface.network.network_address, found.interface.network.broadcast_address}
        return frozenset(taken)

    async def interface_addresses(self) -> list[InterfaceAddress]:
        """Return the addresses of all interfaces, with their subnets. KernelRefusedError."""
        return [address.interface for address in await list_addresses(self._rtnl)]

    async def addresses_on(self, index: int) -> list[InterfaceAddress]:
        """Return the addresses of one interface, with their subnets. KernelRefusedError."""
        return [address.interface for address in await list_addresses(self._rtnl) if address.index == index]

    async def find_underlay(self, interface: str | None = None, address: Address | None = None) -> Underlay:
        """Return the underlay by interface, by address, or by the default route. ConfigError names what exists."""
        return choose_underlay(await self._inventory(), interface, address)

    async def find_either(self, selector: UnderlaySelector) -> Underlay:
        """Return the underlay of a tunnel of one IP version. ConfigError names what exists."""
        return choose_either(await self._inventory(selector.can_reach), selector)

    async def find_underlays(self, selector: UnderlaySelector, families: Iterable[int]) -> dict[int, Underlay]:
        """Return the underlay of each IP version in `families`, all on one interface. ConfigError names what exists."""
        return choose_underlays(await self._inventory(selector.can_reach), selector, families)

    async def _inventory(self, can_reach: Address | None = None) -> Inventory:
        everything = RouteScope("", 0, _ALL)
        routes: list[Route] = []
        for family in FAMILIES:
            found: list[Route] = []
            await scan_routes(self._rtnl, family, everything, found.append)
            routes += sorted((r for r in found if r.subnet.prefixlen == 0), key=lambda route: route.metric)
        reached = await look_up(self._rtnl, [] if can_reach is None else [can_reach])
        links = sorted(await self.links(), key=lambda link: link.index)
        return Inventory(links, await list_addresses(self._rtnl), routes, next(iter(reached.values()), None))

    async def marked_taps(self) -> dict[str, frozenset[Address]]:
        """Return the TAPs that have addresses which vxland has added, with these addresses. KernelRefusedError."""
        found: dict[int, set[Address]] = {}
        for address in await list_addresses(self._rtnl):
            if address.marked:
                found.setdefault(address.index, set()).add(address.interface.ip)
        links = [link for link in await self.links() if link.kind == "tun" and link.index in found]
        return {link.name: frozenset(found[link.index]) for link in links}

    async def delete_device_state(self, device: str, expected: str = "tun") -> bool:
        """Delete a device, by default our TAP, with its routes and neighbours; return whether it existed.

        StartError: it is of another kind.
        """
        kind = await self.link_kind(device)
        if kind is None:
            return False
        if kind != expected:
            cause = f"{device} is a {kind or 'physical'} device, not a TAP of ours"
            raise StartError(cause, "remove it yourself, or choose another overlay.device")
        request = IFINFOMSG.pack(socket.if_nametoindex(device), 0, 0)
        (refused,) = await self._rtnl.change([Request(f"ip link del dev {device}", request, RTM_DELLINK)])
        if refused is not None:
            raise refused
        return True


def _read_accept_ra(device: str) -> int | None:
    """Read the sysctl; None if IPv6 is off, or if a container may not write it and its host decides."""
    path = _CONF / device / "accept_ra"
    try:
        return int(path.read_text()) if os.access(path, os.W_OK, effective_ids=True) else None  # CAP_NET_ADMIN may
    except (OSError, ValueError):
        return None
