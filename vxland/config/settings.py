"""The settings: meaning, unit, default, range and reason of each, under its field.

Every field has a default, so that one bad value never hides problems of the others; check.py reports missing required
settings. docs/configuration.md is generated from the docstrings here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vxland.config.flannel import EtcdSettings, FirewallSettings, KubeSettings
from vxland.config.monitoring import ControlSettings, MetricsSettings, ProbeSettings
from vxland.config.offloads import OffloadsValue
from vxland.config.section import (
    NONE_IS_EMPTY,
    OFF_IS_FALSE,
    ON_OFF,
    ONE_IS_LIST,
    RELOADABLE,
    STORES,
    ReadBy,
    Section,
    folder,
)
from vxland.config.security import SecuritySettings
from vxland.config.values import (
    DscpValue,
    HostValue,
    IfnameValue,
    LinksValue,
    MacValue,
    MemoryValue,
    MtuValue,
    RegexValue,
    SourcesValue,
    SubnetsValue,
    TtlValue,
    WorkersValue,
)
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import Offloads, OuterHeader
from vxland.model.lease import MAX_VNI, Lease, Subnet, Vtep
from vxland.model.mtu import MIN_MTU, MIN_MTU_V6, OVERHEAD

_BY_FILE = ReadBy(("static",), "the cluster's network configuration, net-conf.json, defines it")
_TUNNEL_PER_FAMILY = ReadBy(STORES, "all VTEPs share the family of underlay.address")


class OverlaySettings(Section):
    """The pod network, and the device that joins this node to it."""

    network: Annotated[SubnetsValue, _BY_FILE] = ()
    """The cluster's pod network: one subnet, or a list of an IPv4 and an IPv6 one. Required. It contains every node's
    subnet, and subnet.env passes it to the CNI plugin."""

    subnet: Annotated[SubnetsValue, _BY_FILE] = ()
    """This node's part of `network`: one subnet, or a list with one per network. Required with a static registry; leave
    it out if the registry assigns it. The pods' gateway is its first address plus one, so it is /30 (IPv6: /126) or
    shorter."""

    vni: Annotated[int, Field(strict=True, ge=0, le=MAX_VNI), _BY_FILE] = 1
    """The VXLAN network identifier, the same on every node. flannel uses 1. vxland drops frames with another one."""

    port: Annotated[int, Field(strict=True, ge=1, le=65535), _BY_FILE] = 8472
    """The UDP port that every node receives on. Linux and flannel use 8472; Windows nodes need IANA's 4789. vxland does
    not start if a kernel vxlan device uses the same port."""

    mtu: MtuValue = None
    """The pods' MTU in bytes, or `auto`, the default: the underlay's MTU minus 50 over IPv4, or minus 70 over IPv6, the
    most that leaves unfragmented. `auto` follows the underlay's MTU while vxland runs. At least 68, or 1280 if the
    overlay carries IPv6."""

    subnet_env_mtu: Literal["smallest", "flannel"] = "smallest"
    """The MTU that subnet.env passes to the CNI plugin for new pods. `smallest`: the MTU of the narrowest tunnel, so
    that every packet of a pod fits; 1430 in a dual-stack cluster over an underlay of 1500. `flannel`: the value that
    flanneld writes, 50 less than the underlay's, 1450. This node then refuses IPv6 packets above 1430 and sends the pod
    an ICMP error. `flannel` is the default of `vxland flanneld`, so that all pods of a node and of a mixed cluster have
    the same MTU. See docs/mtu.md."""

    device: Annotated[IfnameValue | None, _BY_FILE] = None
    """The name of the TAP device, at most 15 characters. By default `flannel.` and the VNI, which flannel's scripts and
    rules expect."""

    mac: MacValue | None = None
    """The MAC of the TAP device, which peers send frames to; quote it. By default the MAC of the device if it exists,
    else one derived from the machine id, so that it survives restarts and reboots. Set it if peers list it in a
    file."""


class UnderlaySettings(Section):
    """The network between the nodes."""

    interface: LinksValue = ()
    """The interface that carries the tunnel: its name or one of its addresses, or a list of these, from which vxland
    takes the first that exists. By default the interface that has `address`, or else that of the default route.
    flanneld's --iface."""

    address: HostValue | None = None
    """The node's VTEP address: vxland binds it, and it is the outer source of sent datagrams. By default the source
    address of the interface's default route: its `src`, else the address in the gateway's subnet; else the first one
    that is neither secondary, temporary nor deprecated. So a VIP (/32, /128) does not take precedence over the node's
    own address. All VTEPs have the same address family; with the registries `etcd` and `kube` this is the IPv4 tunnel's
    address."""

    public_address: HostValue | None = None
    """The address advertised to peers instead of `address`: that of a NAT, or another address of this node on any
    interface. By default `address`. If this node has the address, vxland also receives datagrams for it. Datagrams
    still leave from `address`, so vxland peers need `address` among this node's `sources`."""

    interface_regex: Annotated[tuple[RegexValue, ...], ONE_IS_LIST] = ()
    """Patterns of interfaces, Go's regular expressions, used if no interface in `interface` exists: vxland takes the
    first interface with an address, or else a name, that a pattern matches anywhere. flanneld's --iface-regex."""

    can_reach: HostValue | None = None
    """Used if neither `interface` nor `interface_regex` matches: the interface and address that packets to this address
    leave from. flanneld's --iface-can-reach."""

    address_v6: Annotated[HostValue | None, _TUNNEL_PER_FAMILY] = None
    """The VTEP address of the IPv6 half of a dual-stack flannel network. By default chosen like `address`; of several
    equal candidates the oldest, because the kernel lists the newest first. Only with the registries `etcd` and `kube`,
    where each family has a separate tunnel."""

    public_address_v6: Annotated[HostValue | None, _TUNNEL_PER_FAMILY] = None
    """The address advertised to peers instead of `address_v6`, like `public_address`."""

    sockets: Literal["own", "inherited"] = "own"
    """The sockets of the tunnel. `own`: vxland opens them. `inherited`: the program that starts vxland passes them,
    because the underlay is in another network namespace, as for a vxland without root inside a user namespace. It
    passes them as sd_listen_fds(3) says, each under the name `underlay`. A systemd socket unit does so with
    `FileDescriptorName=underlay`. Sockets on `overlay.port` receive, one for each worker. The others send, each from
    its own port. vxland then needs `address` and `mtu`, since it sees no interface, and watches neither path MTUs nor
    addresses. See docs/rootless.md."""

    mtu: Annotated[int | None, Field(strict=True, ge=MIN_MTU + min(OVERHEAD.values()), le=65535)] = None
    """The MTU of the underlay in bytes; required with `sockets: inherited`, and refused otherwise, since vxland then
    follows that of the interface."""

    source_ports: Annotated[int, Field(strict=True, ge=1, le=64)] = 16
    """The number of sending sockets that inner flows are hashed over. Each has a separate source port, by which routers
    with several paths (ECMP) and receive queues spread the flows. 16 spreads well and costs 16 descriptors per
    queue."""

    ttl: TtlValue = 64
    """The outer TTL, or hop limit: 1 to 255, or `inherit` to copy that of the inner packet."""

    dscp: DscpValue = 0
    """The outer DSCP: 0 to 63 (ip-link's `tos` is four times that), or `inherit` to copy that of the inner packet. ECN
    is always copied. With `inherit`, one send can carry only frames with the same DSCP."""

    df: Literal["unset", "set", "inherit"] = "unset"
    """The outer Don't Fragment flag. `unset`, as with flannel: datagrams that are too big for their path leave in
    fragments, unless the inner packet forbids that. `set`: nothing is fragmented, and routers on the path report the
    size that fits; packets that are too big are dropped, and the sender gets an ICMP error. `inherit`: as the inner
    packet, with IPv6 counting as set; it needs twice as many sending sockets. Over IPv6, where routers never fragment,
    it says whether this node may. See docs/mtu.md."""

    ipv6_checksum: Annotated[Literal["on", "off"], ON_OFF] = "on"
    """The outer UDP checksum over IPv6, which a kernel peer requires unless it has `udp6zerocsumrx`. `off` sends none
    and accepts datagrams without one, as RFC 6935 permits for tunnels; UDP_SEGMENT then cannot be used. Over IPv4 there
    is always a checksum."""


