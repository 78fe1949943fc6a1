"""The settings: each one's meaning, unit, default, range and reason, under its field.

Every field has a default, so that one bad value never hides what is wrong with the others; what is required is told
by check.py. docs/configuration.md is generated from the docstrings here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from vxland.config.access import ControlSettings, MetricsSettings, ProbeSettings, SecuritySettings
from vxland.config.flannel import EtcdSettings, FirewallSettings, KubeSettings
from vxland.config.offloads import OffloadsValue
from vxland.config.section import NONE_IS_EMPTY, ON_OFF, ONE_IS_LIST, RELOADABLE, Section, folder
from vxland.config.values import (
    MIN_MTU,
    DscpValue,
    HostValue,
    IfnameValue,
    LinksValue,
    MacValue,
    MemoryValue,
    MtuValue,
    PolicyValue,
    RegexValue,
    SourcesValue,
    SubnetsValue,
    TtlValue,
    WorkersValue,
)
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import Offloads, OuterHeader
from vxland.model.lease import MAX_VNI, Lease, Subnet, Vtep

OVERHEAD: Final = {4: 14 + 8 + 8 + 20, 6: 14 + 8 + 8 + 40}
"""Bytes that inner Ethernet, VXLAN, UDP and the outer IP header add, by the underlay's IP version."""

MIN_MTU_V6: Final = 1280  # RFC 8200 section 5: every IPv6 link carries this much


class OverlaySettings(Section):
    """The network of the pods, and the device that joins this node to it."""

    network: SubnetsValue = ()
    """The cluster's pod network: one subnet, or a list of an IPv4 and an IPv6 one. Required. Every node's subnet lies
    in it, and subnet.env names it to the CNI plugin."""

    subnet: SubnetsValue = ()
    """This node's part of `network`: one subnet, or a list with one per network. Required where the registry is static,
    left out where the registry assigns it. The pods' gateway is its first address plus one, so it is /30 (IPv6: /126)
    or shorter."""

    vni: Annotated[int, Field(strict=True, ge=0, le=MAX_VNI)] = 1
    """The VXLAN network identifier; the same on every node. 1 is flannel's. Frames with another one are dropped."""

    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 8472
    """The UDP port that every node receives on. 8472 is what Linux and flannel use; IANA's is 4789, which Windows nodes
    need. A kernel vxlan device on the same port keeps vxland from starting."""

    mtu: MtuValue = None
    """The pods' MTU in bytes, or `auto`, the default: the underlay's less 50 over IPv4, less 70 over IPv6, which is the
    most that leaves in one piece; it follows the underlay's while vxland runs. At least 68, or 1280 where the overlay
    carries IPv6."""

    subnet_env_mtu: Literal["smallest", "flannel"] = "smallest"
    """The MTU that subnet.env names to the CNI plugin, for pods to come. `smallest`: that of the narrowest tunnel, for
    every packet of a pod to fit; 1430 in a dual-stack cluster over an underlay of 1500. `flannel`: what flanneld
    writes, 50 less than the underlay's, 1450; IPv6 packets above 1430 are refused by this node, which tells the pod.
    It is the default of `vxland flanneld`, so that all pods of a node and of a mixed cluster have one MTU. docs/mtu.md
    tells more."""

    device: IfnameValue | None = None
    """The name of the TAP device, at most 15 characters. By default `flannel.` and the VNI, which is what flannel's
    scripts and rules expect."""

    mac: MacValue | None = None
    """The MAC of the TAP device, which peers address frames to; quote it. By default the
    device's own where it exists, else one made from the machine's id, so that restarts and reboots keep it. Set it
    where peers hold it in a file."""

    gbp: PolicyValue = None
    """VXLAN-GBP: the group policy id, 0 to 65535, that every frame of this node tells. `off`, the default, tells none.
    A kernel peer drops what tells one, unless its device was made with `gbp`. What comes with an id is taken either
    way, and counted where this is set; no policy is applied."""


