"""rtnetlink messages to values of vxland.model.kernel_state. Pure.

Layouts: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h. Attributes are walked with struct: these
parsers see every route and neighbour of a cluster, and pyroute2 fails on a link whose name is not UTF-8. The kernel
takes such names (dev_valid_name of net/core/dev.c); here they are strings as Python has file names, os.fsdecode().
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT

from vxland.model.kernel_state import InterfaceAddress, Neighbour, Route
from vxland.model.lease import Address, Mac, Subnet
from vxland.netlink.rtnl import HDR, attributes

TABLE_MAIN = 254
_TABLE_LOCAL = 255
ONLINK = 4  # RTNH_FONLINK
_CLONED = 0x200  # RTM_F_CLONED: a cached exception, not a route
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_VIA, _RTA_PREF = 1, 4, 5, 6, 7, 18, 20
_RTA_EXTRAS = {7: "src", 8: "metrics", 9: "nexthop", 11: "realms", 18: "via", 22: "encap", 30: "nhid"}
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
ADDRESS_MARK = 0x76
"""IFA_PROTO of addresses that vxland adds: who has added an address, which the kernel keeps and tells (Linux 5.18)."""
_SECONDARY, _OPTIMISTIC, _DADFAILED, _DEPRECATED, _TENTATIVE, _PERMANENT = 0x01, 0x04, 0x08, 0x20, 0x40, 0x80
_NDA_DST, _NDA_LLADDR = 1, 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND = 1, 2, 4
_IFLA_VXLAN_PORT = 15

_RTMSG = struct.Struct("=8BI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_IFADDRMSG = struct.Struct("=4BI")  # family, prefixlen, flags, scope, index
_NDMSG = struct.Struct("=B3xiHBB")  # family, ifindex, state, flags, type
_IFINDEX = struct.Struct("=4xi")  # ifinfomsg, ifaddrmsg and ndmsg all have the index at offset 4
_IFINFOMSG = struct.Struct("=4xiII")  # index, flags, the flags that changed
_CACHEINFO = struct.Struct("=8xI4x")  # struct ifa_cacheinfo: when it was made, in hundredths of a second since boot
_NEW_LINK = 0xFFFF_FFFF
_AT = HDR.size


class RouteScope:
    """Which routes and events concern one device: its own, and main-table routes into the overlay networks.

    With `ways`, also whatever may change which way packets to other nodes leave.
    """

    def __init__(self, device: str, index: int, networks: Iterable[Subnet], ways: bool = False) -> None:
        self.device = device
        self.index = index
        self._ways = ways
        self._networks = [
            (
                socket.AF_INET if network.version == 4 else socket.AF_INET6,
                network.prefixlen,
                network.max_prefixlen - network.prefixlen,
                int(network.network_address) >> (network.max_prefixlen - network.prefixlen),
            )
            for network in networks
        ]

    def covers(self, family: int, prefix_len: int, destination: bytes) -> bool:
        """Whether a route's destination lies inside an overlay network."""
        value = int.from_bytes(destination, "big")
        for own, own_len, host_len, prefix in self._networks:  # any() takes nine times as long
            if family == own and prefix_len >= own_len and value >> host_len == prefix:
                return True
        return False

    def concerns(self, kind: int, message: bytes) -> bool:
        """Whether a multicast event may have changed what read() would say."""
        if kind in {RTM_NEWROUTE, RTM_DELROUTE}:
            return (self._ways and _steers(message)) or _route_parts(self, message) is not None
        if kind in {RTM_NEWNEIGH, RTM_DELNEIGH} and message[_AT] == socket.AF_BRIDGE:
            return False  # bridge FDB: not ours
        if _IFINDEX.unpack_from(message, _AT)[0] == self.index:
            return True
        if kind not in {RTM_NEWLINK, RTM_DELLINK}:
            return False
        # With a link that goes down the kernel drops routes, IPv4's without an event; a new one changes all its flags
        changed = _IFINFOMSG.unpack_from(message, _AT)[2]
        if self._ways and changed & IFF_UP and changed != _NEW_LINK:
            return True
        name = attributes(message, _AT + _IFINFOMSG.size).get(_IFLA_IFNAME)  # the device made anew, of another index
        return _text(name) == self.device


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One link, as far as we need it; `vxlan_port` only for a kernel vxlan device, `vrf` the index of its VRF, or 0."""

    name: str
    index: int
    kind: str
    mac: Mac
    mtu: int
    up: bool
    vxlan_port: int | None
    vrf: int = 0


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of the interface `index`; `flags` are IFA_F_ ones, `made` is when, in hundredths of a second.

    `marked`: a vxland has added it.
    """

    index: int
    interface: InterfaceAddress
    flags: int = _PERMANENT
    made: int = 0
    marked: bool = False

    @property
    def bindable(self) -> bool:
        """Whether a VTEP can be bound to it: unicast, not loopback, and no other node was or may be found to have it.

        An IPv6 link-local one is not, since it means nothing without an interface.
        """
        ip = self.interface.ip
        if ip.is_multicast or ip.is_unspecified or ip.is_loopback or (ip.version == 6 and ip.is_link_local):
            return False
        return not self.flags & _DADFAILED and (not self.flags & _TENTATIVE or bool(self.flags & _OPTIMISTIC))

    @property
    def deprecated(self) -> bool:
        """Whether nothing new should use it."""
        return bool(self.flags & _DEPRECATED)

    @property
    def secondary(self) -> bool:
        """Whether the kernel takes another one first: IPv4's secondary, IPv6's temporary addresses (the same bit)."""
        return bool(self.flags & _SECONDARY)

    @property
    def lone(self) -> bool:
        """Whether it is all of its subnet, /32 or /128, as the address of a service (a VIP) usually is."""
        return self.interface.network.prefixlen == self.interface.max_prefixlen


