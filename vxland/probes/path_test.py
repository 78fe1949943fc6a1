"""The tester of `vxlandctl test`: pings peers, exchanges datagrams and a connection with each, and diagnoses silence.

Peers are tested in batches, so that a test of thousands has few pings, sockets and threads at a time: BATCH peers are
pinged at the schedule's rate, and WORKERS threads have an exchange (exchange.py) with each whose pings are done. Silent
peers keep no other waiting, but the next batch. What is seen of a peer is judged in path_checks.py. A test changes
nothing, and a test that nobody wants any more ends within a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import replace
from secrets import token_bytes
from typing import Final

from vxland.firewall.nat_test import Nft
from vxland.model.lease import Address, Lease
from vxland.model.mtu import OVERHEAD
from vxland.probes.diagnosis import diagnose_mtu_hole
from vxland.probes.evidence import MAX_PEERS, EvidenceCollector, ProbedTunnel
from vxland.probes.exchange import Ends, exchange
from vxland.probes.path_checks import Datagrams, PeerResult, Seen, Transfer, judge
from vxland.probes.ping_loop import PingLoop
from vxland.probes.reach import Reach
from vxland.probes.turned import TurnedSockets

BATCH: Final = 64
WORKERS: Final = 32
CONTENT_LEN: Final = 1 << 17
"""Bytes that a connection sends, and gets back."""

PINGS_S: Final = 30.0
"""Time for the pings of a batch; a silent peer is unreachable after 6 s."""

_INTERVAL_S: Final = 1.0
_LOOK_S: Final = 0.05


class PathTest:
    """Tests of the peers of one device from its overlay addresses, `tunnel.bases`; peers' responders have `port`.

    `on_link` returns the VTEPs that are reached without the tunnel.
    """

    def __init__(
        self,
        device: str,
        tunnel: ProbedTunnel,
        on_link: Callable[[], Collection[Address]],
        port: int,
        nft: Nft,
    ) -> None:
        self._device = device
        self._tunnel = tunnel
        self._on_link = on_link
        self._port = port
        self._nft = nft
        self._collector = EvidenceCollector(tunnel)

    async def run(self, leases: Sequence[Lease], mtu: int, *, dnat: bool = False) -> AsyncGenerator[PeerResult]:
        """Yield the results of each peer as they come; `mtu` is the device's, `dnat` adds the check of that name."""
        ended = threading.Event()
        threads = ThreadPoolExecutor(WORKERS, "path test")
        try:
            for batch in _parts(leases, BATCH):
                async with aclosing(self._batch(batch, mtu, threads, ended, dnat=dnat)) as results:
                    async for tested in results:
                        yield tested
        finally:
            ended.set()
            threads.shutdown(wait=False, cancel_futures=True)

    async def _batch(
        self,
        batch: Sequence[Lease],
        mtu: int,
        threads: ThreadPoolExecutor,
        ended: threading.Event,
        *,
        dnat: bool,
    ) -> AsyncGenerator[PeerResult]:
        pings = _Pings(PingLoop(self._device, mtu, self._tunnel, self._on_link, _ignore, _ignore), batch)
        turned = TurnedSockets(self._nft, self._device, self._tunnel.bases, self._port)
        loop, direct, content = asyncio.get_running_loop(), self._on_link(), token_bytes(CONTENT_LEN)

        async def exchanged(lease: Lease) -> tuple[Lease, Seen]:
            reach = self._with_hole(await pings.reach(lease), mtu)
            seen = Seen(
                reach=reach,
                no_pings=pings.off,
                direct=lease.vtep.address in direct,
                dnat=Transfer(error=turned.why_not(lease)) if dnat else None,
                mtu=mtu,
                port=self._port,
            )
            if seen.direct:
                return lease, seen
            own = self._tunnel.bases.get(lease.subnet.version)
            if own is None:
                return lease, replace(seen, datagrams=Datagrams(not_sent=f"{self._device} has no address"))
            ends = Ends(own, lease.subnet.network_address, self._port)
            through = turned.socket_of(lease)
            return lease, await loop.run_in_executor(threads, exchange, ends, seen, content, ended.is_set, through)

        silent: dict[Lease, Seen] = {}
        tasks: list[asyncio.Task[tuple[Lease, Seen]]] = []
        pinging: asyncio.Task[None] | None = None
        try:
            await turned.open([lease for lease in batch if dnat and lease.vtep.address not in direct])
            pinging = asyncio.create_task(pings.run())
            tasks = [asyncio.create_task(exchanged(lease)) for lease in batch]
            for task in asyncio.as_completed(tasks):
                lease, seen = await task
                if seen.reach.state == "unreachable":
                    silent[lease] = seen
                else:
                    yield judge(lease, seen)
            await pinging
        finally:
            started = tasks if pinging is None else [*tasks, pinging]
            for each in started:
                each.cancel()
            await asyncio.gather(*started, return_exceptions=True)
            await turned.close()
        for some in _parts(list(silent), MAX_PEERS):
            causes = await self._collector.causes(some, self._on_link, pings.not_sent)
            for lease in some:
                reach = replace(silent[lease].reach, cause=causes[lease])
                yield judge(lease, replace(silent[lease], reach=reach))

    def _with_hole(self, reach: Reach, mtu: int) -> Reach:
        """Add the cause if full packets do not pass."""
        if reach.full_mtu != "hole":
            return reach
        return replace(reach, cause=diagnose_mtu_hole(mtu, OVERHEAD[self._tunnel.underlay.version], reach.passes))


