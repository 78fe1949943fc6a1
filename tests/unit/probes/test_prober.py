"""The prober's tasks end when they are cancelled, whatever else happens in that moment."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.model.lease import Mac
from vxland.probes.evidence import ProbedTunnel
from vxland.probes.prober import Prober

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


async def ticks() -> None:
    """Let the loop do what is ready."""
    for _ in range(TICKS):
        await asyncio.sleep(0)
