"""The result as JSON and as Markdown: a table per wire, with the ratio to the kernel's device next to each number."""

from __future__ import annotations

from dataclasses import asdict, astuple

from vxland import __version__
from vxland.lab.bench import loops, wires
from vxland.lab.bench.load import MAX_LOSS, PACKET_LEN
from vxland.lab.bench.rounds import Result
from vxland.lab.bench.subjects import BASELINE, SUBJECTS
from vxland.lab.bench.summary import MEASURES, Measure, Spread, Verdict, judge, ratios, values

TITLES = {subject.name: subject.title for subject in SUBJECTS}


def as_json(result: Result) -> dict[str, object]:
    """Return everything: options, every trial, medians and ratios by wire and subject, targets."""
    return {
        "version": __version__,
        "started": result.started,
        "complete": not result.interrupted and not result.failures,
        "machine": result.machine,
        "compiled_load": loops.COMPILED,
        "options": asdict(result.options),
        "skipped": result.skipped,
        "failures": result.failures,
        "summary": {wire: _summary(result, wire) for wire in result.options.wires},
        "fast_path": {wire: fast_paths(result, wire) for wire in result.options.wires},
        "once": result.once,
        "targets": [
            {**asdict(verdict.target), "value": verdict.value, "verdict": verdict.word}
            for verdict in judge(result.trials, result.once)
        ],
        "turns": [asdict(trial) for trial in result.trials],
    }


def measured(result: Result, wire: str) -> list[str]:
    """Return the subjects that have a trial on this wire, in the order of the tables."""
    names = {trial.subject for trial in result.trials if trial.wire == wire}
    return [subject.name for subject in SUBJECTS if subject.name in names]


def fast_paths(result: Result, wire: str) -> dict[str, list[str]]:
    """Return the states of the fast path by subject: more than one if it changed between trials."""
    found: dict[str, list[str]] = {}
    for trial in result.trials:
        if trial.wire == wire and trial.fast_path and trial.fast_path not in found.setdefault(trial.subject, []):
            found[trial.subject].append(trial.fast_path)
    return found


def _summary(result: Result, wire: str) -> dict[str, dict[str, dict[str, object]]]:
    keys = sorted({key for trial in result.trials for key in trial.measures})
    found: dict[str, dict[str, dict[str, object]]] = {}
    for name in measured(result, wire):
        for key in keys:
            if spread := values(result.trials, wire, name, key):
                to_kernel = ratios(result.trials, wire, key, name, BASELINE)
                numbers = asdict(spread) | ({"to_kernel": asdict(to_kernel)} if to_kernel else {})
                found.setdefault(name, {})[key] = numbers
    return found


def markdown(result: Result) -> str:
    """Return a table per wire, and how they were measured."""
    said = [
        *circumstances(result),
        *(["**Interrupted**: these are the results until then."] * result.interrupted),
    ]
    parts = ["# vxland bench", "", "\n\n".join(said), ""]
    for wire in result.options.wires:
        parts += [f"## {wires.TITLES[wire]}", "", *_markdown_table(table(result, wire)), ""]
        parts += [f"- {line}" for line in fast_path_lines(result, wire)]
        parts += [""] * (parts[-1] != "")
    verdicts = judge(result.trials, result.once)
    if any(verdict.value is not None for verdict in verdicts):
        parts += ["## Targets", "", *_markdown_table(target_table(verdicts)), ""]
    parts += [f"- not measured: {TITLES[name]}: {why}" for name, why in result.skipped.items()]
    parts += [f"- failed: {failure}" for failure in result.failures]
    return "\n".join(parts).rstrip() + "\n"


def fast_path_lines(result: Result, wire: str) -> list[str]:
    """Return a line for each subject with vxland: whether the fast path was on, and otherwise why not."""
    return [f"Fast path of {TITLES[name]}: {'; '.join(states)}" for name, states in fast_paths(result, wire).items()]


def circumstances(result: Result) -> list[str]:
    """Return the conditions of the measurement, one paragraph each."""
    options, here = result.options, result.machine
    machine = f"Linux {here['kernel']}, {here['cpus']} CPUs ({here['cpu']}), Python {here['python']}"
    rounds = "1 round" if options.rounds == 1 else f"{options.rounds} interleaved rounds"
    how = f"Pod to pod behind bridges, underlay MTU {options.mtu}; {rounds}, {options.plan.seconds} s per measurement. "
    load = f"Small packets and requests carry {PACKET_LEN} bytes; without loss means below {MAX_LOSS:.1%}. "
    lines = [
        f"vxland {__version__}, {result.started}. {machine}, load average at the start {here['load_average']:.1f}.",
        how
        + "A cell is the median (least to greatest). Ratios are to the kernel's own vxlan device in the same round, "
        "on the same wire.",
        load + "CPU seconds are the busy time of the whole machine. RR: TCP request/response. A connection carries a "
        "byte each way. For both, client and server are on different CPUs, all kept awake.",
    ]
    if not loops.COMPILED:
        lines.append("Interpreted Python generated the load, which limits small packets and request/response.")
    return lines


def table(result: Result, wire: str) -> list[list[str]]:
    """Return a row of headings, and a row per measure that was made: its title, and each subject's number and ratio."""
    names = measured(result, wire)
    with_ratio = {name for name in names if name != BASELINE and BASELINE in names}
    heads = ["", *(head for name in names for head in (TITLES[name], *["ratio"] * (name in with_ratio)))]
    rows = []
    for one in MEASURES:
        cells = [one.title]
        for name in names:
            cells.append(_spread(values(result.trials, wire, name, one.key), one.scale, one.digits))
            if name in with_ratio:
                cells.append(_spread(to_kernel(result, wire, name, one), 1, 2))
        if any(cells[1:]):
            rows.append(cells)
    return [heads, *rows]


def to_kernel(result: Result, wire: str, name: str, one: Measure) -> Spread | None:
    """Return the ratios to the kernel's device; None if there are none."""
    return ratios(result.trials, wire, one.key, name, BASELINE) if one.has_ratio and name != BASELINE else None


def _spread(found: Spread | None, scale: float, digits: int) -> str:
    """Return `median (least to greatest)`, the median alone of equal numbers, and nothing for None."""
    if found is None:
        return ""
    middle, least, greatest = (f"{number * scale:.{digits}f}" for number in astuple(found))
    return middle if least == greatest else f"{middle} ({least} to {greatest})"


def target_table(verdicts: list[Verdict]) -> list[list[str]]:
    """Return a row of headings, and a row per target that was measured."""
    rows = [["measure", "wire", "reached", "floor", "aim", ""]]
    for verdict in verdicts:
        target = verdict.target
        if verdict.value is not None:
            bounds = (
                "" if bound is None else f"{'at most ' * target.at_most}{bound:g}"
                for bound in (target.floor, target.aim)
            )
            rows.append([target.title, target.wire, f"{verdict.value:.2f}", *bounds, verdict.word])
    return rows


def _markdown_table(rows: list[list[str]]) -> list[str]:
    """Return the table in Markdown: the first row has the headings; all columns but the first are numbers."""
    ruler = ["---", *("--:" if head else "---" for head in rows[0][1:])]
    return [f"| {' | '.join(row)} |" for row in (rows[0], ruler, *rows[1:])]
