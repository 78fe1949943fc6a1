"""rtnetlink messages to values of vxland.model.kernel_state. Pure.

Layouts: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h. Attributes are parsed with struct: these
parsers see every route and neighbour of a cluster. The kernel accepts names of links that are not UTF-8
(dev_valid_name of net/core/dev.c): they are decoded as Python decodes file names.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from vxland.model.kernel_state import InterfaceAddress, Neighbour, Route
from vxland.model.lease import Address, Mac, Subnet
from vxland.netlink.message import (
    AF_INET,
    AF_INET6,
    HDR,
    IFADDRMSG,
    IFINFOMSG,
    NDMSG,
    RTMSG,
    attributes,
)

TABLE_MAIN = 254
_TABLE_LOCAL = 255
ONLINK = 4  # RTNH_FONLINK
IFF_UP = 1  # linux/if.h
NUD_PERMANENT = 0x80  # linux/neighbour.h
_CLONED = 0x200  # RTM_F_CLONED: a cached exception, not a route
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, _RTA_PREFSRC, _RTA_VIA, _RTA_PREF = 1, 4, 5, 6, 7, 18, 20
_RTA_EXTRAS = {7: "src", 8: "metrics", 9: "nexthop", 11: "realms", 18: "via", 22: "encap", 30: "nhid"}
IFA_ADDRESS, IFA_LOCAL, _IFA_CACHEINFO, IFA_FLAGS, IFA_PROTO = 1, 2, 6, 8, 11
ADDRESS_MARK = 0x76
"""IFA_PROTO of addresses that vxland adds: the kernel stores and lists who added an address (Linux 5.18)."""
_SECONDARY, _OPTIMISTIC, _DADFAILED, _DEPRECATED, _TENTATIVE, _PERMANENT = 0x01, 0x04, 0x08, 0x20, 0x40, 0x80
NDA_DST, NDA_LLADDR = 1, 2
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND = 1, 2, 4
_IFLA_VXLAN_ID, _IFLA_VXLAN_PORT = 1, 15

_IFINDEX = struct.Struct("=4xi")  # ifinfomsg, ifaddrmsg and ndmsg all have the index at offset 4
_CACHEINFO = struct.Struct("=8xI4x")  # struct ifa_cacheinfo: when it was made, in hundredths of a second since boot
_AT = HDR.size


class RouteScope:
    """The routes and events that concern one device: its own, and main-table routes into the overlay networks.

    With `underlay`, also every event that may change the route to other nodes.
    """

    def __init__(self, device: str, index: int, networks: Iterable[Subnet], underlay: bool = False) -> None:
        self.device = device
        self.index = index
        self.underlay = underlay
        self._networks = [
            (
                AF_INET if network.version == 4 else AF_INET6,
                network.prefixlen,
                network.max_prefixlen - network.prefixlen,
                int(network.network_address) >> (network.max_prefixlen - network.prefixlen),
            )
            for network in networks
        ]

    def covers(self, family: int, prefix_len: int, destination: bytes) -> bool:
        """Return whether a route's destination lies inside an overlay network."""
        value = int.from_bytes(destination, "big")
        for own, own_len, host_len, prefix in self._networks:  # any() takes nine times as long
            if family == own and prefix_len >= own_len and value >> host_len == prefix:
                return True
        return False


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One link; `vxlan_port` and `vxlan_vni` are a kernel vxlan device's, `vrf` is the index of its VRF, or 0."""

    name: str
    index: int
    kind: str
    mac: Mac
    mtu: int
    up: bool
    vxlan_port: int | None
    vrf: int = 0
    vxlan_vni: int | None = None


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of the interface `index`; `flags` are IFA_F_ ones, `made` its time in 1/100 s since boot.

    `marked`: vxland has added it.
    """

    index: int
    interface: InterfaceAddress
    flags: int = _PERMANENT
    made: int = 0
    marked: bool = False

    @property
    def bindable(self) -> bool:
        """Whether a VTEP can be bound to it: unicast, not loopback, and not a duplicate of another node's.

        An IPv6 link-local address is not, since it means nothing without an interface.
        """
        ip = self.interface.ip
        if ip.is_multicast or ip.is_unspecified or ip.is_loopback or (ip.version == 6 and ip.is_link_local):
            return False
        return not self.flags & _DADFAILED and (not self.flags & _TENTATIVE or bool(self.flags & _OPTIMISTIC))

    @property
    def deprecated(self) -> bool:
        """Whether new connections should not use it."""
        return bool(self.flags & _DEPRECATED)

    @property
    def secondary(self) -> bool:
        """Whether the kernel prefers another one: IPv4's secondary, IPv6's temporary addresses (the same bit)."""
        return bool(self.flags & _SECONDARY)

    @property
    def lone(self) -> bool:
        """True if the subnet has no other address (/32, /128): usually the address of a service (a VIP)."""
        return self.interface.network.prefixlen == self.interface.max_prefixlen


def parse_link(message: bytes) -> LinkInfo:
    """Parse an RTM_NEWLINK."""
    index, flags, _ = IFINFOMSG.unpack_from(message, _AT)
    found = attributes(message, _AT + IFINFOMSG.size)
    info = attributes(found.get(_IFLA_LINKINFO, b""), 0)
    kind = _text(info.get(_IFLA_INFO_KIND))
    vxlan = attributes(info.get(_IFLA_INFO_DATA, b""), 0) if kind == "vxlan" else {}
    port, vni = vxlan.get(_IFLA_VXLAN_PORT), vxlan.get(_IFLA_VXLAN_ID)
    address = found.get(IFLA_ADDRESS, b"")
    in_vrf = _text(info.get(_IFLA_INFO_SLAVE_KIND)) == "vrf"
    return LinkInfo(
        name=_text(found.get(IFLA_IFNAME)),
        index=index,
        kind=kind,
        mac=Mac(int.from_bytes(address, "big")) if len(address) == 6 else Mac(0),
        mtu=_number(found.get(IFLA_MTU)),
        up=bool(flags & IFF_UP),
        vxlan_port=None if port is None else int.from_bytes(port, "big"),
        vrf=_number(found.get(_IFLA_MASTER)) if in_vrf else 0,
        vxlan_vni=None if vni is None else _number(vni),
    )


def parse_address(message: bytes) -> LocalAddress | None:
    """Parse an RTM_NEWADDR; None for families other than IP."""
    family, prefix_len, flags, _, index = IFADDRMSG.unpack_from(message, _AT)
    found = attributes(message, _AT + IFADDRMSG.size)
    packed = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)  # IFA_ADDRESS is the far end where there is one
    if packed is None:
        return None
    flags = _number(found.get(IFA_FLAGS)) or flags
    cache = found.get(_IFA_CACHEINFO, b"")
    made = _CACHEINFO.unpack(cache)[0] if len(cache) == _CACHEINFO.size else 0
    marked = found.get(IFA_PROTO) == bytes([ADDRESS_MARK])
    if family == AF_INET:
        return LocalAddress(index, IPv4Interface((packed, prefix_len)), flags, made, marked)
    if family == AF_INET6:
        return LocalAddress(index, IPv6Interface((packed, prefix_len)), flags, made, marked)
    return None


def parse_neighbour(message: bytes, index: int, asked: int) -> Neighbour | None:
    """Parse an RTM_NEWNEIGH; None if it is another device's, or its address family is not `asked`."""
    family, ifindex, state, _, _ = NDMSG.unpack_from(message, _AT)
    if ifindex != index or family != asked or family not in {AF_INET, AF_INET6}:  # AF_BRIDGE: a bridge's FDB
        return None
    found = attributes(message, _AT + NDMSG.size)
    packed = found.get(NDA_DST)
    if packed is None:
        return None
    lladdr = found.get(NDA_LLADDR)
    mac = Mac(int.from_bytes(lladdr, "big")) if lladdr is not None and len(lladdr) == 6 else None
    return Neighbour(_address(packed), mac, bool(state & NUD_PERMANENT))


