"""Changes to the kernel's state: reconcile/ plans them and netlink/ applies them.

Every action prints as the equivalent `ip` command, so a plan can be read, and executed by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, TypeAlias

from vxland.model.kernel_state import (
    BLACKHOLE_METRIC,
    KIND_BLACKHOLE,
    KIND_UNICAST,
    PROTO_BOOT,
    InterfaceAddress,
    Route,
)
from vxland.model.lease import Address, Mac, Subnet
from vxland.model.text import link_name


@dataclass(frozen=True, slots=True)
class _Action:
    """One change to the kernel; equal actions share their retry time."""

    device: str
    verb: ClassVar[str]

    def event_fields(self) -> dict[str, str]:
        """Return the fields of a log event about this action: `action` and its operands, all text."""
        return {"action": self.verb} | {field.name: str(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class SetMac(_Action):
    """Set the device's published MAC; the kernel flushes the device's neighbours. Kernel: neigh_changeaddr."""

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
    """Add one of our own overlay addresses, with our mark (`proto`, which `ip` can set since 6.4)."""

    address: InterfaceAddress
    verb: ClassVar[str] = "add_address"

    def __str__(self) -> str:
        nodad = " nodad" if self.address.version == 6 else ""  # ours by lease, and needed at once
        return f"ip address add {self.address} dev {self.device}{nodad}"


@dataclass(frozen=True, slots=True)
class DelAddress(_Action):
    """Remove an overlay address that is no longer ours."""

    address: InterfaceAddress
    verb: ClassVar[str] = "del_address"

    def __str__(self) -> str:
        return f"ip address del {self.address} dev {self.device}"


@dataclass(frozen=True, slots=True)
class ReplaceRoute(_Action):
    """Route a peer's subnet through the device, with the subnet's base address as gateway."""

    subnet: Subnet
    verb: ClassVar[str] = "replace_route"

    @property
    def gateway(self) -> Address:
        """The subnet's base address, which the permanent neighbour resolves."""
        return self.subnet.network_address

    def __str__(self) -> str:
        return f"{_ip(self.subnet)} route replace {self.subnet} via {self.gateway} dev {self.device} onlink"


@dataclass(frozen=True, slots=True)
class ReplaceDirectRoute(_Action):
    """Route a peer's subnet to its VTEP without the tunnel; `device` is the interface to the VTEP."""

    subnet: Subnet
    gateway: Address
    verb: ClassVar[str] = "replace_direct_route"

    def __str__(self) -> str:
        return f"{_ip(self.subnet)} route replace {self.subnet} via {self.gateway} dev {link_name(self.device)}"


@dataclass(frozen=True, slots=True)
class ReplaceBlackhole(_Action):
    """Drop packets to our subnet that are for no pod; `device` is the overlay device, not the route's."""

    subnet: Subnet
    verb: ClassVar[str] = "replace_blackhole"

    def __str__(self) -> str:
        return f"{_ip(self.subnet)} route replace blackhole {self.subnet} metric {BLACKHOLE_METRIC}"


@dataclass(frozen=True, slots=True)
class DelRoute(_Action):
    """Remove our stale route, or one that precedes ours; `device` is the overlay device, not the route's."""

    route: Route
    verb: ClassVar[str] = "del_route"

    def event_fields(self) -> dict[str, str]:
        """Return the fields of a log event, with the route as `ip route` prints it."""
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
    """Remove a permanent neighbour that has no lease."""

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
    | ReplaceDirectRoute
    | ReplaceBlackhole
    | DelRoute
    | ReplaceNeighbour
    | DelNeighbour
)


def _ip(subnet: Subnet) -> str:
    return "ip" if subnet.version == 4 else "ip -6"


def _describe(route: Route) -> str:
    words = [str(route.subnet)]
    if route.kind != KIND_UNICAST:
        words.insert(0, "blackhole" if route.kind == KIND_BLACKHOLE else f"type {route.kind}")
    if route.gateway is not None:
        words += ["via", str(route.gateway)]
    if route.device:
        words += ["dev", link_name(route.device)]
    words += ["proto", "boot" if route.proto == PROTO_BOOT else str(route.proto)]
    if route.tos:
        words += ["tos", f"{route.tos:#x}"]
    if route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)