class DatapathSettings(Section):
    """The forwarding of frames."""

    workers: WorkersValue = None
    """Threads that forward frames, each with a TAP queue and a receiving socket; 1 to 16. `auto`, the default, is one
    per CPU, at most 4: even one flow gains from a second worker, because its ACKs take the other direction. Always 1 in
    the interpreted gear."""

    busy_poll_us: Annotated[int, Field(strict=True, ge=0, le=1000)] = 0
    """Microseconds that a worker keeps polling for frames before it sleeps; 0 is off. A few tens shorten round trips
    and cost up to one CPU per worker while there is traffic."""

    offloads: OffloadsValue = Offloads()
    """The offloads to use if the kernel has them: `auto`, `off` for none, or a mapping of names to `auto`, `on` and
    `off`. Towards the network, `tso` and `uso` take unsegmented TCP and UDP from the TAP, and `udp_segment` sends many
    datagrams in one call. From the network, `udp_gro` receives many at once, and `join_tcp` and `join_udp` write
    consecutive segments to the TAP in one call, as the kernel's GRO does. `auto` is on for all except `join_udp`: the
    kernel does not join forwarded UDP either, and raw sockets in pods would see the joined packets. With `off`, these
    two also segment a kernel neighbour's superframes, which `auto` writes whole. vxland never uses an offload that the
    kernel refuses, at start or later; `vxlandctl status` shows why. If `tso`, `uso` or `udp_segment` is off, programs
    of the fast path carry no unsegmented packets either."""

    fast_path: Annotated[Literal["auto", "off"], OFF_IS_FALSE] = "auto"
    """The fast path: tc programs that carry frames between this node and known VTEPs in the kernel, while the daemon
    keeps all that needs a decision. `auto` uses it where the kernel allows it; `vxlandctl status` shows why it does
    not. With `off` the daemon carries every frame. The programs go on when vxland stops, until `vxland run --cleanup`.
    What they carry meets no netfilter rule of the underlay; see docs/fast-path.md."""

    fast_path_unattended_s: Annotated[int, Field(strict=True, ge=1, le=30 * 86400)] = 3600
    """Seconds without a running vxland after which the programs carry nothing more: meanwhile they know nothing of
    nodes that have left the cluster."""

    def worker_count(self) -> int:
        """The number of workers on this machine."""
        return self.workers or min(4, len(os.sched_getaffinity(0)))