@dataclass(frozen=True, slots=True)
class RouteLookup:
    """The kernel's answer to a route lookup: type, interface, whether through a gateway, and source address."""

    kind: int
    index: int
    gateway: bool
    source: Address | None


def parse_route_lookup(message: bytes) -> RouteLookup:
    """Parse an RTM_NEWROUTE that answers a route lookup."""
    kind = RTMSG.unpack_from(message, _AT)[7]
    found = attributes(message, _AT + RTMSG.size)
    source = found.get(_RTA_PREFSRC)
    return RouteLookup(
        kind,
        _number(found.get(RTA_OIF)),
        RTA_GATEWAY in found or _RTA_VIA in found,
        None if source is None else _address(source),
    )


def parse_route(message: bytes, within: RouteScope, name_of: Callable[[int], str], asked: int) -> Route | None:
    """Parse an RTM_NEWROUTE; None if it is not `within`. `name_of` names other interfaces.

    `asked` is the address family dumped: a kernel without that family lists every other one. Kernel: rtnetlink_rcv_msg.
    """
    parts = _route_parts(within, message)
    if parts is None:
        return None
    (family, dst_len, _, tos, _, proto, scope, kind, flags), found = parts
    if family != asked:
        return None
    packed = found.get(RTA_DST) or bytes(4 if family == AF_INET else 16)
    subnet = IPv4Network((packed, dst_len)) if family == AF_INET else IPv6Network((packed, dst_len))
    extras = tuple(name for attr, name in _RTA_EXTRAS.items() if attr in found)
    if found.get(_RTA_PREF, b"\0") != b"\0":
        extras += ("pref",)
    gateway, source = found.get(RTA_GATEWAY), found.get(_RTA_PREFSRC)
    index = _number(found.get(RTA_OIF))
    return Route(
        subnet=subnet,
        gateway=None if gateway is None else _address(gateway),
        device=within.device if index == within.index else name_of(index) if index else "",
        onlink=bool(flags & ONLINK),
        proto=proto,
        scope=scope,
        metric=_number(found.get(RTA_PRIORITY)),
        tos=tos,
        kind=kind,
        extras=extras,
        source=None if source is None else _address(source),
    )


