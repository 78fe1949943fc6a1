"""What the kernel holds for the overlay device, and the changes to it: the values kernel/ and control/ exchange.

Every action prints as the `ip` command it equals, so that a plan can be read, and run by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Interface, IPv6Interface
from typing import ClassVar, TypeAlias

from vxland.model import Address, Mac, Subnet

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface

# rtnetlink(7), include/uapi/linux/rtnetlink.h
PROTO_BOOT = 3
SCOPE_UNIVERSE = 0
KIND_UNICAST = 1
KIND_LOCAL = 2
KIND_BLACKHOLE = 6

_DEFAULT_METRIC = {4: 0, 6: 1024}  # what a route without a metric gets; IPv6: IP6_RT_PRIO_USER


@dataclass(frozen=True, slots=True)
class LinkState:
    """The overlay device; `kind` is IFLA_INFO_KIND ("tun" for a TAP, "" unknown); accept_ra None: no IPv6 on it."""

    index: int
    kind: str
    mac: Mac
    mtu: int
    up: bool
    accept_ra: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """One route of table main; `device` is "" for none or several, `extras` names attributes flannel never sets."""

    subnet: Subnet
    gateway: Address | None
    device: str
    onlink: bool = False
    proto: int = PROTO_BOOT
    scope: int = SCOPE_UNIVERSE
    metric: int = 0
    tos: int = 0
    kind: int = KIND_UNICAST
    extras: tuple[str, ...] = ()

    @property
    def in_flannels_slot(self) -> bool:
        """Whether our route to this subnet would take this one's place: same TOS and metric. Kernel: fib_trie.c."""
        return self.tos == 0 and self.metric == _DEFAULT_METRIC[self.subnet.version]

    def is_flannels(self, device: str) -> bool:
        """Whether flannel (vxlan_network.go) would have written exactly this route on `device`."""
        return (
            self.device == device
            and self.onlink
            and self.proto == PROTO_BOOT
            and self.gateway == self.subnet.network_address
            and self.scope == SCOPE_UNIVERSE
            and self.kind == KIND_UNICAST
            and not self.extras
            and self.in_flannels_slot
        )


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One ARP or NDP entry of the overlay device; `mac` is None while unresolved."""

    address: Address
    mac: Mac | None
    permanent: bool


@dataclass(frozen=True, slots=True)
class Have:
    """A snapshot of the kernel; `routes` in lookup order: the device's own, and others inside the overlay networks."""

    link: LinkState | None = None
    addresses: tuple[InterfaceAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface and local address that datagrams leave from; `mtu` in bytes."""

    interface: str
    index: int
    address: Address
    mtu: int


@dataclass(frozen=True, slots=True)
class UnderlayWish:
    """How to choose the underlay; the first hit of `interfaces`, `patterns` and `can_reach` wins, in this order.

    Nothing given: the interface of the default route. flannel: main.go, pkg/ipmatch/match.go.
    """

    interfaces: tuple[str, ...] = ()
    """Names of interfaces, or addresses that one has."""

    patterns: tuple[str, ...] = ()
    """Valid patterns of Python's re, searched for in usable addresses and, where none has them, in names."""

    can_reach: Address | None = None
    """The interface that packets to this address leave from."""

    addresses: Mapping[int, Address] = field(default_factory=dict)
    """The local address by IP version, where it is not the interface's best; alone, they also choose the interface."""


@dataclass(frozen=True, slots=True)
class _Action:
    """One change to the kernel; equal actions share their retry date."""

    device: str
    verb: ClassVar[str]

    def event_fields(self) -> dict[str, str]:
        """What a log event says of this action: `action` and its operands, all text."""
        return {"action": self.verb} | {field.name: str(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class SetMac(_Action):
    """Give the device its published MAC; the kernel flushes the device's neighbours. Kernel: neigh_changeaddr."""

    mac: Mac
    verb: ClassVar[str] = "set_mac"

    def __str__(self) -> str:
        return f"ip link set dev {self.device} address {self.mac}"


@dataclass(frozen=True, slots=True)
class SetMtu(_Action):
    """Set the overlay MTU, in bytes."""

    mtu: int
    verb: ClassVar[str] = "set_mtu"

    def __str__(self) -> str:
        return f"ip link set dev {self.device} mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class SetAcceptRa(_Action):
    """Refuse router advertisements from the overlay. flannel: device.go."""

    value: int
    verb: ClassVar[str] = "set_accept_ra"

    def __str__(self) -> str:
        return f"sysctl -w net/ipv6/conf/{self.device}/accept_ra={self.value}"


@dataclass(frozen=True, slots=True)
class SetUp(_Action):
    """Bring the device up."""

    verb: ClassVar[str] = "set_up"

    def __str__(self) -> str:
        return f"ip link set dev {self.device} up"


@dataclass(frozen=True, slots=True)
class AddAddress(_Action):
    """Add one of our own overlay addresses."""

    address: InterfaceAddress
    verb: ClassVar[str] = "add_address"

    def __str__(self) -> str:
        return f"ip address add {self.address} dev {self.device}"


@dataclass(frozen=True, slots=True)
class DelAddress(_Action):
    """Remove an overlay address that is no longer ours."""

    address: InterfaceAddress
    verb: ClassVar[str] = "del_address"

    def __str__(self) -> str:
        return f"ip address del {self.address} dev {self.device}"


@dataclass(frozen=True, slots=True)
class ReplaceRoute(_Action):
    """Route a peer's subnet through the device, by way of the subnet's base address."""

    subnet: Subnet
    verb: ClassVar[str] = "replace_route"

    @property
    def gateway(self) -> Address:
        """The subnet's base address, which the permanent neighbour resolves."""
        return self.subnet.network_address

    def __str__(self) -> str:
        return f"{_ip(self.subnet)} route replace {self.subnet} via {self.gateway} dev {self.device} onlink"


@dataclass(frozen=True, slots=True)
class DelRoute(_Action):
    """Remove a stale route of ours, or one that stands before ours; `device` is the overlay device, not the route's."""

    route: Route
    verb: ClassVar[str] = "del_route"

    def event_fields(self) -> dict[str, str]:
        """As for the others, with the route as `ip route` prints it."""
        return {"action": self.verb, "device": self.device, "route": _describe(self.route)}

    def __str__(self) -> str:
        return f"{_ip(self.route.subnet)} route del {_describe(self.route)}"


@dataclass(frozen=True, slots=True)
class ReplaceNeighbour(_Action):
    """Resolve a peer's base address to its VTEP MAC, permanently."""

    address: Address
    mac: Mac
    verb: ClassVar[str] = "replace_neighbour"

    def __str__(self) -> str:
        return f"ip neigh replace {self.address} lladdr {self.mac} dev {self.device} nud permanent"


@dataclass(frozen=True, slots=True)
class DelNeighbour(_Action):
    """Forget a permanent neighbour that no lease backs."""

    address: Address
    verb: ClassVar[str] = "del_neighbour"

    def __str__(self) -> str:
        return f"ip neigh del {self.address} dev {self.device}"


Action: TypeAlias = (
    SetMac
    | SetMtu
    | SetAcceptRa
    | SetUp
    | AddAddress
    | DelAddress
    | ReplaceRoute
    | DelRoute
    | ReplaceNeighbour
    | DelNeighbour
)


def _ip(subnet: Subnet) -> str:
    return "ip" if subnet.version == 4 else "ip -6"


def _describe(route: Route) -> str:
    words = [str(route.subnet)]
    if route.kind != KIND_UNICAST:
        words.insert(0, f"type {route.kind}")
    if route.gateway is not None:
        words += ["via", str(route.gateway)]
    if route.device:
        words += ["dev", route.device]
    words += ["proto", "boot" if route.proto == PROTO_BOOT else str(route.proto)]
    if route.tos:
        words += ["tos", f"{route.tos:#x}"]
    if route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)