class PeerSettings(Section):
    """One other node."""

    subnet: Annotated[SubnetsValue, Field(min_length=1), RELOADABLE]
    """The peer's part of the network: one subnet, or a list of an IPv4 and an IPv6 one."""

    vtep: Annotated[HostValue, RELOADABLE]
    """The peer's underlay address, the destination and source of its datagrams."""

    mac: Annotated[MacValue, RELOADABLE]
    """The MAC of the peer's VXLAN device, as `ip link show flannel.1` prints it there; quote it."""

    sources: Annotated[SourcesValue, RELOADABLE] = ()
    """Source addresses of the peer's datagrams in addition to `vtep`, if NAT changes them. An address or prefix, or a
    list of at most 16, IPv4 /8 and IPv6 /32 or longer. Several peers may share one."""


def _memory() -> Path:
    return folder("STATE_DIRECTORY", "/var/lib/vxland") / "leases.json"


class RegistrySettings(Section):
    """The source of the other nodes' leases."""

    kind: Literal["static", "etcd", "kube"] = "static"
    """`static` takes the peers from this file. `etcd` and `kube` take them from flannel's stores, which also define the
    network: leave out `overlay.network`, `subnet`, `vni`, `port` and `device` with these."""

    peers: Annotated[tuple[PeerSettings, ...], NONE_IS_EMPTY, RELOADABLE] = ()
    """Every other node, but not this one. An empty list makes a cluster of one node."""

    memory: Annotated[MemoryValue, ReadBy(STORES, "its peers are in this file")] = Field(default_factory=_memory)
    """The file that caches the last known leases, so that a node can start while its store is unavailable; empty is
    off. By default `leases.json` in /var/lib/vxland, or in the folder that systemd creates for the service
    (`StateDirectory=`). Only with the registries `etcd` and `kube`. Each vxland on a machine needs a separate file."""


class Settings(Section):
    """All settings of one node."""

    overlay: OverlaySettings = OverlaySettings()
    underlay: UnderlaySettings = UnderlaySettings()
    datapath: DatapathSettings = DatapathSettings()
    registry: RegistrySettings = RegistrySettings()
    etcd: Annotated[EtcdSettings, ReadBy(("etcd",), "only etcd reads it")] = EtcdSettings()
    kube: Annotated[KubeSettings, ReadBy(("kube",), "only kube reads it")] = KubeSettings()
    firewall: FirewallSettings = FirewallSettings()
    security: SecuritySettings = SecuritySettings()
    probe: ProbeSettings = ProbeSettings()
    control: ControlSettings = ControlSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def cache_file(self) -> Path | None:
        """The file of the lease cache; None without one, as for a registry without a store."""
        return self.registry.memory if self.registry.kind in STORES else None

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
        """The outer header fields to send."""
        own = self.underlay
        return OuterHeader(own.ttl, own.dscp, own.df, own.ipv6_checksum == "on")

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
