"""Lists of links, addresses, routes and neighbours as the kernel dumps them, and interface names with a cache."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from vxland.model.kernel_state import Neighbour, Route
from vxland.netlink.message import (
    AF_INET,
    AF_INET6,
    IFADDRMSG,
    IFINFOMSG,
    NDMSG,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTMSG,
    attribute,
    number,
)
from vxland.netlink.parse import (
    IFLA_IFNAME,
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
_NDA_IFINDEX: Final = 8  # linux/neighbour.h


async def get_link(rtnl: Rtnl, name: str) -> LinkInfo | None:
    """Return the link of that name; None if there is no such link. KernelRefusedError."""
    request = IFINFOMSG.pack(0, 0, 0) + attribute(IFLA_IFNAME, os.fsencode(name) + b"\0")
    try:
        return parse_link(await rtnl.get(request, RTM_GETLINK))
    except KernelRefusedError as exc:
        if exc.code == errno.ENODEV:
            return None
        raise


async def list_links(rtnl: Rtnl) -> list[LinkInfo]:
    """Return every link of the namespace. KernelRefusedError."""
    return await rtnl.dump(IFINFOMSG.pack(0, 0, 0), RTM_GETLINK, parse_link)


async def list_addresses(rtnl: Rtnl, index: int = 0) -> list[LocalAddress]:
    """Return the addresses of one interface, or of all (0). KernelRefusedError."""

    def parse(message: bytes) -> LocalAddress | None:
        found = parse_address(message)
        return found if found is not None and index in {0, found.index} else None

    return await rtnl.dump(IFADDRMSG.pack(0, 0, 0, 0, index), RTM_GETADDR, parse)


async def scan_routes(rtnl: Rtnl, family: int, scope: RouteScope, found: Callable[[Route], None]) -> None:
    """Call `found` with each main-table route of an address family within `scope`. KernelRefusedError."""
    names = InterfaceNames()

    def parse(message: bytes) -> None:
        if (route := parse_route(message, scope, names.name_of, family)) is not None:
            found(route)

    await rtnl.dump(RTMSG.pack(family, 0, 0, 0, TABLE_MAIN, 0, 0, 0, 0), RTM_GETROUTE, parse)


async def scan_neighbours(rtnl: Rtnl, family: int, index: int, found: Callable[[Neighbour], None]) -> None:
    """Call `found` with each ARP or NDP entry of one interface. KernelRefusedError."""

    def parse(message: bytes) -> None:
        if (neighbour := parse_neighbour(message, index, family)) is not None:
            found(neighbour)

    request = NDMSG.pack(family, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, number(index))
    await rtnl.dump(request, RTM_GETNEIGH, parse)


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
