"""The settings of whom a node lets in, whom it asks, and who may ask it. docs/configuration.md shows them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from vxland.config.section import OFF_IS_FALSE, ON_OFF, RELOADABLE, Section, folder
from vxland.config.values import Listen, ListenValue, SocketValue, SourcesByVtepValue, UserValue

SourceCheck: TypeAlias = Literal["off", "vtep", "strict"]
Seccomp: TypeAlias = Literal["auto", "on", "off"]
InputFilter: TypeAlias = Literal["off", "nftables", "bpf"]


class SecuritySettings(Section):
    """Which frames are let in from the underlay, and what the daemon itself may do."""

    source_check: Annotated[SourceCheck, OFF_IS_FALSE, RELOADABLE] = "vtep"
    """`vtep` takes datagrams from the VTEPs of the registry only; flannel takes them from anyone, as `off` does.
    `strict` also wants the inner sender, of ARP and neighbour discovery too, in a subnet of that VTEP's node, or to be
    the node's own underlay address. It refuses what a node forwards into the overlay for others without masquerading
    it; docs/security.md tells what that may be."""

    sources: Annotated[SourcesByVtepValue, RELOADABLE] = ()
    """With the registries `etcd` and `kube`, where the datagrams of nodes behind NAT come from: a mapping of the
    addresses that they advertise to lists as `registry.peers[].sources` has them. With `kube`, the addresses of a Node
    with flannel's annotation `public-ip-overwrite` are known without."""

    input_filter: Annotated[InputFilter, OFF_IS_FALSE] = "off"
    """Where datagrams of unknown senders are dropped before they wake vxland. `nftables`: by a table of its own, which
    is kept up to date, looked at every `firewall.resync_s` seconds and removed when vxland ends. `bpf`: by a filter on
    the receiving sockets, for some 3,700 VTEPs; needs no program and no privilege. Either one needs `source_check`."""

    user: UserValue | None = None
    """The user to run as once started by root: /run/vxland and the like are given to it, and of root's capabilities
    CAP_NET_ADMIN alone is kept. By default the one that starts vxland; the units of systemd have a user of their own.
    It needs read access to the configuration for reloads, and to certificates and kubeconfig."""

    seccomp: Annotated[Seccomp, ON_OFF] = "auto"
    """Whether the kernel refuses the system calls that neither vxland nor nft and iptables need. `auto` does where the
    extra `hardening` (pyseccomp, and libseccomp) is installed. The units of systemd have such a filter of their own."""


class ProbeSettings(Section):
    """How the node finds out which peers can be reached."""

    interval_s: Annotated[int, Field(strict=True, ge=0, le=3600), RELOADABLE] = 10
    """Seconds between two pings of a peer's overlay address, through the tunnel; 0 is off. All peers together get at
    most 100 a second. Pings need a net.ipv4.ping_group_range that has the process's group, or CAP_NET_RAW."""


def _control_socket() -> Path:
    return folder("RUNTIME_DIRECTORY", "/run/vxland") / "control.sock"


class ControlSettings(Section):
    """How vxlandctl reaches the daemon."""

    socket: SocketValue = Field(default_factory=_control_socket)
    """The absolute path of the UNIX socket, at most 107 bytes; root and the group `vxland` may use it. By default
    `control.sock` in /run/vxland, or in the one folder that systemd makes for the service (`RuntimeDirectory=`), as
    /run/vxland-blue is for vxland@blue.service. Each vxland of a machine needs one of its own, or the later ones run
    without."""


class MetricsSettings(Section):
    """What monitoring reads."""

    listen: ListenValue = Listen(IPv4Address("127.0.0.1"), 9472)
    """ADDRESS:PORT of /metrics, /healthz and /readyz over HTTP; empty is off. Only this node can reach the default, as
    metrics tell who talks to whom."""
