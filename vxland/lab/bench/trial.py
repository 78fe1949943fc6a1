"""One trial: a fresh lab with one subject, in which everything is measured once, and its removal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vxland.lab import traffic
from vxland.lab.bench import load, resources
from vxland.lab.bench.load import Ends
from vxland.lab.bench.subjects import Subject, memory_pids, set_underlay_mtu
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES

STREAMS = (1, 8)
SPARE_S = 30.0  # after the measurement, until spinners end by themselves


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """Duration of each measurement, and the resolution of the search for the lossless rate."""

    seconds: int
    search_s: float
    search_steps: int


FULL = TrialPlan(seconds=3, search_s=1.0, search_steps=6)
QUICK = TrialPlan(seconds=1, search_s=0.3, search_steps=3)
FULL_STEPS = 5
SHORT_STEPS = 2


def steps_of(*, whole: bool) -> int:
    """Return the number of steps that `measure` announces."""
    return FULL_STEPS if whole else SHORT_STEPS


def measure(
    subject: Subject, mtu: int, plan: TrialPlan, announce: Callable[[str], None], *, whole: bool
) -> dict[str, float]:
    """Measure the subject at this underlay MTU, by `Measure.key`; only TCP unless `whole`. VxlandError or OSError."""
    lab = Lab()
    try:
        announce("TCP x1")
        lab.build()
        set_underlay_mtu(lab, mtu)
        subject.set_up(lab, mtu)
        ends = Ends(lab, *NODES, subject.address(NODES[1]))
        traffic.ping(lab, NODES[0], ends.address)  # resolves neighbours and, with Open vSwitch, flows
        found = _tcp(ends, plan, announce)
        if whole:
            found |= _small_packets(ends, plan, announce)
            announce("request/response")
            with resources.awake(lab, plan.seconds + SPARE_S):
                found |= {f"rr_{key}": number for key, number in load.round_trips(ends, plan.seconds).items()}
        if any(memory_pids(lab, node) for node in NODES):
            found["rss_mib"] = max(resources.rss_mib(memory_pids(lab, node)) for node in NODES)
    finally:
        lab.remove()
    return found


def _tcp(ends: Ends, plan: TrialPlan, announce: Callable[[str], None]) -> dict[str, float]:
    found: dict[str, float] = {}
    with traffic.iperf_server(ends.lab, ends.target):
        for streams in STREAMS:
            if streams != STREAMS[0]:
                announce(f"TCP x{streams}")
            found |= {f"tcp{streams}_{key}": number for key, number in load.tcp(ends, streams, plan.seconds).items()}
    return found


def _small_packets(ends: Ends, plan: TrialPlan, announce: Callable[[str], None]) -> dict[str, float]:
    announce("UDP flood")
    flooded = load.packets(ends, 0, plan.seconds)
    announce("UDP without loss")
    lossless = load.highest_rate(ends, flooded, plan.search_s, plan.search_steps)
    return {
        "flood_pps": flooded.pps,
        "flood_loss": flooded.loss,
        "flood_sent_pps": flooded.sent / flooded.seconds,
        "lossless_pps": lossless,
    }