def parse_link(message: bytes) -> LinkInfo:
    """LinkInfo of an RTM_NEWLINK."""
    index, flags, _ = _IFINFOMSG.unpack_from(message, _AT)
    found = attributes(message, _AT + _IFINFOMSG.size)
    info = attributes(found.get(_IFLA_LINKINFO, b""), 0)
    kind = _text(info.get(_IFLA_INFO_KIND))
    port = attributes(info.get(_IFLA_INFO_DATA, b""), 0).get(_IFLA_VXLAN_PORT) if kind == "vxlan" else None
    address = found.get(_IFLA_ADDRESS, b"")
    in_vrf = _text(info.get(_IFLA_INFO_SLAVE_KIND)) == "vrf"
    return LinkInfo(
        name=_text(found.get(_IFLA_IFNAME)),
        index=index,
        kind=kind,
        mac=Mac(int.from_bytes(address, "big")) if len(address) == 6 else Mac(0),
        mtu=_number(found.get(_IFLA_MTU)),
        up=bool(flags & IFF_UP),
        vxlan_port=None if port is None else int.from_bytes(port, "big"),
        vrf=_number(found.get(_IFLA_MASTER)) if in_vrf else 0,
    )


def parse_address(message: bytes) -> LocalAddress | None:
    """LocalAddress of an RTM_NEWADDR; None for families other than IP."""
    family, prefix_len, flags, _, index = _IFADDRMSG.unpack_from(message, _AT)
    found = attributes(message, _AT + _IFADDRMSG.size)
    octets = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)  # IFA_ADDRESS is the far end where there is one
    if octets is None:
        return None
    flags = _number(found.get(_IFA_FLAGS)) or flags
    cache = found.get(_IFA_CACHEINFO, b"")
    made = _CACHEINFO.unpack(cache)[0] if len(cache) == _CACHEINFO.size else 0
    marked = found.get(_IFA_PROTO) == bytes([ADDRESS_MARK])
    if family == socket.AF_INET:
        return LocalAddress(index, IPv4Interface((octets, prefix_len)), flags, made, marked)
    if family == socket.AF_INET6:
        return LocalAddress(index, IPv6Interface((octets, prefix_len)), flags, made, marked)
    return None


