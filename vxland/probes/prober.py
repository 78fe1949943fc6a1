"""The part of probing that waits: sends scheduled pings, reads replies, starts diagnoses, and writes the log.

The sockets are in a separate epoll, whose descriptor the event loop watches, because libuv stops watching a socket that
has something in its error queue. Replies carry the kernel's time stamp, so round-trip times do not depend on when the
event loop reads them.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from errno import EADDRNOTAVAIL, EMSGSIZE
from random import SystemRandom
from secrets import token_bytes

import structlog

from vxland.kernel.ping import Pinger, payload_len
from vxland.model.errors import StartError
from vxland.model.lease import Address, Lease
from vxland.model.mtu import OVERHEAD
from vxland.probes.diagnosis import Evidence, diagnose_mtu_hole, diagnose_silence
from vxland.probes.evidence import MAX_PEERS, TOKEN_LEN, WAIT_S, EvidenceCollector, ProbedTunnel
from vxland.probes.reach import Probing
from vxland.probes.schedule import OUTCOMES, PeerEvent, Probe, Schedule

LOGGED = 20
"""Events about peers that are logged in LOGGED_S; one more event counts the rest."""

LOGGED_S = 60.0
DIAGNOSED_S = 10.0
"""Time between diagnoses of a silent peer; longer with over 80 of them, since captures copy each frame."""

_BUSY = 4  # diagnoses run at most this part of the time: one in four
_REOPEN_S = 1.0  # between attempts to open sockets: the device may have lost its address
_DISABLED = "probe.interval_s is 0"

log = structlog.get_logger()


class Prober:
    """Pings the peers of one device from its own overlay addresses, `tunnel.bases`.

    `on_link` returns the VTEPs that are reached without the tunnel; their peers are pinged by the kernel's own routes.
    """

    def __init__(self, device: str, mtu: int, tunnel: ProbedTunnel, on_link: Callable[[], Collection[Address]]) -> None:
        self._device = device
        self._mtu = mtu
        self._tunnel = tunnel
        self._on_link = on_link
        self._collector = EvidenceCollector(tunnel)
        self._schedule = Schedule(SystemRandom().random, lambda: token_bytes(TOKEN_LEN))
        self._leases: tuple[Lease, ...] = ()
        self._off = _DISABLED
        self._forbidden = ""
        self._pingers: dict[int, Pinger] = {}
        self._index = 0
        self._not_sent: dict[Lease, str] = {}
        self._diagnosed: dict[Lease, float] = {}
        self._wake = asyncio.Event()
        self._silence = asyncio.Event()
        self._quota = _EventQuota(device)

    def set_mtu(self, mtu: int) -> None:
        """Set the size of the device's full packets, in bytes."""
        self._mtu = mtu

    def renewed(self) -> None:
        """Ping through the new device of the name."""
        with suppress(OSError):  # it is gone again; the next one calls this too
            self._index = socket.if_nametoindex(self._device)

    def set_interval(self, seconds: float) -> None:
        """Set the interval of probes and start over; 0: no probes."""
        if seconds != self._schedule.interval_s:
            self._schedule.set_interval(seconds, time.monotonic())
            self._off, self._forbidden = "" if seconds else _DISABLED, ""
            self.follow(self._leases)

    def follow(self, leases: Iterable[Lease]) -> None:
        """Probe these peers from now on, and forget the others."""
        self._leases = tuple(leases)
        self._schedule.follow(() if self._forbidden else self._leases, time.monotonic())
        known = frozenset(self._leases)
        self._not_sent = {lease: why for lease, why in self._not_sent.items() if lease in known}
        self._diagnosed = {lease: at for lease, at in self._diagnosed.items() if lease in known}
        self._wake.set()

    def probing(self) -> Probing:
        """Return the current results. Any thread may call it."""
        return Probing(
            self._off or self._forbidden,
            self._schedule.reaches(),
            {name: self._schedule.outcomes[name] for name in OUTCOMES},
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Probe until cancelled, once the device has its addresses."""
        await ready.wait()
        with select.epoll() as poll:
            loop = asyncio.get_running_loop()
            loop.add_reader(poll.fileno(), self._readable)
            diagnosing = asyncio.create_task(self._diagnose_silence(), name=f"diagnosis of {self._device}")
            try:
                while True:
                    pause_s = self._run_due(poll)
                    if diagnosing.done():
                        diagnosing.result()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._wake.wait()
                    self._wake.clear()
            finally:
                diagnosing.cancel()
                await asyncio.gather(diagnosing, return_exceptions=True)
                loop.remove_reader(poll.fileno())
                for pinger in self._pingers.values():
                    pinger.close()
                self._pingers.clear()

    def _run_due(self, poll: select.epoll) -> float | None:
        """Send and expire what is due; return the seconds until something else is, or None without end."""
        if not self._schedule.interval_s or self._forbidden:
            return None
        if not self._open(poll):
            return None if self._forbidden else _REOPEN_S
        self._read()  # before probes expire: replies may have arrived
        now = time.monotonic()
        self._handle(self._schedule.expire(now))
        while (probe := self._schedule.next_probe(now)) is not None:
            self._send(probe)
        left_s = self._schedule.next_at() - time.monotonic()
        return None if left_s == float("inf") else max(left_s, 0.001)

    def _open(self, poll: select.epoll) -> bool:
        """Open a socket for each IP version in which the device has an address; return whether there is any."""
        for version, address in self._tunnel.bases.items():
            if version in self._pingers:
                continue
            try:
                self._index = socket.if_nametoindex(self._device)
                pinger = Pinger(address)
            except StartError as exc:
                self._forbidden = f"{exc.cause}; {exc.remedy}"
                self._schedule.follow((), time.monotonic())
                log.warning("probes_off", device=self._device, cause=exc.cause, remedy=exc.remedy)
                return False
            except OSError as exc:
                log.debug("probe_socket_failed", device=self._device, address=str(address), error=str(exc))
                continue
            self._pingers[version] = pinger
            poll.register(pinger.fileno(), select.EPOLLIN)
        return bool(self._pingers)

    def _send(self, probe: Probe) -> None:
        lease = probe.lease
        pinger = self._pingers.get(lease.subnet.version)
        interface = 0 if lease.vtep.address in self._on_link() else self._index
        payload = probe.token.ljust(self._payload_len(probe), b"\0")
        try:
            if pinger is None:  # the device has lost its address
                raise OSError(EADDRNOTAVAIL, "the device has no address")  # noqa: TRY301  (as the kernel would)
            pinger.send(lease.subnet.network_address, probe.sequence, payload, interface)
        except OSError as exc:
            if not probe.full:
                self._not_sent[lease] = exc.strerror or str(exc)
            event = self._schedule.take_error(probe.sequence, time.monotonic())
            self._handle([event] if event else [])
        else:
            self._not_sent.pop(lease, None)

    def _payload_len(self, probe: Probe) -> int:
        return payload_len(probe.lease.subnet.version, self._mtu) if probe.full else len(probe.token)

    def _read(self) -> None:
        """Read replies and errors."""
        events = []
        for pinger in self._pingers.values():
            for reply in pinger.replies():
                probe = self._schedule.open_probe(reply.echo.sequence)
                expected_len = self._payload_len(probe) if probe is not None else 0
                at = time.monotonic() - reply.waited_s
                events.append(
                    self._schedule.take_reply(reply.source, reply.echo.sequence, reply.echo.payload, expected_len, at)
                )
            for failure, echo in pinger.failures():
                passes = failure.info if failure.errno == EMSGSIZE else 0
                events.append(self._schedule.take_error(echo.sequence, time.monotonic(), echo.payload, passes))
        self._handle(each for each in events if each is not None)

    def _readable(self) -> None:
        """Read; then another probe may be due earlier."""
        self._read()
        self._wake.set()

    def _handle(self, found: Iterable[PeerEvent]) -> None:
        """Have silent peers diagnosed, and log the other changes."""
        for event in found:
            lease, reach = event.lease, self._schedule.reach(event.lease)
            subnet, vtep = str(lease.subnet), str(lease.vtep.address)
            match event.transition:
                case "unreachable":
                    self._diagnosed.pop(lease, None)
                    self._silence.set()
                case "mtu_hole":
                    overhead = OVERHEAD[self._tunnel.underlay.version]
                    cause = diagnose_mtu_hole(self._mtu, overhead, reach.passes)
                    self._schedule.set_cause(lease, replace(reach, cause=cause))
                    if self._quota.allows():
                        log.warning(
                            "peer_mtu_hole",
                            device=self._device,
                            subnet=subnet,
                            vtep=vtep,
                            cause=cause.happened,
                            remedy=cause.remedy,
                        )
                case "mtu_whole" if self._quota.allows():
                    log.info("peer_mtu_whole", device=self._device, subnet=subnet, vtep=vtep)
                case "back" if lease in self._diagnosed and self._quota.allows():  # its silence was logged
                    silent_s = round(time.monotonic() - event.before.since, 1)
                    log.info("peer_back", device=self._device, subnet=subnet, vtep=vtep, silent_s=silent_s)

    async def _diagnose_silence(self) -> None:
        """Diagnose peers that became silent, and again while they stay silent."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(DIAGNOSED_S / 4):
                    await self._silence.wait()
            self._silence.clear()
            now = time.monotonic()
            silent = {lease: reach for lease, reach in self._schedule.reaches().items() if reach.state == "unreachable"}
            old_s = max(DIAGNOSED_S, len(silent) / MAX_PEERS * WAIT_S * _BUSY)
            due = [lease for lease in silent if self._diagnosed.get(lease, float("-inf")) + old_s <= now]
            due.sort(key=lambda lease: self._diagnosed.get(lease, float("-inf")))
            if not due:
                continue
            if len(due) > MAX_PEERS:
                self._silence.set()
            try:
                found = await self._collector.collect(due[:MAX_PEERS])
            except OSError as exc:  # the underlay's address is gone
                found = dict.fromkeys(due[:MAX_PEERS], Evidence(not_sent=exc.strerror or str(exc)))
            direct = self._on_link()
            for lease, seen in found.items():
                evidence = replace(
                    seen, direct=lease.vtep.address in direct, not_sent=self._not_sent.get(lease, seen.not_sent)
                )
                self._set_cause(lease, evidence)

    def _set_cause(self, lease: Lease, evidence: Evidence) -> None:
        reach = self._schedule.reach(lease)
        if reach.state != "unreachable":  # back meanwhile
            return
        first = lease not in self._diagnosed
        self._diagnosed[lease] = time.monotonic()
        cause = diagnose_silence(lease, self._tunnel.port, evidence)
        self._schedule.set_cause(lease, replace(reach, cause=cause))
        if first and self._quota.allows():
            subnet, vtep = str(lease.subnet), str(lease.vtep.address)
            log.warning(
                "peer_unreachable",
                device=self._device,
                subnet=subnet,
                vtep=vtep,
                cause=cause.happened,
                remedy=cause.remedy,
            )


class _EventQuota:
    """Limit of events that peers can cause: LOGGED in LOGGED_S, then their number alone."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._since = float("-inf")
        self._logged = 0
        self._omitted = 0

    def allows(self) -> bool:
        """Return whether one more may be logged now; if so, count it."""
        now = time.monotonic()
        if now - self._since >= LOGGED_S:
            if self._omitted:
                log.warning("more_peer_events", device=self._device, count=self._omitted)
            self._since, self._logged, self._omitted = now, 0, 0
        self._logged += 1
        self._omitted += self._logged > LOGGED
        return self._logged <= LOGGED
