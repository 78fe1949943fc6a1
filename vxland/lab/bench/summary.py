"""From trials to numbers: medians, ratios within a round, and a comparison with vxland's targets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from vxland.lab.bench.subjects import BASELINE

COMPILED, BUSY_POLL, INTERPRETED, NO_TUNNEL, OVS = "vxland", "busy-poll", "interpreted", "kernel-no-tnl", "ovs"


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of the tables: its key in the JSON, its heading, and its significant decimals."""

    key: str
    title: str
    digits: int
    scale: float = 1.0  # of the number shown
    has_ratio: bool = True


MEASURES = (
    Measure("tcp1_gbit_s", "TCP x1 Gbit/s", 2),
    Measure("tcp8_gbit_s", "TCP x8 Gbit/s", 2),
    Measure("tcp1_cpu_s_per_gb", "CPU s/GB", 2),
    Measure("tcp8_cpu_s_per_gb", "CPU s/GB x8", 2),
    Measure("flood_pps", "UDP flood kpps", 0, 1e-3),
    Measure("flood_loss", "flood loss %", 0, 100, has_ratio=False),
    Measure("lossless_pps", "lossless kpps", 0, 1e-3),
    Measure("rr_p50_us", "RR p50 us", 0),
    Measure("rr_p99_us", "RR p99 us", 0),
    Measure("rss_mib", "memory MiB", 0, has_ratio=False),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One subject measured once: the numbers by `Measure.key`, or the error."""

    round: int
    mtu: int
    subject: str
    measures: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One target of vxland: the measure of the subject `of` over that of `to`, or a number measured once."""

    title: str
    measure: str
    to: str
    floor: float
    aim: float
    at_most: bool = False
    of: str = COMPILED


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and the reached value, or None if it was not measured."""

    target: Target
    value: float | None

    @property
    def word(self) -> str:
        """The level reached: aim, floor, missed, or not measured."""
        if self.value is None:
            return "not measured"
        for word, bound in (("aim", self.target.aim), ("floor", self.target.floor)):
            if self.value <= bound if self.target.at_most else self.value >= bound:
                return word
        return "missed"


ONCE = ""  # `Target.to` of a number that is no ratio
TARGETS = (
    Target("TCP x1 / kernel", "tcp1_gbit_s", BASELINE, 0.45, 1.0),
    Target("TCP x8 / kernel", "tcp8_gbit_s", BASELINE, 0.30, 0.7),
    Target("TCP x1 / kernel without tunnel segmentation below", "tcp1_gbit_s", NO_TUNNEL, 1.3, 2.0),
    Target("UDP flood, received packets/s / kernel", "flood_pps", BASELINE, 1.2, 1.6),
    Target("UDP, highest rate under 0.5 % loss / kernel", "lossless_pps", BASELINE, 1.1, 1.5),
    Target("TCP request/response p50 / kernel", "rr_p50_us", BASELINE, 2.8, 2.0, at_most=True),
    Target("the same with busy polling", "rr_p50_us", BASELINE, 2.8, 1.3, at_most=True, of=BUSY_POLL),
    Target("CPU seconds per gigabyte, TCP x1 / kernel", "tcp1_cpu_s_per_gb", BASELINE, 2.7, 1.7, at_most=True),
    Target("TCP x1 / Open vSwitch userspace", "tcp1_gbit_s", OVS, 7.0, 15.0),
    Target("TCP x1 / the interpreted gear", "tcp1_gbit_s", INTERPRETED, 5.0, 10.0),
    Target("resident memory with 1,000 leases, MiB", "rss_1000_leases_mib", ONCE, 64.0, 40.0, at_most=True),
    Target("lookups with 10,000 leases / with 10, time", "lookup_10000_to_10", ONCE, 1.2, 1.0, at_most=True),
)


def value(trials: Iterable[Trial], mtu: int, subject: str, measure: str) -> float | None:
    """Return the median over the rounds that measured it; None if none did."""
    found = [trial.measures[measure] for trial in _of(trials, mtu, subject) if measure in trial.measures]
    return median(found) if found else None


def ratio(trials: Sequence[Trial], mtu: int, measure: str, subject: str, to: str) -> float | None:
    """Return the median of the ratios within each round; None if no round has both."""
    upper, lower = (
        {trial.round: trial.measures[measure] for trial in _of(trials, mtu, name) if measure in trial.measures}
        for name in (subject, to)
    )
    found = [upper[number] / lower[number] for number in upper if lower.get(number)]
    return median(found) if found else None


def judge(trials: Sequence[Trial], mtu: int, once: Mapping[str, float]) -> list[Verdict]:
    """Return a verdict on every target at this MTU."""
    return [
        Verdict(
            target,
            once.get(target.measure) if target.to == ONCE else ratio(trials, mtu, target.measure, target.of, target.to),
        )
        for target in TARGETS
    ]


def _of(trials: Iterable[Trial], mtu: int, subject: str) -> list[Trial]:
    return [trial for trial in trials if (trial.mtu, trial.subject) == (mtu, subject)]