class UnderlaySettings(Section):
    """The network between the nodes."""

    interface: LinksValue = ()
    """The interface that carries the tunnel: its name or one of its addresses, or a list of these, of which the first
    that is there is taken. By default the one that has `address`, or else that of the default route. flanneld's
    --iface."""

    address: HostValue | None = None
    """The node's VTEP address: bound, and the outer source of what is sent. By default the one that the interface's
    default route has packets leave from: its `src`, else the address in the gateway's subnet; else the first one that
    is neither secondary, temporary nor deprecated. So a VIP (/32, /128) is not taken before the node's own address. Its
    family is that of all VTEPs; with the registries `etcd` and `kube` it is the IPv4 tunnel's."""

    public_address: HostValue | None = None
    """Advertised to peers instead of `address`: of a NAT, or another one of this node, on whatever interface. By
    default `address`. Datagrams for it are received too while this node has it; what is sent leaves from `address`,
    so vxland peers need that among this node's `sources`."""

    interface_regex: Annotated[tuple[RegexValue, ...], ONE_IS_LIST] = ()
    """Patterns of interfaces, Go's regular expressions, tried where `interface` names none that is there: the first
    whose address, or else whose name, a pattern matches anywhere. flanneld's --iface-regex."""

    can_reach: HostValue | None = None
    """Where neither `interface` nor `interface_regex` hits: the interface and address that packets to this address
    leave from. flanneld's --iface-can-reach."""

    address_v6: HostValue | None = None
    """The VTEP address of the IPv6 half of a dual-stack flannel network. By default chosen as `address` is, and of
    several alike the oldest, as the kernel lists the newest first. Only with the registries `etcd` and `kube`, where
    each family has a tunnel of its own."""

    public_address_v6: HostValue | None = None
    """Advertised to peers instead of `address_v6`, as `public_address` is."""

    source_ports: Annotated[int, Field(strict=True, ge=1, le=64)] = 16
    """How many sending sockets inner flows are hashed over. Each has a source port of its own, which is how routers
    with several paths (ECMP) and receive queues spread the flows; 16 spreads well and costs 16 descriptors a queue."""

    ttl: TtlValue = 64
    """The outer TTL, or hop limit: 1 to 255, or `inherit`, that of the inner packet."""

    dscp: DscpValue = 0
    """The outer DSCP: 0 to 63 (ip-link's `tos` is four times that), or `inherit`, that of the inner packet. ECN is
    always copied. With `inherit`, only what has one DSCP leaves in one call."""

    df: Literal["unset", "set", "inherit"] = "unset"
    """The outer Don't Fragment flag. `unset`, as flannel has it: what is too big for its way leaves in fragments,
    unless the inner packet forbids that. `set`: nothing is fragmented, and routers on the way tell what gets through;
    what is too big is dropped, and its sender told. `inherit`: as the inner packet, IPv6 counting as set; takes twice
    the sending sockets. Over IPv6, where routers never fragment: whether this node may. docs/mtu.md tells more."""

    ipv6_checksum: Annotated[Literal["on", "off"], ON_OFF] = "on"
    """The outer UDP checksum over IPv6, which a kernel peer insists on unless it has `udp6zerocsumrx`. `off` sends none
    and takes datagrams without, as RFC 6935 allows tunnels; it costs UDP_SEGMENT. Over IPv4 there always is one."""


class DatapathSettings(Section):
    """How frames are moved."""

    workers: WorkersValue = None
    """Threads that move frames, each with a TAP queue and a receiving socket of its own; 1 to 16. `auto`, the default,
    is one for each CPU, 4 at most: even one flow gains from a second, since its ACKs come back the other way.
    Interpreted, it is always 1."""

    busy_poll_us: Annotated[int, Field(strict=True, ge=0, le=1000)] = 0
    """Microseconds that a worker goes on looking for frames before it sleeps; 0 is off. Some tens make round trips
    shorter and cost up to a CPU for each worker while frames come."""

    offloads: OffloadsValue = Offloads()
    """Which offloads are used where the kernel has them: `auto`, `off` for none, or a mapping of names to `auto`, `on`
    and `off`. To the network: `tso` and `uso` take TCP and UDP uncut from the TAP, `udp_segment` sends many datagrams
    in one call. From it: `udp_gro` receives many at once; `join_tcp` and `join_udp` write segments that follow one
    another to the TAP in one call, as the kernel's GRO does. `auto` is on for all but `join_udp`: the kernel joins no
    forwarded UDP either, and raw sockets in pods would see the joined packets. With `off`, these two also cut the
    superframes of a kernel neighbour, which `auto` writes whole. What the kernel refuses, at start or later, is not
    used whatever is set here; `vxlandctl status` shows why."""

    def worker_count(self) -> int:
        """The number of workers on this machine."""
        return self.workers or min(4, len(os.sched_getaffinity(0)))


