"""Settings of monitoring: pings of peers, the API socket, metrics. docs/configuration.md shows them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vxland.config.section import ON_OFF, RELOADABLE, Section, folder
from vxland.config.values import Listen, ListenValue, SocketValue


class ProbeSettings(Section):
    """Pings that check which peers are reachable."""

    interval_s: Annotated[int, Field(strict=True, ge=0, le=3600), RELOADABLE] = 10
    """Seconds between two pings of a peer's overlay address, through the tunnel; 0 is off. All peers together get at
    most 100 a second. Pings need a net.ipv4.ping_group_range that includes the process's group, or CAP_NET_RAW."""

    responder: Annotated[Literal["on", "off"], ON_OFF] = "on"
    """Answer `vxlandctl test` of other nodes: on the overlay device, at the first address of this
    node's subnet, which pods do not have. It returns what known nodes send, and no more. `off` opens no port; other
    nodes can then only ping this one. See docs/security.md."""

    responder_port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 9473
    """The UDP and TCP port of the responder, the same on every node: `vxlandctl test` here uses it too."""


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
