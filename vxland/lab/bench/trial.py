"""One trial: a fresh lab with one subject on one wire, in which everything is measured once, and its removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from vxland.lab import traffic, vtep
from vxland.lab.bench import contention, load, resources, wires
from vxland.lab.bench.load import Ends
from vxland.lab.bench.restart import Phases, restart
from vxland.lab.bench.subjects import Subject, memory_pids, vxland_nodes
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES, POD_A, POD_C
from vxland.model.errors import VxlandError

SPARE_S = 30.0  # after the measurement, until spinners end by themselves


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """Duration of each measurement, and the resolution of the search for the lossless rate."""

    seconds: int
    search_s: float
    search_steps: int
    restart: Phases


FULL = TrialPlan(seconds=3, search_s=1.0, search_steps=6, restart=Phases(1.0, 1.0, 4.0))
QUICK = TrialPlan(seconds=1, search_s=0.3, search_steps=3, restart=Phases(0.5, 0.5, 1.0))


@dataclass(frozen=True, slots=True)
class Setup:
    """One subject at work, and how long to measure it."""

    subject: Subject
    ends: Ends
    mtu: int
    plan: TrialPlan


Numbers: TypeAlias = dict[str, float]


@dataclass(slots=True)
class Outcome:
    """The numbers of a trial by `Measure.key`, the state of the fast path, and the measurements that failed."""

    numbers: Numbers = field(default_factory=dict)
    fast_path: str = ""
    failures: list[str] = field(default_factory=list)


def _tcp(streams: int, setup: Setup) -> Numbers:
    with traffic.iperf_server(setup.ends.lab, setup.ends.target):
        return load.tcp(setup.ends, streams, setup.plan.seconds)


def _both(setup: Setup) -> Numbers:
    with traffic.iperf_server(setup.ends.lab, setup.ends.target):
        found = load.transferred(setup.ends, setup.plan.seconds, "--bidir")
    return {"gbit_s": found.gbit_s + found.back_gbit_s}


def _ping(setup: Setup) -> Numbers:
    return {"us": load.ping_us(setup.ends, setup.plan.seconds)}


def _awake(job: Callable[[Ends, float], Numbers], setup: Setup) -> Numbers:
    with resources.awake(setup.ends.lab, setup.plan.seconds + SPARE_S):
        return job(setup.ends, setup.plan.seconds)


def _flood(setup: Setup) -> Numbers:
    found = load.packets(setup.ends, 0, setup.plan.seconds)
    return {"pps": found.pps, "loss": found.loss, "sent_pps": found.sent / found.seconds}


def _lossless(setup: Setup) -> Numbers:
    flooded = load.packets(setup.ends, 0, setup.plan.seconds)
    return {"pps": load.highest_rate(setup.ends, flooded, setup.plan.search_s, setup.plan.search_steps)}


def _restart(setup: Setup) -> Numbers:
    return restart(setup.subject, setup.ends, setup.mtu, setup.plan.restart)


def _quota(setup: Setup) -> Numbers:
    return contention.tcp(setup.ends, setup.plan.seconds)


JOBS: Final[Mapping[str, Callable[[Setup], Numbers]]] = {
    "tcp1": partial(_tcp, 1),
    "tcp8": partial(_tcp, 8),
    "tcp64": partial(_tcp, 64),
    "both": _both,
    "ping": _ping,
    "rr": partial(_awake, load.round_trips),
    "connect": partial(_awake, load.connections),
    "flood": _flood,
    "lossless": _lossless,
    "quota": _quota,
    "restart": _restart,  # last: a crash may leave the subject in another state
}
"""The measurements by name, in this order. The keys of the numbers begin with the name."""


def measure(
    subject: Subject, wire: str, mtu: int, plan: TrialPlan, names: Sequence[str], announce: Callable[[str], None]
) -> Outcome:
    """Make these measurements; one that fails is noted. VxlandError or OSError if the subject cannot be set up."""
    lab, outcome = Lab(), Outcome()
    try:
        announce("setting up")
        lab.build()
        wires.set_up(lab, wire, mtu)
        subject.set_up(lab, mtu)
        setup = Setup(subject, Ends(lab, POD_A, POD_C), mtu, plan)
        traffic.ping(lab, POD_A, POD_C.address)  # resolves neighbours and, with Open vSwitch, flows
        outcome.fast_path = "; ".join(sorted({vtep.fast_path(lab, node) for node in vxland_nodes(lab)}))
        for name in (name for name in JOBS if name in names):
            announce(name)
            try:
                outcome.numbers |= {f"{name}_{key}": number for key, number in JOBS[name](setup).items()}
            except (VxlandError, OSError) as exc:
                outcome.failures.append(f"{name}: {exc}")
        if any(memory_pids(lab, node) for node in NODES):
            outcome.numbers["rss_mib"] = max(resources.rss_mib(memory_pids(lab, node)) for node in NODES)
    finally:
        lab.remove()
    return outcome