def _route_parts(within: RouteScope, message: bytes) -> tuple[tuple[int, ...], dict[int, bytes]] | None:
    """Return (struct rtmsg, attributes) of a main-table route on the device or into its networks; None for others."""
    header = RTMSG.unpack_from(message, _AT)
    family, dst_len, src_len, _, table, _, _, _, flags = header
    if table != TABLE_MAIN or src_len or flags & _CLONED or family not in {AF_INET, AF_INET6}:
        return None
    found = attributes(message, _AT + RTMSG.size)
    if _number(found.get(RTA_OIF)) != within.index and not within.covers(family, dst_len, found.get(RTA_DST, b"")):
        return None
    return header, found


def index_of(message: bytes) -> int:
    """Return the index of the interface that a message about a link, address or neighbour names."""
    return int(_IFINDEX.unpack_from(message, _AT)[0])


def may_lead_to_nodes(message: bytes) -> bool:
    """Return whether a route may lead to other nodes: it is in any table but the local one."""
    _, _, _, _, table, _, _, _, flags = RTMSG.unpack_from(message, _AT)
    return table != _TABLE_LOCAL and not flags & _CLONED


def _number(value: bytes | None) -> int:
    return 0 if value is None else int.from_bytes(value, sys.byteorder)


def _text(value: bytes | None) -> str:
    """Decode as os.fsdecode() does, and so as the names that if_indextoname() returns."""
    return (value or b"").rstrip(b"\0").decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def _address(value: bytes) -> Address:
    return IPv4Address(value) if len(value) == 4 else IPv6Address(value)
