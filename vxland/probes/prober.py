"""The part of probing that waits: runs the pings, starts diagnoses, and writes the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice, takewhile

import structlog

from vxland.model.errors import StartError
from vxland.model.lease import Address, Lease
from vxland.model.mtu import OVERHEAD
from vxland.probes.diagnosis import diagnose_mtu_hole
from vxland.probes.evidence import MAX_PEERS, WAIT_S, EvidenceCollector, ProbedTunnel
from vxland.probes.ping_loop import PingLoop
from vxland.probes.reach import Cause, Probing, pinged
from vxland.probes.schedule import OUTCOMES, PeerEvent
from vxland.probes.together import run_together

LOGGED = 20
"""Events about peers that are logged in LOGGED_S; one more event counts the rest."""

LOGGED_S = 60.0
DIAGNOSED_S = 10.0
"""Time between diagnoses of a silent peer; longer with over 80 of them, since captures copy each frame."""

_BUSY = 4  # diagnoses run at most this part of the time: one in four
_DISABLED = "probe.interval_s is 0"

log = structlog.get_logger()


class Prober:
    """Pings the peers of one device, and diagnoses those that do not answer.

    `on_link` returns the VTEPs that are reached without the tunnel.
    """

    def __init__(self, device: str, mtu: int, tunnel: ProbedTunnel, on_link: Callable[[], Collection[Address]]) -> None:
        self._device = device
        self._tunnel = tunnel
        self._on_link = on_link
        self._collector = EvidenceCollector(tunnel)
        self._pings = PingLoop(device, mtu, tunnel, on_link, self._handle, self._report_refusal)
        self._off = _DISABLED
        # Of the unreachable peers, so that a diagnosis does not search all peers for them.
        self._undiagnosed: dict[Lease, None] = {}
        self._diagnosed: dict[Lease, float] = {}  # the longest ago first
        self._silence = asyncio.Event()
        self._quota = _EventQuota(device)

    def set_mtu(self, mtu: int) -> None:
        """Set the size of the device's full packets, in bytes."""
        self._pings.mtu = mtu

    def renewed(self) -> None:
        """Ping through the new device of the name."""
        self._pings.renewed()

    def set_interval(self, seconds: float) -> None:
        """Set the interval of probes, 0 for none, and forget all peers: they start over when they are added again."""
        self._pings.set_interval(seconds)
        self._undiagnosed.clear()
        self._diagnosed.clear()
        self._off = "" if seconds else _DISABLED

    @property
    def interval_s(self) -> float:
        """The interval of probes; 0: none."""
        return self._pings.schedule.interval_s

    def follow(self, *, removed: Iterable[Lease] = (), added: Iterable[Lease] = ()) -> None:
        """Probe the added peers too, and forget the removed ones."""
        gone = [pinged(lease) for lease in removed]
        self._pings.follow(removed=gone, added=map(pinged, added))
        for lease in gone:
            self._undiagnosed.pop(lease, None)
            self._diagnosed.pop(lease, None)

    def probing(self) -> Probing:
        """Return the current results. Any thread may call it."""
        schedule = self._pings.schedule
        return Probing(
            self._off or self._pings.forbidden,
            schedule.reaches(),
            {name: schedule.outcomes[name] for name in OUTCOMES},
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Probe until cancelled, once the device has its addresses."""
        await ready.wait()
        await run_together(self._pings.run(), self._diagnose_silence())

    def _report_refusal(self, error: StartError) -> None:
        log.warning("probes_off", device=self._device, cause=error.cause, remedy=error.remedy)

    def _handle(self, found: Iterable[PeerEvent]) -> None:
        """Have silent peers diagnosed, and log the other changes."""
        schedule = self._pings.schedule
        for event in found:
            lease, reach = event.lease, schedule.reach(event.lease)
            subnet, vtep = str(lease.subnet), str(lease.vtep.address)
            match event.transition:
                case "unreachable":
                    self._undiagnosed[lease] = None
                    self._silence.set()
                case "mtu_hole":
                    overhead = OVERHEAD[self._tunnel.underlay.version]
                    cause = diagnose_mtu_hole(self._pings.mtu, overhead, reach.passes)
                    schedule.set_cause(lease, replace(reach, cause=cause))
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
                case "back":
                    self._undiagnosed.pop(lease, None)
                    was_logged = self._diagnosed.pop(lease, None) is not None
                    if was_logged and self._quota.allows():
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
            silent = len(self._undiagnosed) + len(self._diagnosed)
            old = now - max(DIAGNOSED_S, silent / MAX_PEERS * WAIT_S * _BUSY)
            again = takewhile(lambda lease: self._diagnosed[lease] <= old, self._diagnosed)  # noqa: B023  (used at once)
            due = list(islice(chain(self._undiagnosed, again), MAX_PEERS + 1))
            if not due:
                continue
            if len(due) > MAX_PEERS:
                self._silence.set()
            causes = await self._collector.causes(due[:MAX_PEERS], self._on_link, self._pings.not_sent)
            for lease, cause in causes.items():
                self._set_cause(lease, cause)

    def _set_cause(self, lease: Lease, cause: Cause) -> None:
        reach = self._pings.schedule.reach(lease)
        if reach.state != "unreachable":  # back meanwhile
            return
        self._undiagnosed.pop(lease, None)
        first = self._diagnosed.pop(lease, None) is None
        self._diagnosed[lease] = time.monotonic()
        self._pings.schedule.set_cause(lease, replace(reach, cause=cause))
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
