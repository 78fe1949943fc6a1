"""Command trace: the decisions about a packet on this node, without sending it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from ipaddress import ip_address

from vxland.inspect.flow import PROTOCOLS, Flow
from vxland.inspect.side import TracedFastPath
from vxland.inspect.trace import TracedTunnel, trace
from vxland.model.errors import VxlandError
from vxland.model.lease import Address
from vxland.model.source_check import SourceCheck
from vxland.node.api.status import FRESH_S
from vxland.node.plane import Plane
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.api_server import RequestError

MAX_PORT = 0xFFFF


class TraceAnswers:
    """Answers for the node that `read_state()` returns."""

    def __init__(self, read_state: Callable[[], NodeSnapshot]) -> None:
        self._read_state = read_state

    async def trace(self, src: str, dst: str, proto: str = "icmp", sport: int = 0, dport: int = 0) -> object:
        """Return each decision about such a packet. RequestError; VxlandError while there is no device."""
        if proto not in PROTOCOLS:
            raise RequestError(f"PROTO: {proto!r}: use one of {', '.join(PROTOCOLS)}")
        for name, port in (("SPORT", sport), ("DPORT", dport)):
            if not 0 <= port <= MAX_PORT:
                raise RequestError(f"{name}: {port}: use 0 to {MAX_PORT}")
        node = self._read_state()
        if not node.planes:
            raise VxlandError(f"there is no device yet: {node.sample.not_ready}")
        try:
            flow = Flow(_address("SRC", src), _address("DST", dst), proto, sport, dport)
        except VxlandError as exc:
            raise RequestError(str(exc)) from exc
        for plane in node.planes:
            await plane.forwarding.refresh(FRESH_S)
        check = node.settings.security.source_check
        return asdict(trace([_tunnel(plane, check) for plane in node.planes], flow))


def _address(name: str, text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as exc:
        raise RequestError(f"{name}: {text!r}: use an IPv4 or IPv6 address") from exc


def _tunnel(plane: Plane, check: SourceCheck) -> TracedTunnel:
    return TracedTunnel(
        device=plane.settings.device,
        networks=plane.settings.networks,
        subnets=plane.own,
        mac=plane.mac,
        mtu=plane.mtu,
        vni=plane.settings.overlay.vni,
        address=plane.underlay.address,
        source_ports=plane.workers.source_ports,
        carried=plane.settings.outer,
        table=plane.workers.table,
        owners=plane.owners,
        limits=plane.workers.limits,
        check_source=check,
        direct=plane.direct,
        fast_path=TracedFastPath(
            off=plane.fast_path.off,
            superframes=plane.fast_path.superframes,
            aggregates=plane.fast_path.short_of_cpu,
            diverted=plane.fast_path.is_diverted,
            sends_to=plane.fast_path.sends_to,
            receives_from=plane.fast_path.receives_from,
        ),
        lost=plane.forwarding.problems,
    )
