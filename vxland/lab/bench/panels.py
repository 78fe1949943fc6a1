"""Contents of the plots, independent of the drawing: a panel per measure, a bar per subject, a dot per round. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vxland.lab.bench.report import TITLES, measured, to_kernel
from vxland.lab.bench.rounds import Result
from vxland.lab.bench.subjects import BASELINE
from vxland.lab.bench.summary import MEASURES, VXLAND, Measure, values

SHOWN = (
    *("tcp1_gbit_s", "tcp8_gbit_s", "tcp64_gbit_s", "both_gbit_s", "tcp1_cpu_s_per_gb"),
    *("ping_us", "rr_p50_us", "connect_per_s", "flood_pps"),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One subject: median and rounds in the panel's unit, the label next to it, and its role."""

    title: str
    middle: float
    rounds: tuple[float, ...]
    label: str
    role: Literal["vxland", "baseline", "other"]

    @property
    def most(self) -> float:
        """The largest value of the bar and its dots."""
        return max(self.middle, *self.rounds, 0.0)


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def most(self) -> float:
        """The largest value of all bars; above 0."""
        return max(*(bar.most for bar in self.bars), 1e-9)


def panels(result: Result, wire: str) -> list[Panel]:
    """Return the measures of SHOWN that were made on this wire, each with a bar for every subject."""
    names = measured(result, wire)
    shown = (one for one in MEASURES if one.key in SHOWN)
    made = (one for one in shown if any(values(result.trials, wire, name, one.key) for name in names))
    return [Panel(one.title, tuple(_bar(result, wire, name, one) for name in names)) for one in made]


def _bar(result: Result, wire: str, name: str, one: Measure) -> Bar:
    role: Literal["vxland", "baseline", "other"] = "other"
    if name in {VXLAND, BASELINE}:
        role = "vxland" if name == VXLAND else "baseline"
    spread = values(result.trials, wire, name, one.key)
    if spread is None:
        return Bar(TITLES[name], 0.0, (), "not measured", role)
    middle = spread.median * one.scale
    ratio = to_kernel(result, wire, name, one)
    label = f"{middle:.{one.digits}f}" + (f" ({ratio.median:.2f})" if ratio else "")
    trials = (
        trial for trial in result.trials if (trial.wire, trial.subject) == (wire, name) and one.key in trial.measures
    )
    return Bar(TITLES[name], middle, tuple(trial.measures[one.key] * one.scale for trial in trials), label, role)
