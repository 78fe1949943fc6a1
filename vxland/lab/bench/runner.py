"""The whole benchmark: check what is available, measure, always remove, report."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from vxland.lab import namespaces, shell
from vxland.lab.bench import page, plots, report, rounds, wires
from vxland.lab.bench.output import prepare
from vxland.lab.bench.rounds import Options, Result
from vxland.lab.bench.subjects import SUBJECTS
from vxland.lab.page import document
from vxland.lab.signals import ignore_signals, interruptible


def run(options: Options, output: Path, *, json_wanted: bool) -> int:
    """Measure and report; 0 if everything succeeded, else 1. StartError if it cannot start."""
    shell.require((), "the benchmark", wires.PACKAGES if wires.WIRE in options.wires else None)
    notes = Console(stderr=True, soft_wrap=True)
    prepare(output)
    result = Result(options)
    chosen = [subject for subject in SUBJECTS if subject.name in options.subjects]
    result.skipped = {subject.name: why for subject in chosen if (why := subject.missing())}
    for name, why in result.skipped.items():
        notes.print(f"{name} is skipped: {why}", markup=False, highlight=False)
    with interruptible():
        try:
            for pid in namespaces.sweep():
                notes.print(f"removed what an earlier demo or benchmark, process {pid}, left behind")
            rounds.run(result, [subject for subject in chosen if subject.name not in result.skipped], notes)
        except KeyboardInterrupt:
            result.interrupted = True
            notes.print("interrupted; everything that the benchmark made is removed")
        finally:
            with suppress(KeyboardInterrupt):
                ignore_signals()
            namespaces.remove(os.getpid())  # each trial removes its own lab; this removes that of an interrupted one
        if result.trials:
            _write(result, output, notes)
            print(json.dumps(report.as_json(result), indent=2) if json_wanted else report.markdown(result), end="")
    return 1 if result.interrupted or result.failures or not result.trials else 0


def _write(result: Result, output: Path, notes: Console) -> None:
    (output / "bench.json").write_text(json.dumps(report.as_json(result), indent=2) + "\n")
    (output / "bench.md").write_text(report.markdown(result))
    document.write(output / "bench.html", page.render(result))
    paths = [output / "bench.json", output / "bench.md", output / "bench.html", *plots.draw(result, output)]
    notes.print(f"written: {', '.join(map(str, paths))}", markup=False, highlight=False)
