"""What the kernel holds for the overlay device, and the underlay: values that kernel/ and control/ exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal, TypeAlias

from vxland.model.lease import Address, Mac, Subnet

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface

# rtnetlink(7), include/uapi/linux/rtnetlink.h
PROTO_BOOT = 3
SCOPE_UNIVERSE = 0
KIND_UNICAST = 1
KIND_LOCAL = 2
KIND_BLACKHOLE = 6

BLACKHOLE_METRIC = 0xFFFF_FFFF
"""Of our blackhole routes: the last resort, so that the CNI bridge's own route to the subnet always comes first.

With flannel's, none, the kernel puts the bridge's route behind the blackhole if that was there first, which cuts off
all pods of the node; if the bridge was first, it refuses the blackhole.
"""

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
    """One route of table main; `device` is "" for none or several, `extras` names attributes flannel never sets.

    `source` is what the kernel has packets leave with by it, where the route says so (`src`).
    """

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
    source: Address | None = None

    @property
    def in_flannels_slot(self) -> bool:
        """Whether our route to this subnet would take this one's place: same TOS and metric. Kernel: fib_trie.c."""
        return self.tos == 0 and self.metric == _DEFAULT_METRIC[self.subnet.version]

    def is_flannels(self, device: str) -> bool:
        """Whether flannel (vxlan_network.go) would have written exactly this route on `device`."""
        return (
            self.device == device
            and self.onlink
            and self.gateway == self.subnet.network_address
            and self.kind == KIND_UNICAST
            and self._is_bare
        )

    @property
    def is_direct(self) -> bool:
        """Whether it has the shape of DirectRouting's routes (vxlan_network.go): by way of a gateway and no more."""
        return self.gateway is not None and not self.onlink and self.kind == KIND_UNICAST and self._is_bare

    @property
    def is_blackhole(self) -> bool:
        """Whether it is one of our blackholes."""
        return self.kind == KIND_BLACKHOLE and self.proto == PROTO_BOOT and self.metric == BLACKHOLE_METRIC

    @property
    def is_flannels_blackhole(self) -> bool:
        """Whether flanneld's --ip-blackhole-route would have written it."""
        return self.kind == KIND_BLACKHOLE and self._is_bare

    @property
    def _is_bare(self) -> bool:
        return self.proto == PROTO_BOOT and self.scope == SCOPE_UNIVERSE and not self.extras and self.in_flannels_slot


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
    marked: frozenset[InterfaceAddress] = frozenset()
    """Those of `addresses` that a vxland has added: they have its mark (IFA_PROTO, Linux 5.18)."""
    on_link: Mapping[Address, str] = field(default_factory=dict)
    """VTEP addresses that packets reach without a gateway, and through which interface; of those asked for."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface and local address that datagrams leave from; `mtu` in bytes.

    `interface` is its name to be shown, as it was when last read; the kernel is asked by `index`. `vrf` is the index of
    the VRF that the interface is in, or 0.
    """

    interface: str
    index: int
    address: Address
    mtu: int
    vrf: int = 0


@dataclass(frozen=True, slots=True)
class OuterHeader:
    """What outer headers carry; `ttl` and `dscp` None: what the inner header has. The defaults are flannel's.

    `df` over IPv6, whose routers never fragment: whether this node may.
    """

    ttl: int | None = 64
    dscp: int | None = 0
    df: Literal["unset", "set", "inherit"] = "unset"
    checksum_v6: bool = True


Use: TypeAlias = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Offloads:
    """How far each offload is used where the kernel has it; `auto` is on, but for `join_udp`.

    `off` for `join_tcp` and `join_udp`: the TAP is given no superframes of that protocol, whoever made them.
    """

    tso: Use = "auto"
    uso: Use = "auto"
    udp_segment: Use = "auto"
    udp_gro: Use = "auto"
    join_tcp: Use = "auto"
    join_udp: Use = "auto"

    def wants(self, name: str) -> bool:
        """Whether an offload is to be used."""
        use = getattr(self, name)
        return use == "on" or (use == "auto" and name != "join_udp")

    def is_off(self, name: str) -> bool:
        """Whether an offload was switched off, rather than left out."""
        return bool(getattr(self, name) == "off")

    def __str__(self) -> str:
        """Return it as a configuration file would spell it."""
        given = {each.name: use for each in fields(self) if (use := getattr(self, each.name)) != "auto"}
        if len(given) == len(fields(self)) and set(given.values()) == {"off"}:
            return "off"
        return "{" + ", ".join(f"{name}: {use}" for name, use in given.items()) + "}" if given else "auto"


@dataclass(frozen=True, slots=True)
class UnderlaySelector:
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
