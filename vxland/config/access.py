"""Settings of access: accepted senders, pinged peers, clients of the daemon. docs/configuration.md shows them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from vxland.config.section import OFF_IS_FALSE, ON_OFF, RELOADABLE, Section, folder
from vxland.config.values import Listen, ListenValue, SocketValue, SourcesByVtepValue, UserValue

SourceCheck: TypeAlias = Literal["off", "vtep", "strict"]
Seccomp: TypeAlias = Literal["auto", "on", "off"]
InputFilter: TypeAlias = Literal["off", "nftables"]


class SecuritySettings(Section):
    """The frames that vxland accepts from the underlay, and the privileges of the daemon itself."""

    source_check: Annotated[SourceCheck, OFF_IS_FALSE, RELOADABLE] = "vtep"
    """`vtep` accepts only datagrams from the VTEPs in the registry; `off` accepts them from any host, as flannel does.
    `strict` also requires the inner sender, of ARP and neighbour discovery too, to be in a subnet of that VTEP's node,
    or to be the node's own underlay address. It refuses traffic that a node forwards into the overlay for others
    without masquerading; see docs/security.md."""

    sources: Annotated[SourcesByVtepValue, RELOADABLE] = ()
    """With the registries `etcd` and `kube`, the source addresses of nodes behind NAT: a mapping of the addresses that
    they advertise to lists like `registry.peers[].sources`. With `kube`, the addresses of a Node with flannel's
    annotation `public-ip-overwrite` are known without it."""

    input_filter: Annotated[InputFilter, OFF_IS_FALSE] = "off"
    """The filter that drops datagrams of unknown senders before they wake vxland. `nftables`: a separate table, which
    vxland updates, checks every `firewall.resync_s` seconds and removes when it ends. It needs `source_check`."""

    user: UserValue | None = None
    """The user to run as after a start by root. vxland gives /run/vxland and similar folders to it, and keeps only
    CAP_NET_ADMIN of root's capabilities. By default the user that starts vxland; the systemd units have a separate
    user. The user needs read access to the configuration for reloads, and to certificates and kubeconfig."""

    seccomp: Annotated[Seccomp, ON_OFF] = "auto"
    """Whether the kernel refuses system calls that neither vxland nor nft and iptables need. `auto` does if the extra
    `hardening` (pyseccomp, and libseccomp) is installed. The systemd units have such a filter too."""


class ProbeSettings(Section):
    """Pings that check which peers are reachable."""

    interval_s: Annotated[int, Field(strict=True, ge=0, le=3600), RELOADABLE] = 10
    """Seconds between two pings of a peer's overlay address, through the tunnel; 0 is off. All peers together get at
    most 100 a second. Pings need a net.ipv4.ping_group_range that includes the process's group, or CAP_NET_RAW."""


def _control_socket() -> Path:
    return folder("RUNTIME_DIRECTORY", "/run/vxland") / "control.sock"


class ControlSettings(Section):
    """The socket through which vxlandctl reaches the daemon."""

    socket: SocketValue = Field(default_factory=_control_socket)
    """The absolute path of the UNIX socket, at most 107 bytes; root and the group `vxland` may use it. By default
    `control.sock` in /run/vxland, or in the single folder that systemd creates for the service (`RuntimeDirectory=`),
    such as /run/vxland-blue for vxland@blue.service. Each vxland on a machine needs a separate socket; without one it
    runs, but vxlandctl cannot reach it."""


class MetricsSettings(Section):
    """The HTTP server for monitoring."""

    listen: ListenValue = Listen(IPv4Address("127.0.0.1"), 9472)
    """ADDRESS:PORT of /metrics, /healthz and /readyz over HTTP; empty is off. Only this node can reach the default,
    because metrics show which nodes talk to each other."""
