"""Collection of evidence about silent peers, within a second.

Each peer gets three queries at once:

- A ping of its underlay address.
- A datagram to its VXLAN port, from a separate socket that receives ICMP errors. The workers' sockets do not: an error
  there would fail the next send, to any peer.
- Inside that datagram, an ARP or neighbour request for its overlay address, which any device there answers with its
  real MAC. The answer arrives like every frame, and a capture (forwarding/io/ring.py) sees it. The capture also sees
  which of the peer's datagrams this node drops.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from errno import ECONNREFUSED, EHOSTUNREACH

from vxland.forwarding.counts import PeerTraffic
from vxland.forwarding.io.ring import Mode
from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.kernel.errqueue import Failure, send_past_errors, take_errors, want_errors
from vxland.kernel.ping import Pinger
from vxland.kernel.sockets import enter_vrf, ignore_path_mtu
from vxland.model.errors import StartError
from vxland.model.lease import Address, Lease, Mac, Vtep
from vxland.probes.captured import answers, refusals
from vxland.probes.diagnosis import Evidence, diagnose_silence
from vxland.probes.reach import Cause
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.whohas import ANSWER_LEN, build_question

WAIT_S = 1.0
MAX_PEERS = 32  # queried at a time
TOKEN_LEN = 16
QUERIES = 4
"""Datagrams to each peer: a Linux host sends one ICMP error a second to one address, for any of them."""

REFUSED_S = 30.0
"""Age at which a dropped datagram is no evidence any more; peers with vxland ping every 10 s by default."""


@dataclass(frozen=True, slots=True)
class ProbedTunnel:
    """The tunnel device through which peers are probed."""

    vni: int
    port: int
    mac: Mac
    underlay: Address
    bases: Mapping[int, Address]
    """Its overlay address by IP version."""
    telemetry: DeviceTelemetry
    vrf: int = 0
    """Index of the VRF that the underlay is in, or 0."""
    elsewhere: bool = False
    """True if the underlay is in another network namespace, so that peers cannot be queried over it."""


class EvidenceCollector:
    """Queries peers of one tunnel. `sleep` is for tests."""

    def __init__(self, tunnel: ProbedTunnel, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._tunnel = tunnel
        self._sleep = sleep
        self._frames: dict[Vtep, int] = {}  # from each peer, at the end of its last query

    async def collect(self, leases: Sequence[Lease]) -> dict[Lease, Evidence]:
        """Return the evidence about each peer, of MAX_PEERS at most."""
        tunnel = self._tunnel
        with ExitStack() as stack:
            capture = stack.enter_context(closing(tunnel.telemetry.capture(Mode.INNER, VXLAN_LEN + ANSWER_LEN)))
            before = tunnel.telemetry.peers()
            sock = None
            if not tunnel.elsewhere:
                sock = stack.enter_context(_query_socket(tunnel.underlay, tunnel.vrf))
            vteps = {lease.vtep.address for lease in leases}
            pinged = stack.enter_context(closing(_Pings(tunnel.underlay, tunnel.vrf, vteps)))
            for _ in range(QUERIES):
                for lease in leases:
                    self._query(sock, lease)
                await self._sleep(WAIT_S / QUERIES)
            captured = capture.read()
            after = tunnel.telemetry.peers()
            failures = {failure.destination: failure for failure in _errors(sock)}
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
                frames_arrive=_frames_from(after, vtep) > self._frames.get(vtep, _frames_from(before, vtep)),
                answers_ping=vtep.address in answering,
                dropped=dropped.get(lease),
                queried=sock is not None,
            )
            if failure is not None and failure.errno == ECONNREFUSED and failure.offender == vtep.address:
                evidence = replace(evidence, port_unreachable=True)
            elif failure is not None and failure.errno == EHOSTUNREACH and failure.offender == tunnel.underlay:
                evidence = replace(evidence, unresolved=True)  # by this node's own kernel, of a neighbour
            elif failure is not None:
                evidence = replace(evidence, icmp_error=failure.reason, offender=failure.offender)
            found[lease] = evidence
        known = {vtep: count for vtep, count in self._frames.items() if vtep in after}
        self._frames = known | {lease.vtep: _frames_from(after, lease.vtep) for lease in leases}
        return found

    async def causes(
        self, leases: Sequence[Lease], on_link: Callable[[], Collection[Address]], not_sent: Mapping[Lease, str]
    ) -> dict[Lease, Cause]:
        """Return the likely cause of the silence of each peer, of MAX_PEERS at most.

        `on_link()` returns the VTEPs that are reached without the tunnel; `not_sent` has the kernel's refusals.
        """
        try:
            found = await self.collect(leases)
        except OSError as exc:  # the underlay's address is gone
            found = dict.fromkeys(leases, Evidence(not_sent=exc.strerror or str(exc)))
        direct = on_link()
        causes = {}
        for lease, seen in found.items():
            why = not_sent.get(lease, seen.not_sent)
            evidence = replace(seen, direct=lease.vtep.address in direct, not_sent=why)
            causes[lease] = diagnose_silence(lease, self._tunnel.port, evidence)
        return causes

    def _query(self, sock: socket.socket | None, lease: Lease) -> None:
        target = lease.subnet.network_address
        source = self._tunnel.bases.get(target.version)
        if sock is None or source is None:
            return
        question = build_question(self._tunnel.vni, self._tunnel.mac, source, target)
        with suppress(OSError):  # the error is in the error queue too
            send_past_errors(sock, question, [], (str(lease.vtep.address), self._tunnel.port))


class _Pings:
    """Pings of underlay addresses; none if pinging is not allowed."""

    def __init__(self, own: Address, vrf: int, targets: Iterable[Address]) -> None:
        self._sent: dict[int, tuple[Address, bytes]] = {}
        self._pinger: Pinger | None = None
        with suppress(OSError, StartError):
            self._pinger = Pinger(own, full=False, vrf=vrf)
        for number, target in enumerate(targets):
            token = secrets.token_bytes(TOKEN_LEN)
            if self._pinger is not None:
                with suppress(OSError):
                    self._pinger.send(target, number, token)
            self._sent[number] = target, token

    def answering(self) -> set[Address]:
        """Return the addresses that have replied so far."""
        if self._pinger is None:
            return set()
        replies = [(each.source, each.echo.sequence, each.echo.payload) for each in self._pinger.replies()]
        return {source for source, number, token in replies if self._sent.get(number) == (source, token)}

    def close(self) -> None:
        """Close the socket."""
        if self._pinger is not None:
            self._pinger.close()


def _query_socket(own: Address, vrf: int) -> socket.socket:
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


def _errors(sock: socket.socket | None) -> Iterable[Failure]:
    return () if sock is None else take_errors(sock)


def _frames_from(traffic: Mapping[Vtep, PeerTraffic], vtep: Vtep) -> int:
    return traffic.get(vtep, PeerTraffic()).decap_frames
