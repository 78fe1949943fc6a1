"""Rounds: every subject once, then all again, so that other load on the machine affects all subjects alike.

The result is the median of the ratios within each round; absolute numbers of a shared machine mean little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vxland.lab.bench import scale
from vxland.lab.bench.subjects import Subject
from vxland.lab.bench.summary import COMPILED, Trial
from vxland.lab.bench.trial import TrialPlan, measure, steps_of
from vxland.lab.host import describe
from vxland.model.errors import VxlandError


@dataclass(frozen=True, slots=True)
class Options:
    """The options. At the MTUs after the first only TCP is measured: small packets do not depend on the MTU."""

    rounds: int
    mtus: tuple[int, ...]
    subjects: tuple[str, ...]
    plan: TrialPlan


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


def run(result: Result, subjects: Sequence[Subject], notes: Console) -> None:
    """Measure everything and add it to `result`; a failure is noted, and the next subject is measured."""
    options = result.options
    with _progress(notes) as progress:
        steps = sum(steps_of(whole=mtu == options.mtus[0]) for mtu in options.mtus) * len(subjects) * options.rounds
        task = progress.add_task("", total=steps + len(_ONCE) * _wants_once(subjects))

        def stage(title: str, job: Callable[[Callable[[str], None]], None], count: int) -> None:
            """Run a job of `count` steps; afterwards the bar shows all of them, even if the job failed half-way."""
            end = progress.tasks[0].completed + count
            announced = -1

            def announce(doing: str) -> None:
                nonlocal announced
                announced += 1
                progress.update(task, description=f"{title}: {doing}", advance=1 if announced else 0)

            try:
                job(announce)
            except (VxlandError, OSError) as exc:
                cause = " ".join(str(exc).split())
                result.failures.append(f"{title}: {cause}")
                notes.print(f"{title}: {cause}", markup=False, highlight=False)
            progress.update(task, completed=end)

        for number in range(1, options.rounds + 1):
            for mtu in options.mtus:
                for subject in subjects:
                    whole = mtu == options.mtus[0]
                    title = f"round {number}/{options.rounds}, MTU {mtu}, {subject.name}"
                    job = _trial_job(result, notes, title, Trial(number, mtu, subject.name), subject, whole=whole)
                    stage(title, job, steps_of(whole=whole))
        for key, (title, find) in _ONCE.items() if _wants_once(subjects) else ():
            stage(title, _once_job(result, key, find), 1)


_ONCE: dict[str, tuple[str, Callable[[], float]]] = {
    "lookup_10000_to_10": ("lookups", scale.lookup_ratio),
    "rss_1000_leases_mib": ("memory with 1,000 leases", scale.memory_mib),
}


def _wants_once(subjects: Sequence[Subject]) -> bool:
    return any(subject.name == COMPILED for subject in subjects)


def _trial_job(
    result: Result, notes: Console, title: str, trial: Trial, subject: Subject, *, whole: bool
) -> Callable[[Callable[[str], None]], None]:
    def job(announce: Callable[[str], None]) -> None:
        measures = measure(subject, trial.mtu, result.options.plan, announce, whole=whole)
        result.trials.append(Trial(trial.round, trial.mtu, trial.subject, measures))
        notes.print(f"{title}: {_in_short(measures)}", markup=False, highlight=False)

    return job


def _once_job(result: Result, key: str, find: Callable[[], float]) -> Callable[[Callable[[str], None]], None]:
    def job(announce: Callable[[str], None]) -> None:
        announce("measuring once")
        result.once[key] = find()

    return job


def _in_short(measures: dict[str, float]) -> str:
    """Return one line for the terminal or log."""
    words = [f"TCP {measures['tcp1_gbit_s']:.2f} and {measures['tcp8_gbit_s']:.2f} Gbit/s"]
    if "flood_pps" in measures:
        words.append(f"UDP {measures['flood_pps'] / 1000:.0f} kpps, {measures['lossless_pps'] / 1000:.0f} without loss")
        words.append(f"RR {measures['rr_p50_us']:.0f} us")
    return ", ".join(words)


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
