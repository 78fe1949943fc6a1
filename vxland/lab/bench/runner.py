"""The benchmark from beginning to end: look what is there, measure, always remove, report what was found."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from vxland.lab import namespaces, shell
from vxland.lab import page as pages
from vxland.lab.bench import page, plots, report
from vxland.lab.bench.rounds import Options, Result
from vxland.lab.bench.rounds import play as play_rounds
from vxland.lab.bench.subjects import SUBJECTS
from vxland.lab.signals import deafen, stoppable
from vxland.model.errors import StartError


def play(options: Options, output: Path, *, json_wanted: bool) -> int:
    """Measure and report; 0 when all of it came out, else 1. StartError when it cannot begin."""
    shell.require((), "the benchmark")
    notes = Console(stderr=True, soft_wrap=True)
    _prepare(output)
    result = Result(options)
    chosen = [subject for subject in SUBJECTS if subject.name in options.subjects]
    result.skipped = {subject.name: why for subject in chosen if (why := subject.missing())}
    for name, why in result.skipped.items():
        notes.print(f"{name} is left out: {why}", markup=False, highlight=False)
    with stoppable():
        try:
            for pid in namespaces.sweep():
                notes.print(f"removed what an earlier demo or benchmark, process {pid}, had left behind")
            play_rounds(result, [subject for subject in chosen if subject.name not in result.skipped], notes)
        except KeyboardInterrupt:
            result.interrupted = True
            notes.print("interrupted; all that the benchmark had made is removed again")
        finally:
            with suppress(KeyboardInterrupt):
                deafen()
            namespaces.remove(os.getpid())  # each turn removes its own lab; this is for one that was cut short
        if result.turns:
            _write(result, output, notes)
            print(json.dumps(report.as_json(result), indent=2) if json_wanted else report.markdown(result), end="")
    return 1 if result.interrupted or result.failures or not result.turns else 0


def _prepare(output: Path) -> None:
    """Make the directory now: better no benchmark than one whose result cannot be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / ".writable").touch()
        (output / ".writable").unlink()
    except OSError as exc:
        raise StartError(f"{output} cannot be written: {exc.strerror}", "give another directory with --output") from exc


def _write(result: Result, output: Path, notes: Console) -> None:
    (output / "bench.json").write_text(json.dumps(report.as_json(result), indent=2) + "\n")
    (output / "bench.md").write_text(report.markdown(result))
    pages.write(output / "bench.html", page.render(result))
    paths = [output / "bench.json", output / "bench.md", output / "bench.html", *plots.draw(result, output)]
    notes.print(f"written: {', '.join(map(str, paths))}", markup=False, highlight=False)
