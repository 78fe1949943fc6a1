"""The waiting part: sends what the book asks, hands it what comes back, has silence examined, and tells the log.

The sockets are in an epoll of their own, whose descriptor the event loop watches: libuv gives a socket up once its
error queue has something. Replies carry the kernel's time stamp, so that round-trip times do not count how late the
loop came to read them.
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
from vxland.probes.diagnose import MOST, TOKEN_LEN, WAIT_S, Examiner, ProbedTunnel
from vxland.probes.diagnosis import Evidence, of_hole, of_silence
from vxland.probes.reach import Probing
from vxland.probes.schedule import OUTCOMES, Ask, PeerEvent, Schedule

LOGGED = 20
"""Events about peers in LOGGED_S; the others of a storm are counted in one."""

LOGGED_S = 60.0
EXAMINED_S = 10.0
"""How old what is known of a silent peer may be; more with over 80 of them, as captures cost each frame a copy."""

_BUSY = 4  # examinations take one part in so many of the time, at most
_REOPEN_S = 1.0  # between tries to open sockets: the device may have lost its address
_DISABLED = "probe.interval_s is 0"

log = structlog.get_logger()


class Prober:
    """Pings the peers of one device from its own overlay addresses, `tunnel.bases`.

    `on_link` tells which VTEPs are reached past the tunnel, whose peers are pinged by the kernel's own routes.
    """

    def __init__(self, device: str, mtu: int, tunnel: ProbedTunnel, on_link: Callable[[], Collection[Address]]) -> None:
        self._device = device
        self._mtu = mtu
        self._tunnel = tunnel
        self._on_link = on_link
        self._examiner = Examiner(tunnel)
        self._schedule = Schedule(SystemRandom().random, lambda: token_bytes(TOKEN_LEN))
        self._leases: tuple[Lease, ...] = ()
        self._off = _DISABLED
        self._forbidden = ""
        self._pingers: dict[int, Pinger] = {}
        self._index = 0
        self._not_sent: dict[Lease, str] = {}
        self._examined: dict[Lease, float] = {}
        self._wake = asyncio.Event()
        self._silence = asyncio.Event()
        self._quota = _Quota(device)

    def set_mtu(self, mtu: int) -> None:
        """Take what full packets of the device measure from now on."""
        self._mtu = mtu

    def renewed(self) -> None:
        """Ping through the device that has the name by now."""
        with suppress(OSError):  # it is gone again; the next one is told as well
            self._index = socket.if_nametoindex(self._device)

    def set_interval(self, seconds: float) -> None:
        """Ask each peer so often, beginning anew; 0: ask nobody."""
        if seconds != self._schedule.interval_s:
            self._schedule.set_interval(seconds, time.monotonic())
            self._off, self._forbidden = "" if seconds else _DISABLED, ""
            self.follow(self._leases)

    def follow(self, leases: Iterable[Lease]) -> None:
        """Ask these peers, and forget the others."""
        self._leases = tuple(leases)
        self._schedule.follow(() if self._forbidden else self._leases, time.monotonic())
        known = frozenset(self._leases)
        self._not_sent = {lease: why for lease, why in self._not_sent.items() if lease in known}
        self._examined = {lease: at for lease, at in self._examined.items() if lease in known}
        self._wake.set()

    def probing(self) -> Probing:
        """What is known now. Any thread may ask."""
        return Probing(
            self._off or self._forbidden,
            self._schedule.all(),
            {name: self._schedule.outcomes[name] for name in OUTCOMES},
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Ask until cancelled, from when the device has its addresses."""
        await ready.wait()
        with select.epoll() as poll:
            loop = asyncio.get_running_loop()
            loop.add_reader(poll.fileno(), self._readable)
            examining = asyncio.create_task(self._examine_silence(), name=f"examiner of {self._device}")
            try:
                while True:
                    pause_s = self._turn(poll)
                    if examining.done():
                        examining.result()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), pause_s)
                    self._wake.clear()
            finally:
                examining.cancel()
                await asyncio.gather(examining, return_exceptions=True)
                loop.remove_reader(poll.fileno())
                for pinger in self._pingers.values():
                    pinger.close()
                self._pingers.clear()

    def _turn(self, poll: select.epoll) -> float | None:
        """Do what is due; how long there will be nothing to do, or None for no end."""
        if not self._schedule.interval_s or self._forbidden:
            return None
        if not self._open(poll):
            return None if self._forbidden else _REOPEN_S
        self._read()  # before anything is given up: it may have come
        now = time.monotonic()
        self._heed(self._schedule.expire(now))
        while (ask := self._schedule.ask(now)) is not None:
            self._send(ask)
        left_s = self._schedule.next_at() - time.monotonic()
        return None if left_s == float("inf") else max(left_s, 0.001)

    def _open(self, poll: select.epoll) -> bool:
        """Have a socket for each family of addresses, as far as the device has these; whether there is any."""
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

    def _send(self, ask: Ask) -> None:
        lease = ask.lease
        pinger = self._pingers.get(lease.subnet.version)
        interface = 0 if lease.vtep.address in self._on_link() else self._index
        payload = ask.token.ljust(self._payload_len(ask), b"\0")
        try:
            if pinger is None:  # the device has lost its address
                raise OSError(EADDRNOTAVAIL, "the device has no address")  # noqa: TRY301  (as the kernel would)
            pinger.send(lease.subnet.network_address, ask.sequence, payload, interface)
        except OSError as exc:
            if not ask.full:
                self._not_sent[lease] = exc.strerror or str(exc)
            news = self._schedule.refuse(ask.sequence, time.monotonic())
            self._heed([news] if news else [])
        else:
            self._not_sent.pop(lease, None)

    def _payload_len(self, ask: Ask) -> int:
        return payload_len(ask.lease.subnet.version, self._mtu) if ask.full else len(ask.token)

    def _read(self) -> None:
        """Take what has come."""
        news = []
        for pinger in self._pingers.values():
            for reply in pinger.replies():
                ask = self._schedule.question(reply.echo.sequence)
                expected_len = self._payload_len(ask) if ask is not None else 0
                at = time.monotonic() - reply.waited_s
                news.append(
                    self._schedule.answer(reply.source, reply.echo.sequence, reply.echo.payload, expected_len, at)
                )
            for failure, echo in pinger.failures():
                passes = failure.info if failure.errno == EMSGSIZE else 0
                news.append(self._schedule.refuse(echo.sequence, time.monotonic(), echo.payload, passes))
        self._heed(each for each in news if each is not None)

    def _readable(self) -> None:
        """The event loop says that something has come; and something may be due earlier now."""
        self._read()
        self._wake.set()

    def _heed(self, found: Iterable[PeerEvent]) -> None:
        """Have silence examined, and tell of the rest."""
        for news in found:
            lease, reach = news.lease, self._schedule.reach(news.lease)
            subnet, vtep = str(lease.subnet), str(lease.vtep.address)
            match news.turn:
                case "unreachable":
                    self._examined.pop(lease, None)
                    self._silence.set()
                case "mtu_hole":
                    overhead = OVERHEAD[self._tunnel.underlay.version]
                    cause = of_hole(self._mtu, overhead, reach.passes)
                    self._schedule.explain(lease, replace(reach, cause=cause))
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
                case "back" if lease in self._examined and self._quota.allows():  # else its silence was not told
                    silent_s = round(time.monotonic() - news.before.since, 1)
                    log.info("peer_back", device=self._device, subnet=subnet, vtep=vtep, silent_s=silent_s)

    async def _examine_silence(self) -> None:
        """Look into who has become silent, and now and then into who still is."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._silence.wait(), EXAMINED_S / 4)
            self._silence.clear()
            now = time.monotonic()
            silent = {lease: reach for lease, reach in self._schedule.all().items() if reach.state == "unreachable"}
            old_s = max(EXAMINED_S, len(silent) / MOST * WAIT_S * _BUSY)
            due = [lease for lease in silent if self._examined.get(lease, float("-inf")) + old_s <= now]
            due.sort(key=lambda lease: self._examined.get(lease, float("-inf")))
            if not due:
                continue
            if len(due) > MOST:
                self._silence.set()
            try:
                found = await self._examiner.examine(due[:MOST])
            except OSError as exc:  # the underlay's address is gone
                found = dict.fromkeys(due[:MOST], Evidence(not_sent=exc.strerror or str(exc)))
            direct = self._on_link()
            for lease, seen in found.items():
                evidence = replace(
                    seen, direct=lease.vtep.address in direct, not_sent=self._not_sent.get(lease, seen.not_sent)
                )
                self._explain(lease, evidence)

    def _explain(self, lease: Lease, evidence: Evidence) -> None:
        reach = self._schedule.reach(lease)
        if reach.state != "unreachable":  # back meanwhile
            return
        first = lease not in self._examined
        self._examined[lease] = time.monotonic()
        cause = of_silence(lease, self._tunnel.port, evidence)
        self._schedule.explain(lease, replace(reach, cause=cause))
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


class _Quota:
    """The log, for what peers can provoke: LOGGED events in LOGGED_S, then their number alone."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._since = float("-inf")
        self._told = 0
        self._untold = 0

    def allows(self) -> bool:
        """Whether one more may be logged now; it counts as logged."""
        now = time.monotonic()
        if now - self._since >= LOGGED_S:
            if self._untold:
                log.warning("more_peer_events", device=self._device, count=self._untold)
            self._since, self._told, self._untold = now, 0, 0
        self._told += 1
        self._untold += self._told > LOGGED
        return self._told <= LOGGED
