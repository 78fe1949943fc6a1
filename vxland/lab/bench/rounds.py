"""The rounds: every subject once, then all again, so that whatever else the machine does hits all alike.

Ratios are taken within a round and their median over the rounds; absolute numbers of a shared machine mean little.
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
    """What was asked for. Only TCP is measured at the MTUs after the first: small packets do not know it."""

    rounds: int
    mtus: tuple[int, ...]
    subjects: tuple[str, ...]
    plan: TrialPlan


@dataclass(slots=True)
class Result:
    """What was found so far. `skipped` and `failures` say why something is not there."""

    options: Options
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: dict[str, object] = field(default_factory=describe)
    turns: list[Trial] = field(default_factory=list)
    once: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False


def play(result: Result, subjects: Sequence[Subject], notes: Console) -> None:
    """Measure all, adding to `result` as it comes; what one subject cannot do is noted, and the next one tried."""
    options = result.options
    with _progress(notes) as progress:
        steps = sum(steps_of(whole=mtu == options.mtus[0]) for mtu in options.mtus) * len(subjects) * options.rounds
        task = progress.add_task("", total=steps + len(_ONCE) * _wants_once(subjects))

        def stage(title: str, job: Callable[[Callable[[str], None]], None], count: int) -> None:
            """Do a job of `count` steps; the bar stands right after it even where it failed half-way."""
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
                    job = _turn_job(result, notes, title, Trial(number, mtu, subject.name), subject, whole=whole)
                    stage(title, job, steps_of(whole=whole))
        for key, (title, find) in _ONCE.items() if _wants_once(subjects) else ():
            stage(title, _once_job(result, key, find), 1)


_ONCE: dict[str, tuple[str, Callable[[], float]]] = {
    "lookup_10000_to_10": ("lookups", scale.lookup_ratio),
    "rss_1000_leases_mib": ("memory with 1,000 leases", scale.memory_mib),
}


def _wants_once(subjects: Sequence[Subject]) -> bool:
    return any(subject.name == COMPILED for subject in subjects)


def _turn_job(
    result: Result, notes: Console, title: str, turn: Trial, subject: Subject, *, whole: bool
) -> Callable[[Callable[[str], None]], None]:
    def job(announce: Callable[[str], None]) -> None:
        measures = measure(subject, turn.mtu, result.options.plan, announce, whole=whole)
        result.turns.append(Trial(turn.round, turn.mtu, turn.subject, measures))
        notes.print(f"{title}: {_in_short(measures)}", markup=False, highlight=False)

    return job


def _once_job(result: Result, key: str, find: Callable[[], float]) -> Callable[[Callable[[str], None]], None]:
    def job(announce: Callable[[str], None]) -> None:
        announce("one by one")
        result.once[key] = find()

    return job


def _in_short(measures: dict[str, float]) -> str:
    """One line for whoever watches."""
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
        disable=not notes.is_terminal,  # a log has the lines of the turns
        transient=True,
    )