class PeerSettings(Section):
    """One other node."""

    subnet: Annotated[SubnetsValue, Field(min_length=1), RELOADABLE]
    """The peer's part of the network: one subnet, or a list of an IPv4 and an IPv6 one."""

    vtep: Annotated[HostValue, RELOADABLE]
    """The underlay address that datagrams for the peer go to and come from."""

    mac: Annotated[MacValue, RELOADABLE]
    """The MAC of the peer's VXLAN device, as `ip link show flannel.1` prints it there; quote it."""

    sources: Annotated[SourcesValue, RELOADABLE] = ()
    """Where the peer's datagrams come from beside `vtep`, if NAT changes that: an address or prefix, or a list of at
    most 16, IPv4 /8 and IPv6 /32 or longer. Several peers may share one."""


def _memory() -> Path:
    return folder("STATE_DIRECTORY", "/var/lib/vxland") / "leases.json"


class RegistrySettings(Section):
    """Where this node learns of the others."""

    kind: Literal["static", "etcd", "kube"] = "static"
    """`static` takes the peers from this file. `etcd` and `kube` take them from flannel's stores, which also define the
    network: with these, leave `overlay.network`, `subnet`, `vni`, `port` and `device` out."""

    peers: Annotated[tuple[PeerSettings, ...], NONE_IS_EMPTY, RELOADABLE] = ()
    """Every other node, and never this one. An empty list makes a cluster of one."""

    memory: MemoryValue = Field(default_factory=_memory)
    """The file in which the leases known last are kept, so that a node can start while its store is away; empty is off.
    By default `leases.json` in /var/lib/vxland, or in the folder that systemd makes for the service
    (`StateDirectory=`). Only with the registries `etcd` and `kube`. Each vxland of a machine needs one of its own."""


class Settings(Section):
    """All settings of one node."""

    overlay: OverlaySettings = OverlaySettings()
    underlay: UnderlaySettings = UnderlaySettings()
    datapath: DatapathSettings = DatapathSettings()
    registry: RegistrySettings = RegistrySettings()
    etcd: EtcdSettings = EtcdSettings()
    kube: KubeSettings = KubeSettings()
    firewall: FirewallSettings = FirewallSettings()
    security: SecuritySettings = SecuritySettings()
    probe: ProbeSettings = ProbeSettings()
    control: ControlSettings = ControlSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def networks(self) -> tuple[Subnet, ...]:
        """The pod networks, IPv4 first."""
        return tuple(sorted(self.overlay.network, key=lambda network: network.version))

    @property
    def own_subnets(self) -> tuple[Subnet, ...]:
        """The node's subnets, IPv4 first; empty where the registry assigns them."""
        return tuple(sorted(self.overlay.subnet, key=lambda subnet: subnet.version))

    @property
    def device(self) -> str:
        """The name of the TAP device."""
        return self.overlay.device or f"flannel.{self.overlay.vni}"

    @property
    def outer(self) -> OuterHeader:
        """What outer headers carry."""
        own = self.underlay
        return OuterHeader(own.ttl, own.dscp, own.df, own.ipv6_checksum == "on", self.overlay.gbp)

    @property
    def peers(self) -> frozenset[Lease]:
        """The lease of each peer of the file on each of its subnets."""
        return frozenset(
            Lease(subnet, Vtep(peer.vtep, peer.mac), peer.sources)
            for peer in self.registry.peers
            for subnet in peer.subnet
        )

    def overlay_mtu(self, underlay_mtu: int, family: int) -> int:
        """The pods' MTU over an underlay of IP version `family` (4 or 6); ConfigError when it cannot be carried."""
        key, configured, overhead = "overlay.mtu", self.overlay.mtu, OVERHEAD[family]
        most = min(underlay_mtu, 65535) - overhead  # loopback's 65536 is more than an IP packet holds
        least = MIN_MTU_V6 if any(network.version == 6 for network in self.networks) else MIN_MTU
        cost = f"the underlay MTU is {underlay_mtu} and VXLAN over IPv{family} adds {overhead}"
        if most < least:
            remedy = f"raise the underlay MTU to {least + overhead} or more, for pods to have {least}: {cost}"
            raise ConfigError(key, configured or "auto", remedy)
        if configured is None:
            return most
        if configured > most:
            raise ConfigError(key, configured, f"use {most} or less: {cost}")
        return configured

    def restart_needed(self, new: Settings) -> list[ConfigError]:
        """Every setting that `new` changes and that only a restart can change."""
        return [
            ConfigError(f"{section}.{name}", shown(there), f"restart vxland to change it: it runs with {shown(here)}")
            for section in type(self).model_fields
            for name, field in type(getattr(self, section)).model_fields.items()
            if RELOADABLE not in field.metadata
            and (here := getattr(getattr(self, section), name)) != (there := getattr(getattr(new, section), name))
        ]


def shown(value: object) -> object:
    """A setting's value as a configuration file would spell it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value if value is None or isinstance(value, int) else str(value)
