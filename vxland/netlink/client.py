"""Links, addresses, routes and neighbours of this network namespace, read, changed and watched through netlink.

Two sockets: requests go through one (rtnl.py), the other hears of changes (events.py). Objects are bound to the
namespace of the thread that makes them, and to one event loop. Each watches one device: no two Reconcilers share one.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from vxland.model.actions import Action, DelAddress, DelNeighbour, DelRoute, SetAcceptRa
from vxland.model.errors import StartError, VxlandError
from vxland.model.kernel_state import (
    KIND_LOCAL,
    KIND_UNICAST,
    Have,
    InterfaceAddress,
    LinkState,
    Neighbour,
    Route,
    Underlay,
    UnderlaySelector,
)
from vxland.model.lease import Address, Subnet
from vxland.netlink.build import build_request
from vxland.netlink.events import Events
from vxland.netlink.parse import (
    TABLE_MAIN,
    LinkInfo,
    LocalAddress,
    RouteScope,
    parse_address,
    parse_link,
    parse_neighbour,
    parse_route,
)
from vxland.netlink.routes import look_up
from vxland.netlink.rtnl import BATCH, KernelRefusedError, Request, Rtnl, refusal
from vxland.netlink.underlay import Inventory, choose_either, choose_underlay, choose_underlays

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# What a deletion answers when the thing is already gone; flannel retries that for 51 seconds
_GONE = {DelAddress: errno.EADDRNOTAVAIL, DelRoute: errno.ESRCH, DelNeighbour: errno.ENOENT}
_CONF = Path("/proc/sys/net/ipv6/conf")
_ALL = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class Netlink:
    """The kernel's network state. StartError when no netlink socket can be had."""

    def __init__(self) -> None:
        self._rtnl = Rtnl()
        try:
            self._events = Events()
        except BaseException:
            self._rtnl.close()
            raise

    def close(self) -> None:
        """Close both sockets; what was set in the kernel stays."""
        self._events.close()
        self._rtnl.close()

    async def read(self, device: str, networks: Sequence[Subnet], vteps: Collection[Address] = ()) -> Have:
        """Everything plan() compares: the device's state, main-table routes into `networks`, and the ways to `vteps`.

        KernelRefusedError.
        """
        link = await self.link(device)
        self._events.scope = scope = RouteScope(device, link.index if link else 0, networks, bool(vteps))
        if link is None:
            return Have()
        routes: list[Route] = []
        neighbours: list[Neighbour] = []
        for family in _FAMILIES:
            routes += await self._routes(family, scope)
            neighbours += await self._neighbours(family, link.index)
        addresses = await self._addresses(link.index)
        return Have(
            link=LinkState(link.index, link.kind, link.mac, link.mtu, link.up, _read_accept_ra(device)),
            addresses=tuple([address.interface for address in addresses]),
            marked=frozenset(address.interface for address in addresses if address.marked),
            routes=tuple(routes),
            neighbours=tuple(neighbours),
            on_link=await self._on_link(vteps, link.index),
        )

    async def _on_link(self, vteps: Collection[Address], overlay: int) -> dict[Address, str]:
        names: dict[int, str] = {}
        return {
            address: _name_of(way.index, names)
            for address, way in (await look_up(self._rtnl, vteps)).items()
            if way.kind == KIND_UNICAST and not way.gateway and way.index != overlay
        }

    async def apply(self, actions: Sequence[Action]) -> dict[Action, VxlandError]:
        """Carry out actions, in order and each on its own; the refused ones. To delete what is gone succeeds."""
        failures: dict[Action, VxlandError] = {}
        names: dict[str, int] = {}
        for at in range(0, len(actions), BATCH):
            failures |= await self._apply_batch(actions[at : at + BATCH], names)
        return failures

    async def _apply_batch(self, actions: Sequence[Action], names: dict[str, int]) -> dict[Action, VxlandError]:
        failures: dict[Action, VxlandError] = {}
        requests: dict[Action, Request] = {}
        for action in actions:
            try:
                if isinstance(action, SetAcceptRa):
                    (_CONF / action.device / "accept_ra").write_text(f"{action.value}\n")
                else:
                    requests[action] = build_request(action, lambda name: _index_of(name, names))
            except OSError as exc:
                failures[action] = refusal(str(action), exc.errno or errno.EIO)
        refusals = await self._rtnl.change(list(requests.values()))
        for action, refused in zip(requests, refusals, strict=True):
            gone = isinstance(refused, KernelRefusedError) and refused.code == _GONE.get(type(action))
            if refused is not None and not gone:
                failures[action] = refused
        return failures

    async def wait_change(self) -> None:
        """Return once something that the last read() covered may have changed since the last call. Cancels cleanly."""
        await self._events.wait_change(self._rtnl.portid)

    async def links(self) -> list[LinkInfo]:
        """Every link of this namespace."""
        return await self._rtnl.dump(ifinfmsg(), RTM_GETLINK, parse_link)

    async def interface_to(self, address: Address) -> str:
        """The interface of this node's own behind which an address lies; empty where there is none, or a gateway."""
        try:
            way = (await look_up(self._rtnl, [address])).get(address)
            return "" if way is None or way.kind != KIND_UNICAST or way.gateway else socket.if_indextoname(way.index)
        except (VxlandError, OSError):
            return ""

    async def usable_addresses(self) -> dict[Address, set[int]]:
        """Those of all interfaces that a VTEP can have, and the indices of the interfaces. KernelRefusedError."""
        found: dict[Address, set[int]] = {}
        for address in await self._addresses():
            if address.bindable:
                found.setdefault(address.interface.ip, set()).add(address.index)
        return found

    async def taken_addresses(self) -> frozenset[Address]:
        """Those that no other node can have: this node's, and both ends of its IPv4 subnets. KernelRefusedError."""
        taken: set[Address] = set()
        for found in await self._addresses():
            taken.add(found.interface.ip)
            if found.interface.version == 4 and found.interface.network.prefixlen < 31:  # RFC 3021
                taken |= {found.interface.network.network_address, found.interface.network.broadcast_address}
        return frozenset(taken)

    async def interface_addresses(self) -> list[InterfaceAddress]:
        """Those of all interfaces, with their subnets. KernelRefusedError."""
        return [address.interface for address in await self._addresses()]

    async def is_local(self, address: Address, vrf: int = 0) -> bool:
        """Whether packets to an address end here: an interface has it, or a local route. KernelRefusedError."""
        way = (await look_up(self._rtnl, [address], vrf)).get(address)
        return way is not None and way.kind == KIND_LOCAL

    async def _addresses(self, index: int = 0) -> list[LocalAddress]:
        """Of one interface, or of all (0)."""
        request = ifaddrmsg()
        request["index"] = index

        def parse(message: bytes) -> LocalAddress | None:
            found = parse_address(message)
            return found if found is not None and index in {0, found.index} else None

        return await self._rtnl.dump(request, RTM_GETADDR, parse)

    async def find_underlay(self, interface: str | None = None, address: Address | None = None) -> Underlay:
        """The underlay by interface, by address, or by the default route. ConfigError, naming what exists."""
        return choose_underlay(await self._inventory(), interface, address)

    async def find_either(self, selector: UnderlaySelector) -> Underlay:
        """The underlay of a tunnel of one IP version. ConfigError, naming what exists."""
        return choose_either(await self._inventory(selector.can_reach), selector)

    async def find_underlays(self, selector: UnderlaySelector, families: Iterable[int]) -> dict[int, Underlay]:
        """The underlay of each IP version in `families`, all on one interface. ConfigError, naming what exists."""
        return choose_underlays(await self._inventory(selector.can_reach), selector, families)

    async def _inventory(self, can_reach: Address | None = None) -> Inventory:
        everything = RouteScope("", 0, _ALL)
        routes: list[Route] = []
        for family in _FAMILIES:
            found = await self._routes(family, everything)
            routes += sorted((r for r in found if r.subnet.prefixlen == 0), key=lambda route: route.metric)
        ways = await look_up(self._rtnl, [] if can_reach is None else [can_reach])
        links = sorted(await self.links(), key=lambda link: link.index)
        return Inventory(links, await self._addresses(), routes, next(iter(ways.values()), None))

    async def link_kind(self, name: str) -> str | None:
        """IFLA_INFO_KIND of a link ("tun", "vxlan", "" for hardware); None where there is no such link."""
        link = await self.link(name)
        return None if link is None else link.kind

    async def vxlan_devices_on_port(self, port: int) -> list[str]:
        """Names of kernel vxlan devices that hold this UDP port: what EADDRINUSE means."""
        return [link.name for link in await self.links() if link.vxlan_port == port]

    async def marked_taps(self) -> dict[str, frozenset[Address]]:
        """The TAPs that have addresses which a vxland has added, and these."""
        found: dict[int, set[Address]] = {}
        for address in await self._addresses():
            if address.marked:
                found.setdefault(address.index, set()).add(address.interface.ip)
        links = [link for link in await self.links() if link.kind == "tun" and link.index in found]
        return {link.name: frozenset(found[link.index]) for link in links}

    async def delete_device_state(self, device: str, expected: str = "tun") -> bool:
        """Delete a device, by default our TAP; routes and neighbours go with it.

        False: it is not there; StartError: it is of another kind.
        """
        kind = await self.link_kind(device)
        if kind is None:
            return False
        if kind != expected:
            cause = f"{device} is a {kind or 'physical'} device, not a TAP of ours"
            raise StartError(cause, "remove it yourself, or choose another overlay.device")
        request = ifinfmsg()
        request["index"] = socket.if_nametoindex(device)
        (refused,) = await self._rtnl.change([Request(f"ip link del dev {device}", request, RTM_DELLINK)])
        if refused is not None:
            raise refused
        return True

    async def link(self, name: str) -> LinkInfo | None:
        """The link of that name; None where there is no such link. KernelRefusedError."""
        request = ifinfmsg()
        request["attrs"] = [["IFLA_IFNAME", name]]
        try:
            return parse_link(await self._rtnl.get(request, RTM_GETLINK))
        except KernelRefusedError as exc:
            if exc.code == errno.ENODEV:
                return None
            raise

    async def _routes(self, family: int, scope: RouteScope) -> list[Route]:
        request = rtmsg()
        request["family"] = family
        request["table"] = TABLE_MAIN
        names: dict[int, str] = {}
        return await self._rtnl.dump(
            request, RTM_GETROUTE, lambda body: parse_route(body, scope, lambda index: _name_of(index, names), family)
        )

    async def _neighbours(self, family: int, index: int) -> list[Neighbour]:
        request = ndmsg()
        request["family"] = family
        request["attrs"] = [["NDA_IFINDEX", index]]
        return await self._rtnl.dump(request, RTM_GETNEIGH, lambda body: parse_neighbour(body, index, family))


def _index_of(name: str, names: dict[str, int]) -> int:
    if name not in names:
        try:
            names[name] = socket.if_nametoindex(name)
        except OSError as exc:  # without an errno before Python 3.14
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from exc
    return names[name]


def _name_of(index: int, names: dict[int, str]) -> str:
    if index not in names:
        try:
            names[index] = socket.if_indextoname(index)
        except OSError:  # it vanished since the kernel listed the route
            names[index] = f"if{index}"
    return names[index]


def _read_accept_ra(device: str) -> int | None:
    """None where there is nothing to refuse: IPv6 is off, or a container may not write here and its host decides."""
    path = _CONF / device / "accept_ra"
    try:
        return int(path.read_text()) if os.access(path, os.W_OK, effective_ids=True) else None  # CAP_NET_ADMIN may
    except (OSError, ValueError):
        return None
