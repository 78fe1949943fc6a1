"""Rounds: every subject once, then all again, so that other load on the machine affects all subjects alike.

The result is the median of the ratios within each round; absolute numbers of a shared machine mean little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vxland.lab.bench import scale
from vxland.lab.bench.subjects import Subject
from vxland.lab.bench.summary import MEASURES, Trial
from vxland.lab.bench.trial import JOBS, TrialPlan, measure
from vxland.lab.host import describe
from vxland.model.errors import VxlandError


@dataclass(frozen=True, slots=True)
class Options:
    """The options."""

    rounds: int
    wires: tuple[str, ...]
    mtu: int
    subjects: tuple[str, ...]
    measures: tuple[str, ...]
    plan: TrialPlan

    @property
    def steps(self) -> int:
        """The number of steps of a trial."""
        return 1 + sum(name in self.measures for name in JOBS)


@dataclass(slots=True)
class Result:
    """The results so far. `skipped` and `failures` give the reason for what is missing."""

    options: Options
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: dict[str, object] = field(default_factory=describe)
    trials: list[Trial] = field(default_factory=list)
    once: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False


SCALE = "scale"
_ONCE: dict[str, tuple[str, Callable[[], float]]] = {
    "lookup_10000_to_10": ("lookups", scale.lookup_ratio),
    "rss_1000_leases_mib": ("memory with 1,000 leases", scale.memory_mib),
}


def run(result: Result, subjects: Sequence[Subject], notes: Console) -> None:
    """Measure everything and add it to `result`; a failure is noted, and the next measurement follows."""
    options = result.options
    once = _ONCE if SCALE in options.measures else {}
    with _progress(notes) as progress:
        trials = options.rounds * len(options.wires) * len(subjects)
        measuring = _Measuring(result, notes, progress, trials * options.steps + len(once))
        for number in range(1, options.rounds + 1):
            for wire in options.wires:
                for subject in subjects:
                    measuring.trial(Trial(number, wire, subject.name), subject)
        for key, (title, find) in once.items():
            with measuring.stage(title, 1):
                measuring.step("measuring once")
                result.once[key] = find()


class _Measuring:
    """Progress and failures of a run; `step` names the current step of the current stage."""

    def __init__(self, result: Result, notes: Console, progress: Progress, steps: int) -> None:
        self.result, self.notes, self.progress = result, notes, progress
        self.task = progress.add_task("", total=steps)
        self.title, self.completed = "", 0.0

    def trial(self, trial: Trial, subject: Subject) -> None:
        options = self.result.options
        with self.stage(f"round {trial.round}/{options.rounds}, {trial.wire}, {trial.subject}", options.steps):
            found = measure(subject, trial.wire, options.mtu, options.plan, options.measures, self.step)
            self.result.trials.append(replace(trial, measures=found.numbers, fast_path=found.fast_path))
            self.note(f"{self.title}: {_in_short(found.numbers)}")
            for failure in found.failures:
                self.fail(failure)

    @contextmanager
    def stage(self, title: str, steps: int) -> Iterator[None]:
        """Count a step where the next one begins, and all of them once the block ends, even if it failed half-way."""
        begun = self.progress.tasks[0].completed
        self.title, self.completed = title, begun - 1
        try:
            yield
        except (VxlandError, OSError) as exc:
            self.fail(str(exc))
        self.progress.update(self.task, completed=begun + steps)

    def step(self, doing: str) -> None:
        self.completed += 1
        self.progress.update(self.task, description=f"{self.title}: {doing}", completed=self.completed)

    def fail(self, cause: str) -> None:
        self.result.failures.append(f"{self.title}: {' '.join(cause.split())}")
        self.note(self.result.failures[-1])

    def note(self, line: str) -> None:
        self.notes.print(line, markup=False, highlight=False)


def _in_short(measures: dict[str, float]) -> str:
    """Return one line for the terminal or log."""
    made = (one for one in MEASURES if one.key in measures)
    return "; ".join(f"{one.title} {measures[one.key] * one.scale:.{one.digits}f}" for one in made)


def _progress(notes: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=notes,
        disable=not notes.is_terminal,  # a log has one line per trial
        transient=True,
    )
