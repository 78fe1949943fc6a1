"""Lists of links, addresses, routes and neighbours as the kernel dumps them, and interface names with a cache."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from vxland.model.kernel_state import Neighbour, Route
from vxland.netlink.message import AF_INET, AF_INET6
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
from vxland.netlink.rtnl import KernelRefusedError, Rtnl

FAMILIES: Final = (AF_INET, AF_INET6)


async def get_link(rtnl: Rtnl, name: str) -> LinkInfo | None:
    """Return the link of that name; None if there is no such link. KernelRefusedError."""
    request = ifinfmsg()
    request["attrs"] = [["IFLA_IFNAME", name]]
    try:
        return parse_link(await rtnl.get(request, RTM_GETLINK))
    except KernelRefusedError as exc:
        if exc.code == errno.ENODEV:
            return None
        raise


async def list_links(rtnl: Rtnl) -> list[LinkInfo]:
    """Return every link of the namespace. KernelRefusedError."""
    return await rtnl.dump(ifinfmsg(), RTM_GETLINK, parse_link)


async def list_addresses(rtnl: Rtnl, index: int = 0) -> list[LocalAddress]:
    """Return the addresses of one interface, or of all (0). KernelRefusedError."""
    request = ifaddrmsg()
    request["index"] = index

    def parse(message: bytes) -> LocalAddress | None:
        found = parse_address(message)
        return found if found is not None and index in {0, found.index} else None

    return await rtnl.dump(request, RTM_GETADDR, parse)


async def list_routes(rtnl: Rtnl, family: int, scope: RouteScope) -> list[Route]:
    """Return the main-table routes of an address family within `scope`. KernelRefusedError."""
    request = rtmsg()
    request["family"] = family
    request["table"] = TABLE_MAIN
    names = InterfaceNames()
    return await rtnl.dump(request, RTM_GETROUTE, lambda body: parse_route(body, scope, names.name_of, family))


async def list_neighbours(rtnl: Rtnl, family: int, index: int) -> list[Neighbour]:
    """Return the ARP or NDP entries of one interface. KernelRefusedError."""
    request = ndmsg()
    request["family"] = family
    request["attrs"] = [["NDA_IFINDEX", index]]
    return await rtnl.dump(request, RTM_GETNEIGH, lambda body: parse_neighbour(body, index, family))


class InterfaceNames:
    """Names and indices of interfaces, each queried once: a cache for one read or one batch of changes."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._indices: dict[str, int] = {}

    def name_of(self, index: int) -> str:
        """Return an interface's name; `if` and the index if it has vanished since the kernel listed it."""
        if index not in self._names:
            try:
                self._names[index] = socket.if_indextoname(index)
            except OSError:
                self._names[index] = f"if{index}"
        return self._names[index]

    def index_of(self, name: str) -> int:
        """Return an interface's index. OSError with ENODEV if there is none of the name."""
        if name not in self._indices:
            try:
                self._indices[name] = socket.if_nametoindex(name)
            except OSError as exc:  # without an errno before Python 3.14
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from exc
        return self._indices[name]
