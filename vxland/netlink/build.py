"""Actions to rtnetlink messages, with pyroute2's message classes. Pure.

For each peer they are flannel's (vxlan_network.go): a permanent unicast neighbour, and an onlink route in table main
with protocol boot and neither metric, source nor MTU. The bridge FDB entry is left out: a TAP has no FDB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pyroute2.netlink import NLM_F_CREATE, NLM_F_REPLACE
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_SETLINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT, ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from vxland.model.actions import (
    AddAddress,
    DelAddress,
    DelNeighbour,
    DelRoute,
    ReplaceBlackhole,
    ReplaceDirectRoute,
    ReplaceNeighbour,
    ReplaceRoute,
    SetMac,
    SetMtu,
    SetUp,
)
from vxland.model.kernel_state import BLACKHOLE_METRIC, KIND_BLACKHOLE, KIND_UNICAST, InterfaceAddress, Route
from vxland.netlink.message import Message, Request, family_of
from vxland.netlink.parse import ADDRESS_MARK, ONLINK, TABLE_MAIN

NetlinkAction: TypeAlias = (
    SetMac
    | SetMtu
    | SetUp
    | AddAddress
    | DelAddress
    | ReplaceRoute
    | ReplaceDirectRoute
    | ReplaceBlackhole
    | DelRoute
    | ReplaceNeighbour
    | DelNeighbour
)

_REPLACE = NLM_F_CREATE | NLM_F_REPLACE
_NODAD = 0x02  # IFA_F_NODAD


def build_request(action: NetlinkAction, index_of: Callable[[str], int]) -> Request:
    """Return the netlink request for an action. What `index_of` raises for a missing device passes through."""
    name = str(action)
    match action:
        case SetMac() | SetMtu() | SetUp():
            return Request(name, _build_link(action, index_of(action.device)), RTM_SETLINK)
        case AddAddress() | DelAddress():
            add = isinstance(action, AddAddress)
            message = _build_address(action.address, index_of(action.device))
            if add:
                message["attrs"].append(["IFA_PROTO", ADDRESS_MARK])
            if add and action.address.version == 6:
                message["attrs"].append(["IFA_FLAGS", _NODAD])
            return Request(name, message, RTM_NEWADDR if add else RTM_DELADDR, _REPLACE if add else 0)
        case ReplaceRoute():
            message = _build_route(Route(action.subnet, action.gateway, action.device), index_of(action.device))
            message["flags"] = ONLINK
            return Request(name, message, RTM_NEWROUTE, _REPLACE)
        case ReplaceDirectRoute():
            message = _build_route(Route(action.subnet, action.gateway, action.device), index_of(action.device))
            return Request(name, message, RTM_NEWROUTE, _REPLACE)
        case ReplaceBlackhole(subnet=subnet):
            message = _build_route(Route(subnet, None, "", kind=KIND_BLACKHOLE, metric=BLACKHOLE_METRIC), 0)
            return Request(name, message, RTM_NEWROUTE, _REPLACE)
        case DelRoute(route=route):
            return Request(name, _build_route(route, index_of(route.device) if route.device else 0), RTM_DELROUTE)
        case ReplaceNeighbour() | DelNeighbour():
            put = isinstance(action, ReplaceNeighbour)
            message = _build_neighbour(action, index_of(action.device))
            return Request(name, message, RTM_NEWNEIGH if put else RTM_DELNEIGH, _REPLACE if put else 0)


def _build_link(action: SetMac | SetMtu | SetUp, index: int) -> Message:
    message = ifinfmsg()
    message["index"] = index
    match action:
        case SetMac(mac=mac):
            message["attrs"] = [["IFLA_ADDRESS", str(mac)]]
        case SetMtu(mtu=mtu):
            message["attrs"] = [["IFLA_MTU", mtu]]
        case SetUp():
            message["flags"] = message["change"] = IFF_UP
    return message


def _build_address(address: InterfaceAddress, index: int) -> Message:
    message = ifaddrmsg()
    message["family"] = family_of(address.ip)
    message["prefixlen"] = address.network.prefixlen
    message["index"] = index
    message["attrs"] = [["IFA_LOCAL", str(address.ip)], ["IFA_ADDRESS", str(address.ip)]]
    return message


def _build_route(route: Route, index: int) -> Message:
    message = rtmsg()
    message["family"] = family_of(route.subnet.network_address)
    message["dst_len"] = route.subnet.prefixlen
    message["tos"] = route.tos
    message["table"] = TABLE_MAIN
    message["proto"] = route.proto
    message["scope"] = route.scope
    message["type"] = route.kind
    message["attrs"] = [["RTA_DST", str(route.subnet.network_address)]]
    if route.gateway is not None:
        message["attrs"].append(["RTA_GATEWAY", str(route.gateway)])
    if index:
        message["attrs"].append(["RTA_OIF", index])
    if route.metric:
        message["attrs"].append(["RTA_PRIORITY", route.metric])
    return message


def _build_neighbour(action: ReplaceNeighbour | DelNeighbour, index: int) -> Message:
    message = ndmsg()
    message["family"] = family_of(action.address)
    message["ifindex"] = index
    message["attrs"] = [["NDA_DST", str(action.address)]]
    if isinstance(action, ReplaceNeighbour):
        message["state"] = NUD_PERMANENT
        message["ndm_type"] = KIND_UNICAST
        message["attrs"].append(["NDA_LLADDR", str(action.mac)])
    return message
