"""From trials to numbers: medians, ratios within a round, and a comparison with vxland's targets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from vxland.lab.bench.subjects import BASELINE
from vxland.lab.bench.wires import VETH, WIRE

VXLAND, DAEMON, BUSY_POLL, INTERPRETED, OVS = "vxland", "fast-path-off", "busy-poll", "interpreted", "ovs"


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the tables: its key in the JSON, its title, and its significant decimals."""

    key: str
    title: str
    digits: int
    scale: float = 1.0  # of the number shown
    has_ratio: bool = True


MEASURES = (
    Measure("tcp1_gbit_s", "TCP x1, Gbit/s", 2),
    Measure("tcp8_gbit_s", "TCP x8, Gbit/s", 2),
    Measure("tcp64_gbit_s", "TCP x64, Gbit/s", 2),
    Measure("both_gbit_s", "TCP both directions, sum, Gbit/s", 2),
    Measure("tcp1_cpu_s_per_gb", "CPU s/GB, TCP x1", 2),
    Measure("tcp8_cpu_s_per_gb", "CPU s/GB, TCP x8", 2),
    Measure("tcp8_retransmits", "retransmissions, TCP x8", 0, has_ratio=False),
    Measure("ping_us", "ping average, us", 0),
    Measure("rr_p50_us", "RR p50, us", 0),
    Measure("rr_p99_us", "RR p99, us", 0),
    Measure("connect_per_s", "connections a second", 0),
    Measure("connect_p50_us", "connection p50, us", 0),
    Measure("connect_p99_us", "connection p99, us", 0),
    Measure("flood_pps", "UDP flood received, kpps", 0, 1e-3),
    Measure("flood_loss", "UDP flood lost, %", 0, 100, has_ratio=False),
    Measure("lossless_pps", "UDP without loss, kpps", 0, 1e-3),
    Measure("quota_to_gbit_s", "TCP x1 at 0.1 CPU, to node 1, Gbit/s", 2),
    Measure("quota_from_gbit_s", "TCP x1 at 0.1 CPU, from node 1, Gbit/s", 2),
    Measure("restart_pings_lost", "restart: pings lost at 100/s", 0, has_ratio=False),
    Measure("restart_stalled_s", "restart: TCP stalled, s", 1, has_ratio=False),
    Measure("rss_mib", "memory, MiB", 0, has_ratio=False),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One subject measured once on one wire: the numbers by `Measure.key`, and the state of the fast path."""

    round: int
    wire: str
    subject: str
    measures: Mapping[str, float] = field(default_factory=dict)
    fast_path: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, numbers: Collection[float]) -> Spread | None:
        """Return the spread; None if there are no numbers."""
        return cls(median(numbers), min(numbers), max(numbers)) if numbers else None


@dataclass(frozen=True, slots=True)
class Target:
    """One target of vxland: a measure on a wire, as ratio to that of the subject `to`, or as number if it is NUMBER.

    `wire` is ONCE for a number that is measured once, for all wires.
    """

    title: str
    wire: str
    measure: str
    to: str
    floor: float | None
    aim: float
    at_most: bool = False
    of: str = VXLAND
    least: float = 0.0
    """A smaller number of `to` counts as this one."""


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
            if bound is not None and (self.value <= bound if self.target.at_most else self.value >= bound):
                return word
        return "missed" if self.target.floor is not None else "below the aim"


NUMBER, ONCE = "", ""


def _on_both(title: str, measure: str, to: str, floor: float, aim: float, *, at_most: bool = False) -> list[Target]:
    return [Target(title, wire, measure, to, floor, aim, at_most) for wire in (VETH, WIRE)]


TARGETS = (
    *_on_both("ping average / kernel", "ping_us", BASELINE, 1.2, 1.0, at_most=True),
    *_on_both("RR p50 / kernel", "rr_p50_us", BASELINE, 1.2, 1.0, at_most=True),
    *_on_both("connections a second / kernel", "connect_per_s", BASELINE, 0.9, 1.05),
    Target("TCP x1 / kernel", VETH, "tcp1_gbit_s", BASELINE, 0.7, 1.0),
    Target("TCP x8 / kernel", VETH, "tcp8_gbit_s", BASELINE, 0.75, 1.0),
    Target("TCP x64 / kernel", VETH, "tcp64_gbit_s", BASELINE, 0.6, 1.0),
    Target("TCP x1 / kernel", WIRE, "tcp1_gbit_s", BASELINE, None, 0.95),
    Target("TCP x8 / kernel", WIRE, "tcp8_gbit_s", BASELINE, None, 0.95),
    Target("TCP x64 / kernel", WIRE, "tcp64_gbit_s", BASELINE, None, 0.95),
    Target("TCP x1 / fast path off", WIRE, "tcp1_gbit_s", DAEMON, 0.95, 1.0),
    Target("TCP x8 / fast path off", WIRE, "tcp8_gbit_s", DAEMON, 0.95, 1.0),
    Target("TCP x64 / fast path off", WIRE, "tcp64_gbit_s", DAEMON, 0.95, 1.0),
    *_on_both("UDP flood, received / kernel", "flood_pps", BASELINE, 1.05, 1.5),
    Target("CPU seconds per gigabyte, TCP x1 / kernel", VETH, "tcp1_cpu_s_per_gb", BASELINE, 1.4, 1.05, at_most=True),
    Target(
        "retransmissions of 8 streams / kernel's, or 250", WIRE, "tcp8_retransmits", BASELINE, 2.0, 1.0, True, least=250
    ),
    *_on_both("restart: pings lost at 100/s", "restart_pings_lost", NUMBER, 0, 0, at_most=True),
    *_on_both("restart: TCP stalled, s", "restart_stalled_s", NUMBER, 0, 0, at_most=True),
    *_on_both("TCP x1 at 0.1 CPU, to node 1 / kernel", "quota_to_gbit_s", BASELINE, 0.45, 0.9),
    *_on_both("TCP x1 at 0.1 CPU, from node 1 / kernel", "quota_from_gbit_s", BASELINE, 0.8, 1.0),
    Target("UDP, highest rate under 0.5 % loss / kernel", VETH, "lossless_pps", BASELINE, 1.1, 1.5),
    Target("RR p50, busy polling / kernel", VETH, "rr_p50_us", BASELINE, 2.8, 1.3, at_most=True, of=BUSY_POLL),
    Target("TCP x1 / Open vSwitch userspace", VETH, "tcp1_gbit_s", OVS, 7.0, 15.0),
    Target("TCP x1 / the interpreted gear", VETH, "tcp1_gbit_s", INTERPRETED, 5.0, 10.0),
    Target("resident memory with 1,000 leases, MiB", ONCE, "rss_1000_leases_mib", NUMBER, 64.0, 40.0, at_most=True),
    Target("lookups with 10,000 leases / with 10, time", ONCE, "lookup_10000_to_10", NUMBER, 1.2, 1.0, at_most=True),
)


def values(trials: Iterable[Trial], wire: str, subject: str, measure: str) -> Spread | None:
    """Return the spread over the rounds that measured it; None if none did."""
    return Spread.of([trial.measures[measure] for trial in _of(trials, wire, subject) if measure in trial.measures])


def ratios(
    trials: Sequence[Trial], wire: str, measure: str, subject: str, to: str, least: float = 0.0
) -> Spread | None:
    """Return the spread of the ratios within each round; None if no round has both. `least`: see `Target`."""
    upper, lower = (
        {trial.round: trial.measures[measure] for trial in _of(trials, wire, name) if measure in trial.measures}
        for name in (subject, to)
    )
    both = ((upper[number], max(lower[number], least)) for number in upper if number in lower)
    return Spread.of([number / divisor for number, divisor in both if divisor])


def judge(trials: Sequence[Trial], once: Mapping[str, float]) -> list[Verdict]:
    """Return a verdict on every target."""
    return [Verdict(target, _reached(target, trials, once)) for target in TARGETS]


def _reached(target: Target, trials: Sequence[Trial], once: Mapping[str, float]) -> float | None:
    if target.wire == ONCE:
        return once.get(target.measure)
    found = (
        values(trials, target.wire, target.of, target.measure)
        if target.to == NUMBER
        else ratios(trials, target.wire, target.measure, target.of, target.to, target.least)
    )
    return found.median if found else None


def _of(trials: Iterable[Trial], wire: str, subject: str) -> list[Trial]:
    return [trial for trial in trials if (trial.wire, trial.subject) == (wire, subject)]
