"""What this node can find out about peers that are silent, in a second.

Three questions at once: a ping of the peer's underlay address; a datagram to its VXLAN port from a socket of its own,
which hears what ICMP errors come back (the workers' sockets do not listen for them: an error there would fail the next
send, to whomever); and inside that datagram the question who has the peer's overlay address, which any device
there answers with the MAC it really has. The answer comes in as every frame does and is seen by a capture
(forwarding/io/ring.py) that lasts as long as the examination; so is what this node drops of the peer's datagrams.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from errno import ECONNREFUSED

from vxland.forwarding.counts import PeerTraffic
from vxland.forwarding.io.ring import Mode
from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.kernel.errqueue import send_past_errors, take_errors, want_errors
from vxland.kernel.ping import Pinger
from vxland.kernel.sockets import enter_vrf, ignore_path_mtu
from vxland.model.errors import StartError
from vxland.model.lease import Address, Lease, Mac, Vtep
from vxland.probes.captured import answers, refusals
from vxland.probes.diagnosis import Evidence
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.whohas import ANSWER_LEN, build_question

WAIT_S = 1.0
MOST = 32  # peers examined at a time
TOKEN_LEN = 16
KNOCKS = 4
"""Datagrams to each peer: a Linux host sends one ICMP error a second to one address, whichever datagram that is for."""

REFUSED_S = 30.0
"""How long a dropped datagram counts as evidence; peers that run vxland send a ping every 10 s by default."""


@dataclass(frozen=True, slots=True)
class ProbedTunnel:
    """The device that peers are reached through, as its own node knows it."""

    vni: int
    port: int
    mac: Mac
    underlay: Address
    bases: Mapping[int, Address]
    """Its overlay address by IP version."""
    telemetry: DeviceTelemetry
    vrf: int = 0
    """Index of the VRF that the underlay is in, or 0."""


class Examiner:
    """Examines the peers of one tunnel. `sleep` is for tests."""

    def __init__(self, tunnel: ProbedTunnel, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._tunnel = tunnel
        self._sleep = sleep
        self._frames: dict[Vtep, int] = {}  # that had come from each at the end of its last examination

    async def examine(self, leases: Sequence[Lease]) -> dict[Lease, Evidence]:
        """What there is to know about each, MOST at most."""
        tunnel = self._tunnel
        with ExitStack() as stack:
            capture = stack.enter_context(closing(tunnel.telemetry.capture(Mode.INNER, VXLAN_LEN + ANSWER_LEN)))
            before = tunnel.telemetry.peers()
            knocker = stack.enter_context(_knocker(tunnel.underlay, tunnel.vrf))
            vteps = {lease.vtep.address for lease in leases}
            pinged = stack.enter_context(closing(_Pings(tunnel.underlay, tunnel.vrf, vteps)))
            for _ in range(KNOCKS):
                for lease in leases:
                    self._knock(knocker, lease)
                await self._sleep(WAIT_S / KNOCKS)
            captured = capture.read()
            after = tunnel.telemetry.peers()
            failures = {failure.destination: failure for failure in take_errors(knocker)}
            answering = pinged.answering()
        macs = answers(captured)
        since_ns = time.time_ns() - int(REFUSED_S * 1e9)
        dropped = refusals([*tunnel.telemetry.drops(), *captured], leases, since_ns)
        found = {}
        for lease in leases:
            vtep = lease.vtep
            failure = failures.get(vtep.address)
            evidence = Evidence(
                mac=macs.get((vtep.address, lease.subnet.network_address)),
                heard=_came(after, vtep) > self._frames.get(vtep, _came(before, vtep)),
                pinged=vtep.address in answering,
                dropped=dropped.get(lease),
            )
            if failure is not None and failure.errno == ECONNREFUSED and failure.offender == vtep.address:
                evidence = replace(evidence, closed=True)
            elif failure is not None:
                evidence = replace(evidence, refused=failure.reason, offender=failure.offender)
            found[lease] = evidence
        known = {vtep: count for vtep, count in self._frames.items() if vtep in after}
        self._frames = known | {lease.vtep: _came(after, lease.vtep) for lease in leases}
        return found

    def _knock(self, knocker: socket.socket, lease: Lease) -> None:
        target = lease.subnet.network_address
        source = self._tunnel.bases.get(target.version)
        if source is None:
            return
        question = build_question(self._tunnel.vni, self._tunnel.mac, source, target)
        with suppress(OSError):  # it is in the error queue
            send_past_errors(knocker, question, [], (str(lease.vtep.address), self._tunnel.port))


class _Pings:
    """Pings of underlay addresses; none where pinging is not allowed."""

    def __init__(self, own: Address, vrf: int, targets: Iterable[Address]) -> None:
        self._asked: dict[int, tuple[Address, bytes]] = {}
        self._pinger: Pinger | None = None
        with suppress(OSError, StartError):
            self._pinger = Pinger(own, full=False, vrf=vrf)
        for number, target in enumerate(targets):
            token = secrets.token_bytes(TOKEN_LEN)
            if self._pinger is not None:
                with suppress(OSError):
                    self._pinger.send(target, number, token)
            self._asked[number] = target, token

    def answering(self) -> set[Address]:
        """Who has answered by now."""
        if self._pinger is None:
            return set()
        replies = [(each.source, each.echo.sequence, each.echo.payload) for each in self._pinger.replies()]
        return {source for source, number, token in replies if self._asked.get(number) == (source, token)}

    def close(self) -> None:
        """Wait for no more."""
        if self._pinger is not None:
            self._pinger.close()


def _knocker(own: Address, vrf: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET if own.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if vrf:
            enter_vrf(sock, vrf)
        want_errors(sock)
        ignore_path_mtu(sock)
        sock.bind((str(own), 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _came(traffic: Mapping[Vtep, PeerTraffic], vtep: Vtep) -> int:
    return traffic.get(vtep, PeerTraffic()).decap_frames
