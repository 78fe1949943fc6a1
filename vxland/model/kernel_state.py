"""The kernel's state for the overlay device, and the underlay: values that netlink/ and reconcile/ exchange. Pure."""

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
"""Metric of our blackhole routes: the last resort, so that the CNI bridge's own route to the subnet precedes it.

flannel's blackhole has no metric. If it exists first, the kernel puts the bridge's route behind it, which cuts off all
pods of the node; if the bridge's route is first, the kernel refuses the blackhole.
"""

_DEFAULT_METRIC = {4: 0, 6: 1024}  # of a route without a metric; IPv6: IP6_RT_PRIO_USER


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

    `source` is the source address of packets on it, if the route sets one (`src`).
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

    @classmethod
    def flannels(cls, subnet: Subnet, device: str) -> Route:
        """Return the route that flannel (vxlan_network.go) writes on `device`, as the kernel lists it."""
        return cls(subnet, subnet.network_address, device, onlink=True, metric=_DEFAULT_METRIC[subnet.version])

    @property
    def slot(self) -> tuple[Subnet, int, int]:
        """Subnet, TOS and metric: a route replaces the first one with the same. Kernel: fib_trie.c."""
        return self.subnet, self.tos, self.metric

    @property
    def in_flannels_slot(self) -> bool:
        """Whether our route to this subnet would replace this one: same TOS and metric. Kernel: fib_trie.c."""
        return self.tos == 0 and self.metric == _DEFAULT_METRIC[self.subnet.version]

    def is_flannels(self, device: str) -> bool:
        """Return whether flannel would write exactly this route on `device`."""
        return (
            self.device == device
            and self.onlink
            and self.gateway == self.subnet.network_address
            and self.kind == KIND_UNICAST
            and self._is_bare
        )

    @property
    def is_direct(self) -> bool:
        """True for the form of DirectRouting's routes (vxlan_network.go): a gateway and nothing else."""
        return self.gateway is not None and not self.onlink and self.kind == KIND_UNICAST and self._is_bare

    @property
    def is_blackhole(self) -> bool:
        """True for one of our blackholes."""
        return self.kind == KIND_BLACKHOLE and self.proto == PROTO_BOOT and self.metric == BLACKHOLE_METRIC

    @property
    def is_flannels_blackhole(self) -> bool:
        """Whether flanneld's --ip-blackhole-route would write it."""
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
class RouteEvent:
    """A route that was added, or removed (`gone`). `replaces`: it took the place of the first one in its slot."""

    route: Route
    gone: bool = False
    replaces: bool = False


@dataclass(slots=True)
class KernelChanges:
    """Changes of the kernel's state since the last look, in their order, and what must be read again.

    A LinkState is the device's, without accept_ra. A Neighbour that is gone is not permanent.
    """

    events: list[RouteEvent | Neighbour | LinkState] = field(default_factory=list)
    device: bool = False
    """The device's addresses must be read."""
    paths: bool = False
    """Routes to other nodes must be looked up."""
    everything: bool = False
    """Events were lost, or one says too little: all must be read, and `events` are worth nothing."""


@dataclass(frozen=True, slots=True)
class Have:
    """The kernel's state, or part of it.

    `routes` are in lookup order: the device's own, and others inside the overlay networks.
    """

    link: LinkState | None = None
    addresses: tuple[InterfaceAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    marked: frozenset[InterfaceAddress] = frozenset()
    """Those of `addresses` that vxland has added: they have its mark (IFA_PROTO, Linux 5.18)."""
    on_link: Mapping[Address, str] = field(default_factory=dict)
    """Those of the given VTEP addresses that packets reach without a gateway, with the interface."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface and local address that datagrams leave from; `mtu` in bytes.

    `interface` is its last known name, for display; requests to the kernel use `index`. `vrf` is the index of the VRF
    that the interface is in, or 0. `index` is 0 if the interface is in another network namespace.
    """

    interface: str
    index: int
    address: Address
    mtu: int
    vrf: int = 0

    @property
    def elsewhere(self) -> bool:
        """True if it is in another network namespace, which only inherited sockets reach."""
        return self.index == 0


@dataclass(frozen=True, slots=True)
class OuterHeader:
    """Fields of outer headers; `ttl` and `dscp` None: copied from the inner header. The defaults are flannel's.

    Over IPv6, whose routers never fragment, `df` says whether this node may.
    """

    ttl: int | None = 64
    dscp: int | None = 0
    df: Literal["unset", "set", "inherit"] = "unset"
    checksum_v6: bool = True


Use: TypeAlias = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Offloads:
    """Use of each offload that the kernel has; `auto` is on, except for `join_udp`.

    `off` for `join_tcp` and `join_udp`: the TAP gets no superframes of that protocol, not even received ones.
    """

    tso: Use = "auto"
    uso: Use = "auto"
    udp_segment: Use = "auto"
    udp_gro: Use = "auto"
    join_tcp: Use = "auto"
    join_udp: Use = "auto"

    def wants(self, name: str) -> bool:
        """Return whether an offload is used."""
        use = getattr(self, name)
        return use == "on" or (use == "auto" and name != "join_udp")

    def is_off(self, name: str) -> bool:
        """Return whether an offload was switched off, rather than left out."""
        return bool(getattr(self, name) == "off")

    def __str__(self) -> str:
        """Return it as a configuration file spells it."""
        given = {each.name: use for each in fields(self) if (use := getattr(self, each.name)) != "auto"}
        if len(given) == len(fields(self)) and set(given.values()) == {"off"}:
            return "off"
        return "{" + ", ".join(f"{name}: {use}" for name, use in given.items()) + "}" if given else "auto"


@dataclass(frozen=True, slots=True)
class UnderlaySelector:
    """Criteria for the underlay; the first hit of `interfaces`, `patterns` and `can_reach` wins, in this order.

    Without any: the interface of the default route. flannel: main.go, pkg/ipmatch/match.go.
    """

    interfaces: tuple[str, ...] = ()
    """Names of interfaces, or addresses of them."""

    patterns: tuple[str, ...] = ()
    """Valid patterns of Python's re, searched for in usable addresses and, if none matches, in names."""

    can_reach: Address | None = None
    """The interface that packets to this address leave from."""

    addresses: Mapping[int, Address] = field(default_factory=dict)
    """The local address by IP version, if it is not the interface's best; alone, they also choose the interface."""
