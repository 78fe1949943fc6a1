"""Contents of the plots, independent of the drawing: a panel per measure, a bar per subject, a dot per round. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vxland.lab.bench.report import TITLES, labelled, measured, to_kernel
from vxland.lab.bench.rounds import Result
from vxland.lab.bench.subjects import BASELINE
from vxland.lab.bench.summary import COMPILED, MEASURES, Measure, value

SHOWN = ("tcp1_gbit_s", "tcp8_gbit_s", "tcp1_cpu_s_per_gb", "flood_pps", "lossless_pps", "rr_p50_us")


@dataclass(frozen=True, slots=True)
class Bar:
    """One subject: median and rounds in the panel's unit, the label next to it, and its role."""

    title: str
    middle: float
    rounds: tuple[float, ...]
    label: str
    role: Literal["compiled", "baseline", "other"]

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


def panels(result: Result, mtu: int) -> list[Panel]:
    """Return the measures of SHOWN that were made at this MTU, each with a bar for every subject."""
    names = measured(result, mtu)
    shown = (one for one in MEASURES if one.key in SHOWN)
    made = (one for one in shown if any(value(result.trials, mtu, name, one.key) is not None for name in names))
    return [Panel(one.title, tuple(_bar(result, mtu, name, one) for name in names)) for one in made]


def _bar(result: Result, mtu: int, name: str, one: Measure) -> Bar:
    role: Literal["compiled", "baseline", "other"] = "other"
    if name in {COMPILED, BASELINE}:
        role = "compiled" if name == COMPILED else "baseline"
    middle = value(result.trials, mtu, name, one.key)
    if middle is None:
        return Bar(TITLES[name], 0.0, (), "not measured", role)
    trials = (
        trial for trial in result.trials if (trial.mtu, trial.subject) == (mtu, name) and one.key in trial.measures
    )
    rounds = tuple(trial.measures[one.key] * one.scale for trial in trials)
    return Bar(TITLES[name], middle * one.scale, rounds, labelled(middle, to_kernel(result, mtu, name, one), one), role)
