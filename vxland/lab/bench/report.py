"""The result as JSON and as Markdown: every table shows the ratio to the kernel's device next to each number."""

from __future__ import annotations

from dataclasses import asdict

from vxland import __version__
from vxland.lab.bench import loops
from vxland.lab.bench.load import MAX_LOSS, PACKET_LEN
from vxland.lab.bench.rounds import Result
from vxland.lab.bench.subjects import BASELINE, SUBJECTS
from vxland.lab.bench.summary import MEASURES, Measure, Verdict, judge, ratio, value

TITLES = {subject.name: subject.title for subject in SUBJECTS}


def as_json(result: Result) -> dict[str, object]:
    """Return everything: options, every trial, medians and ratios by MTU and subject, targets."""
    first = result.options.mtus[0]
    return {
        "version": __version__,
        "started": result.started,
        "complete": not result.interrupted and not result.failures,
        "machine": result.machine,
        "compiled_load": loops.COMPILED,
        "options": asdict(result.options),
        "skipped": result.skipped,
        "failures": result.failures,
        "summary": {str(mtu): _summary(result, mtu) for mtu in result.options.mtus},
        "once": result.once,
        "targets": [
            {**asdict(verdict.target), "value": verdict.value, "verdict": verdict.word}
            for verdict in judge(result.trials, first, result.once)
        ],
        "turns": [asdict(trial) for trial in result.trials],
    }


def measured(result: Result, mtu: int) -> list[str]:
    """Return the subjects that have a trial at this MTU, in the order of the tables."""
    names = {trial.subject for trial in result.trials if trial.mtu == mtu}
    return [subject.name for subject in SUBJECTS if subject.name in names]


def _summary(result: Result, mtu: int) -> dict[str, dict[str, dict[str, float]]]:
    keys = sorted({key for trial in result.trials for key in trial.measures})
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in measured(result, mtu):
        for key in keys:
            middle = value(result.trials, mtu, name, key)
            to_kernel = ratio(result.trials, mtu, key, name, BASELINE)
            if middle is not None:
                numbers = {"median": middle} | ({"to_kernel": to_kernel} if to_kernel is not None else {})
                found.setdefault(name, {})[key] = numbers
    return found


def markdown(result: Result) -> str:
    """Return the tables, each cell `median (ratio to the kernel)`, and how they were measured."""
    said = [
        *circumstances(result),
        *(["**Interrupted**: these are the results until then."] * result.interrupted),
    ]
    parts = ["# vxland bench", "", "\n\n".join(said), ""]
    for mtu in result.options.mtus:
        parts += [f"## Underlay MTU {mtu}", "", *_markdown_table(table(result, mtu)), ""]
    verdicts = judge(result.trials, result.options.mtus[0], result.once)
    if any(verdict.value is not None for verdict in verdicts):
        parts += ["## Targets", "", *_markdown_table(target_table(verdicts)), ""]
    parts += [f"- not measured: {TITLES[name]}: {why}" for name, why in result.skipped.items()]
    parts += [f"- failed: {failure}" for failure in result.failures]
    return "\n".join(parts).rstrip() + "\n"


def circumstances(result: Result) -> list[str]:
    """Return the conditions of the measurement, one paragraph each."""
    options, here = result.options, result.machine
    machine = f"Linux {here['kernel']}, {here['cpus']} CPUs ({here['cpu']}), Python {here['python']}"
    rounds = "1 round" if options.rounds == 1 else f"{options.rounds} interleaved rounds"
    how = f"{rounds}, {options.plan.seconds} s per measurement. Each cell is the median and, in brackets, "
    load = f"Small packets and requests carry {PACKET_LEN} bytes; lossless means a loss below {MAX_LOSS:.1%}. "
    lines = [
        f"vxland {__version__}, {result.started}. {machine}, load average at the start {here['load_average']:.1f}.",
        how + "the median of the ratios to the kernel's own vxlan device in the same round.",
        load + "CPU seconds are the busy time of the whole machine. RR: TCP request/response, client and server on "
        "different CPUs, all CPUs kept awake.",
    ]
    if not loops.COMPILED:
        lines.append("Interpreted Python generated the load, which limits small packets and request/response.")
    return lines


def table(result: Result, mtu: int) -> list[list[str]]:
    """Return a row of headings, and a row per subject: its title, and a cell for each measure that was made."""
    names = measured(result, mtu)
    shown = [one for one in MEASURES if any(value(result.trials, mtu, name, one.key) is not None for name in names)]
    heads = ["", *(one.title for one in shown)]
    return [heads, *([TITLES[name], *(_cell(result, mtu, name, one) for one in shown)] for name in names)]


def _cell(result: Result, mtu: int, name: str, one: Measure) -> str:
    middle = value(result.trials, mtu, name, one.key)
    return "" if middle is None else labelled(middle, to_kernel(result, mtu, name, one), one)


def to_kernel(result: Result, mtu: int, name: str, one: Measure) -> float | None:
    """Return the ratio to the kernel's device shown next to a number; None if there is none."""
    return ratio(result.trials, mtu, one.key, name, BASELINE) if one.has_ratio and name != BASELINE else None


def labelled(middle: float, to_kernel: float | None, one: Measure) -> str:
    """Return a number in the format of all tables and plots, with its ratio in brackets."""
    text = f"{middle * one.scale:.{one.digits}f}"
    return text if to_kernel is None else f"{text} ({to_kernel:.2f})"


def target_table(verdicts: list[Verdict]) -> list[list[str]]:
    """Return a row of headings, and a row per target."""
    rows = [["measure", "reached", "floor", "aim", ""]]
    for verdict in verdicts:
        target = verdict.target
        most = "at most " if target.at_most else ""
        reached = "" if verdict.value is None else f"{verdict.value:.2f}"
        rows.append([target.title, reached, f"{most}{target.floor:g}", f"{most}{target.aim:g}", verdict.word])
    return rows


def _markdown_table(rows: list[list[str]]) -> list[str]:
    """Return the table in Markdown: the first row has the headings; all columns but the first are numbers."""
    ruler = ["---", *("--:" if head else "---" for head in rows[0][1:])]
    return [f"| {' | '.join(row)} |" for row in (rows[0], ruler, *rows[1:])]
