"""Actions to rtnetlink messages. Pure.

For each peer they are flannel's (vxlan_network.go): a permanent unicast neighbour, and an onlink route in table main
with protocol boot and neither metric, source nor MTU. The bridge FDB entry is left out: a TAP has no FDB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

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
from vxland.model.kernel_state import BLACKHOLE_METRIC, KIND_BLACKHOLE, KIND_UNICAST, PROTO_BOOT, SCOPE_UNIVERSE
from vxland.model.lease import Address, Subnet
from vxland.netlink.message import (
    IFADDRMSG,
    IFINFOMSG,
    NDMSG,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_SETLINK,
    RTMSG,
    Request,
    attribute,
    family_of,
    number,
)
from vxland.netlink.parse import (
    ADDRESS_MARK,
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    IFA_PROTO,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_MTU,
    NDA_DST,
    NDA_LLADDR,
    NUD_PERMANENT,
    ONLINK,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PRIORITY,
    TABLE_MAIN,
)

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

_REPLACE: Final = NLM_F_CREATE | NLM_F_REPLACE
_NODAD: Final = 0x02  # IFA_F_NODAD


def build_request(action: NetlinkAction, index_of: Callable[[str], int]) -> Request:
    """Return the netlink request for an action. What `index_of` raises for a missing device passes through."""
    match action:
        case ReplaceRoute(device, subnet):
            body = _route(subnet, action.gateway, index_of(device), flags=ONLINK)
            return Request(action, body, RTM_NEWROUTE, _REPLACE)
        case ReplaceNeighbour(device, address, mac):
            value = attribute(NDA_LLADDR, mac.value.to_bytes(6, "big"))
            body = _neighbour(address, index_of(device), NUD_PERMANENT, KIND_UNICAST) + value
            return Request(action, body, RTM_NEWNEIGH, _REPLACE)
        case DelNeighbour(device, address):
            return Request(action, _neighbour(address, index_of(device)), RTM_DELNEIGH)
        case ReplaceDirectRoute(device, subnet, gateway):
            return Request(action, _route(subnet, gateway, index_of(device)), RTM_NEWROUTE, _REPLACE)
        case ReplaceBlackhole(_, subnet):
            body = _route(subnet, None, 0, kind=KIND_BLACKHOLE, metric=BLACKHOLE_METRIC)
            return Request(action, body, RTM_NEWROUTE, _REPLACE)
        case DelRoute(_, route):
            index = index_of(route.device) if route.device else 0
            return Request(
                action,
                _route(
                    route.subnet,
                    route.gateway,
                    index,
                    kind=route.kind,
                    metric=route.metric,
                    tos=route.tos,
                    proto=route.proto,
                    scope=route.scope,
                ),
                RTM_DELROUTE,
            )
        case AddAddress() | DelAddress():
            return _address(action, index_of(action.device))
        case SetMac() | SetMtu() | SetUp():
            return Request(action, _link(action, index_of(action.device)), RTM_SETLINK)


def _link(action: SetMac | SetMtu | SetUp, index: int) -> bytes:
    match action:
        case SetMac(mac=mac):
            return IFINFOMSG.pack(index, 0, 0) + attribute(IFLA_ADDRESS, mac.value.to_bytes(6, "big"))
        case SetMtu(mtu=mtu):
            return IFINFOMSG.pack(index, 0, 0) + attribute(IFLA_MTU, number(mtu))
        case SetUp():
            return IFINFOMSG.pack(index, IFF_UP, IFF_UP)


def _address(action: AddAddress | DelAddress, index: int) -> Request:
    ip, packed = action.address.ip, action.address.ip.packed
    body = IFADDRMSG.pack(family_of(ip), action.address.network.prefixlen, 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if isinstance(action, DelAddress):
        return Request(action, body, RTM_DELADDR)
    body += attribute(IFA_PROTO, bytes([ADDRESS_MARK]))
    if ip.version == 6:
        body += attribute(IFA_FLAGS, number(_NODAD))
    return Request(action, body, RTM_NEWADDR, _REPLACE)


def _route(
    subnet: Subnet,
    gateway: Address | None,
    index: int,
    *,
    kind: int = KIND_UNICAST,
    metric: int = 0,
    tos: int = 0,
    proto: int = PROTO_BOOT,
    scope: int = SCOPE_UNIVERSE,
    flags: int = 0,
) -> bytes:
    base = subnet.network_address
    body = RTMSG.pack(family_of(base), subnet.prefixlen, 0, tos, TABLE_MAIN, proto, scope, kind, flags)
    body += attribute(RTA_DST, base.packed)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway.packed)
    if index:
        body += attribute(RTA_OIF, number(index))
    return body + attribute(RTA_PRIORITY, number(metric)) if metric else body


def _neighbour(address: Address, index: int, state: int = 0, kind: int = 0) -> bytes:
    return NDMSG.pack(family_of(address), index, state, 0, kind) + attribute(NDA_DST, address.packed)
