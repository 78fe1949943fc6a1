"""The prober's tasks: how they end, and which peers they diagnose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from itertools import islice
from typing import Any, cast

import pytest

from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.lab.bench import scale
from vxland.model.lease import Lease, Mac
from vxland.probes.evidence import ProbedTunnel
from vxland.probes.prober import Prober
from vxland.probes.reach import Cause, Reach
from vxland.probes.schedule import PeerEvent

MAC = Mac.parse("ce:5f:f6:73:cf:b9")
TICKS = 50  # of the loop: many more than a cancelled task needs


@pytest.mark.parametrize("event", ["wake", "silence"])
async def test_cancelled_in_the_moment_of_an_event(event: str) -> None:
    """asyncio.wait_for() of Python 3.11 then loses the cancellation: a node was stopped, and never ended."""
    tunnel = ProbedTunnel(1, 8472, MAC, ip_address("127.0.0.1"), {}, DeviceTelemetry([]))
    prober = Prober("lo", 1450, tunnel, tuple)
    prober.set_interval(60)
    ready = asyncio.Event()
    ready.set()
    task = asyncio.create_task(prober.run(ready) if event == "wake" else prober._diagnose_silence())
    await ticks()
    (prober._pings._wake if event == "wake" else prober._silence).set()
    task.cancel()
    await ticks()
    try:
        assert task.cancelled()
    finally:
        task.cancel()


class Causes:
    """A collector that finds the same cause for each peer; `asked` has the peers of each diagnosis."""

    def __init__(self) -> None:
        self.asked: list[list[Lease]] = []

    async def causes(self, leases: Sequence[Lease], *_: object) -> dict[Lease, Cause]:
        """Return a cause for each peer."""
        self.asked.append(list(leases))
        return dict.fromkeys(leases, Cause("silent", "it does not answer", "look at it"))


async def test_silent_peers_are_diagnosed_in_turn() -> None:
    """Each diagnosis went through all peers; those that became silent come first, then those of the longest ago."""
    prober, causes = (
        Prober("lo", 1450, ProbedTunnel(1, 8472, MAC, ip_address("127.0.0.1"), {}, DeviceTelemetry([])), tuple),
        Causes(),
    )
    prober._collector = cast("Any", causes)
    prober.set_interval(60)
    first, second, third, _ = leases = list(islice(scale.leases(), 4))
    prober.follow(added=leases)
    reaches = prober._pings.schedule._reaches
    task = asyncio.create_task(prober._diagnose_silence())

    async def happen(lease: Lease, now: Reach, *events: PeerEvent) -> None:
        reaches[lease] = now
        prober._handle(events)
        prober._silence.set()
        await ticks()

    silent = Reach("unreachable", since=1.0)
    try:
        for lease in (first, second):
            await happen(lease, silent, PeerEvent(lease, "unreachable", Reach()))
        assert causes.asked == [[first], [second]]
        prober._diagnosed = dict.fromkeys(prober._diagnosed, float("-inf"))  # long ago
        await happen(third, silent, PeerEvent(third, "unreachable", Reach()))
        assert causes.asked[2:] == [[third, first, second]]
        prober._diagnosed = dict.fromkeys(prober._diagnosed, float("-inf"))
        prober.follow(removed=[first])
        await happen(third, Reach("reachable"), PeerEvent(third, "back", silent))
        assert causes.asked[3:] == [[second]]
    finally:
        task.cancel()


async def ticks() -> None:
    """Let the loop do what is ready."""
    for _ in range(TICKS):
        await asyncio.sleep(0)