def parse_neighbour(message: bytes, index: int, asked: int) -> Neighbour | None:
    """Neighbour of an RTM_NEWNEIGH; None when it is another device's or family's than `asked`."""
    family, ifindex, state, _, _ = _NDMSG.unpack_from(message, _AT)
    if ifindex != index or family != asked:
        return None
    found = attributes(message, _AT + _NDMSG.size)
    octets = found.get(_NDA_DST)
    if octets is None:
        return None
    lladdr = found.get(_NDA_LLADDR)
    mac = Mac(int.from_bytes(lladdr, "big")) if lladdr is not None and len(lladdr) == 6 else None
    return Neighbour(_address(octets), mac, bool(state & NUD_PERMANENT))


@dataclass(frozen=True, slots=True)
class RouteLookup:
    """The kernel's answer to a route lookup: type, interface, whether a gateway stands between, source address."""

    kind: int
    index: int
    gateway: bool
    source: Address | None


def parse_route_lookup(message: bytes) -> RouteLookup:
    """Way of an RTM_NEWROUTE that answers a lookup."""
    kind = _RTMSG.unpack_from(message, _AT)[7]
    found = attributes(message, _AT + _RTMSG.size)
    source = found.get(_RTA_PREFSRC)
    return RouteLookup(
        kind,
        _number(found.get(_RTA_OIF)),
        _RTA_GATEWAY in found or _RTA_VIA in found,
        None if source is None else _address(source),
    )


def parse_route(message: bytes, within: RouteScope, name_of: Callable[[int], str], asked: int) -> Route | None:
    """Route of an RTM_NEWROUTE; None if it is not `within`. `name_of` names other interfaces.

    `asked` is the address family dumped: a kernel without that family lists every other one. Kernel: rtnetlink_rcv_msg.
    """
    parts = _route_parts(within, message)
    if parts is None:
        return None
    (family, dst_len, _, tos, _, proto, scope, kind, flags), found = parts
    if family != asked:
        return None
    octets = found.get(_RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    subnet = IPv4Network((octets, dst_len)) if family == socket.AF_INET else IPv6Network((octets, dst_len))
    extras = tuple(name for attr, name in _RTA_EXTRAS.items() if attr in found)
    if found.get(_RTA_PREF, b"\0") != b"\0":
        extras += ("pref",)
    gateway, source = found.get(_RTA_GATEWAY), found.get(_RTA_PREFSRC)
    index = _number(found.get(_RTA_OIF))
    return Route(
        subnet=subnet,
        gateway=None if gateway is None else _address(gateway),
        device=within.device if index == within.index else name_of(index) if index else "",
        onlink=bool(flags & ONLINK),
        proto=proto,
        scope=scope,
        metric=_number(found.get(_RTA_PRIORITY)),
        tos=tos,
        kind=kind,
        extras=extras,
        source=None if source is None else _address(source),
    )


def _route_parts(within: RouteScope, message: bytes) -> tuple[tuple[int, ...], dict[int, bytes]] | None:
    """(struct rtmsg, attributes) of a main-table route on the watched device or into its networks."""
    header = _RTMSG.unpack_from(message, _AT)
    family, dst_len, src_len, _, table, _, _, _, flags = header
    if table != TABLE_MAIN or src_len or flags & _CLONED or family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    found = attributes(message, _AT + _RTMSG.size)
    if _number(found.get(_RTA_OIF)) != within.index and not within.covers(family, dst_len, found.get(_RTA_DST, b"")):
        return None
    return header, found


def _steers(message: bytes) -> bool:
    """Whether a route may lead to other nodes: it is in any table but that of this node's own addresses."""
    _, _, _, _, table, _, _, _, flags = _RTMSG.unpack_from(message, _AT)
    return table != _TABLE_LOCAL and not flags & _CLONED


def _number(octets: bytes | None) -> int:
    return 0 if octets is None else int.from_bytes(octets, sys.byteorder)


def _text(octets: bytes | None) -> str:
    return os.fsdecode((octets or b"").rstrip(b"\0"))


def _address(octets: bytes) -> Address:
    return IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)