class _Pings:
    """Pings of one batch, apart from those of the prober."""

    def __init__(self, pings: PingLoop, leases: Iterable[Lease]) -> None:
        self.not_sent: dict[Lease, str] = {}
        """The reason why the kernel refused to send to a peer."""
        self._loop = pings
        loop = asyncio.get_running_loop()
        self._reaches: dict[Lease, asyncio.Future[Reach]] = {lease: loop.create_future() for lease in leases}

    @property
    def off(self) -> str:
        """The reason why nothing can be pinged; empty if it can."""
        return self._loop.forbidden

    async def reach(self, lease: Lease) -> Reach:
        """Wait for the state of a peer, once full packets were tried too; unknown if run() ends before."""
        return await self._reaches[lease]

    async def run(self) -> None:
        """Ping until the state of each peer is known, for PINGS_S at most."""
        pending = set(self._reaches)
        self._loop.set_interval(_INTERVAL_S)
        self._loop.follow(added=pending)
        running = asyncio.create_task(self._loop.run())
        until = time.monotonic() + PINGS_S
        try:
            while pending and not self._loop.forbidden and not running.done() and time.monotonic() < until:
                await asyncio.sleep(_LOOK_S)
                reaches = {lease: self._loop.schedule.reach(lease) for lease in pending}
                known = {lease: reach for lease, reach in reaches.items() if _is_known(reach)}
                if known:
                    self._settle(known)
                    pending -= known.keys()
                    self._loop.follow(removed=known)
        finally:
            self._settle(dict.fromkeys(pending, Reach()))
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    def _settle(self, reaches: Mapping[Lease, Reach]) -> None:
        for lease, reach in reaches.items():
            if (why := self._loop.not_sent.get(lease)) is not None:
                self.not_sent[lease] = why
            if not self._reaches[lease].done():  # its test may be cancelled
                self._reaches[lease].set_result(reach)


def _ignore(_: object) -> None:
    """Leave events of pings alone: their states are read."""


def _is_known(reach: Reach) -> bool:
    return reach.state == "unreachable" or (reach.state == "reachable" and reach.full_mtu != "unknown")


def _parts(leases: Sequence[Lease], size: int) -> Iterator[Sequence[Lease]]:
    for at in range(0, len(leases), size):
        yield leases[at : at + size]
