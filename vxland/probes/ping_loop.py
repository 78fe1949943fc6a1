"""Scheduled pings of the peers of one device: sends those that are due, and reads replies and errors.

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
from errno import EADDRNOTAVAIL, EMSGSIZE
from random import SystemRandom
from secrets import token_bytes

import structlog

from vxland.kernel.ping import Pinger, payload_len
from vxland.model.errors import StartError
from vxland.model.lease import Address, Lease
from vxland.probes.evidence import TOKEN_LEN, ProbedTunnel
from vxland.probes.schedule import PeerEvent, Probe, Schedule

_REOPEN_S = 1.0  # between attempts to open sockets: the device may have lost its address

log = structlog.get_logger()


class PingLoop:
    """Pings from the device's own overlay addresses, `tunnel.bases`.

    `handle()` gets the changes of peers' states, `refused()` the reason if this process may not ping.
    `on_link` returns the VTEPs that are reached without the tunnel; their peers are pinged by the kernel's own routes.
    """

    def __init__(
        self,
        device: str,
        mtu: int,
        tunnel: ProbedTunnel,
        on_link: Callable[[], Collection[Address]],
        handle: Callable[[Iterable[PeerEvent]], None],
        refused: Callable[[StartError], None],
    ) -> None:
        self.schedule = Schedule(SystemRandom().random, lambda: token_bytes(TOKEN_LEN))
        self.mtu = mtu
        """The size of full packets, in bytes."""
        self.forbidden = ""
        """The reason why this process may not ping; empty if it may."""
        self.not_sent: dict[Lease, str] = {}
        """The reason why the kernel refused to send the last small ping, for each such peer."""
        self._device = device
        self._tunnel = tunnel
        self._on_link = on_link
        self._handle = handle
        self._refused = refused
        self._pingers: dict[int, Pinger] = {}
        self._index = 0
        self._wake = asyncio.Event()

    def renewed(self) -> None:
        """Ping through the new device of the name."""
        with suppress(OSError):  # it is gone again; the next one calls this too
            self._index = socket.if_nametoindex(self._device)

    def set_interval(self, seconds: float) -> None:
        """Forget all peers, and ping those that are added from now on with this interval; 0: no pings."""
        self.schedule.set_interval(seconds)
        self.not_sent.clear()
        self.forbidden = ""
        self._wake.set()

    def follow(self, *, removed: Iterable[Lease] = (), added: Iterable[Lease] = ()) -> None:
        """Ping the added peers too, and forget the removed ones."""
        removed = tuple(removed)
        self.schedule.follow(time.monotonic(), removed=removed, added=() if self.forbidden else added)
        for lease in removed:
            self.not_sent.pop(lease, None)
        self._wake.set()

    async def run(self) -> None:
        """Ping until cancelled."""
        with select.epoll() as poll:
            loop = asyncio.get_running_loop()
            loop.add_reader(poll.fileno(), self._readable)
            try:
                while True:
                    pause_s = self._run_due(poll)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._wake.wait()
                    self._wake.clear()
            finally:
                loop.remove_reader(poll.fileno())
                for pinger in self._pingers.values():
                    pinger.close()
                self._pingers.clear()

    def _run_due(self, poll: select.epoll) -> float | None:
        """Send and expire what is due; return the seconds until something else is, or None without end."""
        if not self.schedule.interval_s or self.forbidden:
            return None
        if not self._open(poll):
            return None if self.forbidden else _REOPEN_S
        self._read()  # before probes expire: replies may have arrived
        now = time.monotonic()
        self._handle(self.schedule.expire(now))
        while (probe := self.schedule.next_probe(now)) is not None:
            self._send(probe)
        left_s = self.schedule.next_at() - time.monotonic()
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
                self.forbidden = f"{exc.cause}; {exc.remedy}"
                self.schedule.clear()
                self._refused(exc)
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
                self.not_sent[lease] = exc.strerror or str(exc)
            event = self.schedule.take_error(probe.sequence, time.monotonic())
            self._handle([event] if event else [])
        else:
            self.not_sent.pop(lease, None)

    def _payload_len(self, probe: Probe) -> int:
        return payload_len(probe.lease.subnet.version, self.mtu) if probe.full else len(probe.token)

    def _read(self) -> None:
        """Read replies and errors."""
        events = []
        for pinger in self._pingers.values():
            for reply in pinger.replies():
                probe = self.schedule.open_probe(reply.echo.sequence)
                expected_len = self._payload_len(probe) if probe is not None else 0
                at = time.monotonic() - reply.waited_s
                events.append(
                    self.schedule.take_reply(reply.source, reply.echo.sequence, reply.echo.payload, expected_len, at)
                )
            for failure, echo in pinger.failures():
                passes = failure.info if failure.errno == EMSGSIZE else 0
                events.append(self.schedule.take_error(echo.sequence, time.monotonic(), echo.payload, passes))
        self._handle(each for each in events if each is not None)

    def _readable(self) -> None:
        """Read; then another probe may be due earlier."""
        self._read()
        self._wake.set()
