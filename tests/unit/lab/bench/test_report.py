"""The report: JSON for programs, Markdown and page for people, and the plots."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.markup import read
from vxland.lab.bench import page, plots, report
from vxland.lab.bench.panels import panels
from vxland.lab.bench.rounds import Options, Result
from vxland.lab.bench.summary import Trial
from vxland.lab.bench.trial import FULL

OPTIONS = Options(2, (1500, 9000), ("kernel", "vxland", "ovs"), FULL)


@pytest.fixture
def result() -> Result:
    """Two rounds of kernel and vxland; Open vSwitch is not installed and one trial failed."""
    found = Result(OPTIONS)
    for number in (1, 2):
        for mtu, factor in ((1500, 1.0), (9000, 2.0)):
            kernel = {"tcp1_gbit_s": 8.0 * factor} | ({"flood_pps": 100_000.0} if mtu == 1500 else {})
            vxland = {"tcp1_gbit_s": 4.0 * factor} | ({"flood_pps": 150_000.0, "rss_mib": 59.0} if mtu == 1500 else {})
            found.trials += [Trial(number, mtu, "kernel", kernel), Trial(number, mtu, "vxland", vxland)]
    found.skipped["ovs"] = "not installed"
    found.failures.append("round 2, MTU 9000, plain: no route")
    return found


def test_json(result: Result) -> None:
    """Every trial, medians with their ratios, targets; it can be dumped."""
    found = json.loads(json.dumps(report.as_json(result)))
    assert found["complete"] is False
    assert found["skipped"] == {"ovs": "not installed"}
    assert found["summary"]["1500"]["vxland"]["flood_pps"] == {"median": 150_000.0, "to_kernel": 1.5}
    assert found["summary"]["9000"]["vxland"]["tcp1_gbit_s"] == {"median": 8.0, "to_kernel": 0.5}
    assert "flood_pps" not in found["summary"]["9000"]["vxland"]
    assert found["targets"][0]["value"] == 0.5
    assert len(found["turns"]) == len(result.trials)


def test_markdown(result: Result) -> None:
    """One table per MTU with scaled medians and ratios; it says what is missing, and has no column without numbers."""
    text = report.markdown(result)
    assert "| vxland, compiled | 4.00 (0.50) | 150 (1.50) | 59 |" in text
    assert "| vxland, compiled | 8.00 (0.50) |\n" in text
    assert "RR p50" not in text.split("## Targets")[0].split("## Underlay")[1]
    assert "- not measured: Open vSwitch, userspace: not installed" in text
    assert "- failed: round 2, MTU 9000, plain: no route" in text
    assert "| TCP x1 / kernel | 0.50 | 0.45 | 1 | floor |" in text


def test_interrupted(result: Result) -> None:
    """The report of an interrupted benchmark says so."""
    result.interrupted = True
    assert "**Interrupted**" in report.markdown(result)


def test_page(result: Result) -> None:
    """A plot per measure, its numbers in words, the same tables; results add nothing but text."""
    hostile = "</script><img src=//evil.example/x onerror='x'>"
    result.failures.append(hostile)
    result.skipped["ovs"] = hostile
    text = page.render(result)
    reader = read(text)
    plots_of = [attrs["aria-label"] for tag, attrs in reader.found if tag == "svg"]
    assert plots_of == [
        "TCP x1 Gbit/s: kernel vxlan 8.00; vxland, compiled 4.00 (0.50).",
        "UDP flood kpps: kernel vxlan 100; vxland, compiled 150 (1.50).",
        "TCP x1 Gbit/s: kernel vxlan 16.00; vxland, compiled 8.00 (0.50).",
    ]
    assert [tag for tag, _ in reader.found].count("circle") == 3 * 2 * 2  # panels, subjects, rounds
    assert not {"img", "link", "iframe"} & {tag for tag, _ in reader.found}
    assert reader.text["title"] == "vxland bench: 2 of the measurements failed"
    for rows in (report.table(result, 1500), report.table(result, 9000)):
        assert all(cell in text for row in rows for cell in row)


def test_a_subject_without_a_measure_has_an_empty_bar(result: Result) -> None:
    """The panels of one picture then line up."""
    result.trials = [
        replace(trial, measures={"tcp1_gbit_s": 8.0}) if trial.subject == "kernel" else trial for trial in result.trials
    ]
    flood = panels(result, 1500)[1]
    assert [(bar.middle, bar.label) for bar in flood.bars] == [(0.0, "not measured"), (150.0, "150")]


def test_plots(result: Result, tmp_path: Path) -> None:
    """One picture per MTU."""
    pytest.importorskip("matplotlib", reason="the extra `lab` is not installed")
    paths = plots.draw(result, tmp_path)
    assert [path.name for path in paths] == ["bench-1500.png", "bench-9000.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
