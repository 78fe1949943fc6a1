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

OPTIONS = Options(2, ("veth", "wire"), 1500, ("kernel", "vxland", "ovs"), ("tcp1", "flood"), FULL)


@pytest.fixture
def result() -> Result:
    """Two rounds of kernel and vxland; Open vSwitch is not installed and one trial failed."""
    found = Result(OPTIONS)
    for number in (1, 2):
        for wire, factor in (("veth", 1.0), ("wire", 0.5)):
            kernel = {"tcp1_gbit_s": 8.0 * factor} | ({"flood_pps": 100_000.0} if wire == "veth" else {})
            vxland = {"tcp1_gbit_s": number * 2.0 * factor} | (
                {"flood_pps": 150_000.0, "rss_mib": 59.0} if wire == "veth" else {}
            )
            state = "on" if number == 1 else "off: no libbpf"
            found.trials += [Trial(number, wire, "kernel", kernel), Trial(number, wire, "vxland", vxland, state)]
    found.skipped["ovs"] = "not installed"
    found.failures.append("round 2, wire, plain: no route")
    return found


def test_json(result: Result) -> None:
    """Every trial, medians with their spread and ratios, the state of the fast path, targets; it can be dumped."""
    found = json.loads(json.dumps(report.as_json(result)))
    assert found["complete"] is False
    assert found["skipped"] == {"ovs": "not installed"}
    assert found["summary"]["wire"]["vxland"]["tcp1_gbit_s"] == {
        "median": 1.5,
        "least": 1.0,
        "greatest": 2.0,
        "to_kernel": {"median": 0.375, "least": 0.25, "greatest": 0.5},
    }
    assert found["summary"]["veth"]["vxland"]["flood_pps"]["to_kernel"]["median"] == 1.5
    assert "flood_pps" not in found["summary"]["wire"]["vxland"]
    assert found["fast_path"]["veth"] == {"vxland": ["on", "off: no libbpf"]}
    (target,) = (one for one in found["targets"] if one["title"] == "TCP x1 / kernel" and one["wire"] == "veth")
    assert (target["value"], target["verdict"]) == (0.375, "missed")
    assert len(found["turns"]) == len(result.trials)


def test_markdown(result: Result) -> None:
    """One table per wire with medians, spreads and ratios; it says what is missing, and has no row without numbers."""
    text = report.markdown(result)
    veth, wire = (
        text.split("## Wire: only packets of the MTU cross\n")[0],
        text.split("## Wire")[1].split("## Targets")[0],
    )
    assert "|  | kernel vxlan | vxland | ratio |" in veth
    assert "| TCP x1, Gbit/s | 8.00 | 3.00 (2.00 to 4.00) | 0.38 (0.25 to 0.50) |" in veth
    assert "| UDP flood received, kpps | 100 | 150 | 1.50 |" in veth
    assert "| memory, MiB |  | 59 |  |" in veth
    assert "| TCP x1, Gbit/s | 4.00 | 1.50 (1.00 to 2.00) | 0.38 (0.25 to 0.50) |" in wire
    assert "UDP flood" not in wire
    assert "- Fast path of vxland: on; off: no libbpf" in wire
    assert "- not measured: Open vSwitch, userspace: not installed" in text
    assert "- failed: round 2, wire, plain: no route" in text
    assert "| TCP x1 / kernel | veth | 0.38 | 0.7 | 1 | missed |" in text
    assert "| TCP x1 / kernel | wire | 0.38 |  | 0.95 | below the aim |" in text
    assert "not measured |" not in text


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
        "TCP x1, Gbit/s: kernel vxlan 8.00; vxland 3.00 (0.38).",
        "UDP flood received, kpps: kernel vxlan 100; vxland 150 (1.50).",
        "TCP x1, Gbit/s: kernel vxlan 4.00; vxland 1.50 (0.38).",
    ]
    assert [tag for tag, _ in reader.found].count("circle") == 3 * 2 * 2  # panels, subjects, rounds
    assert text.count("Fast path of vxland: on; off: no libbpf") == 2
    assert not {"img", "link", "iframe"} & {tag for tag, _ in reader.found}
    assert reader.text["title"] == "vxland bench: 2 of the measurements failed"
    for rows in (report.table(result, "veth"), report.table(result, "wire")):
        assert all(cell in text for row in rows for cell in row)


def test_a_subject_without_a_measure_has_an_empty_bar(result: Result) -> None:
    """The panels of one picture then line up."""
    result.trials = [
        replace(trial, measures={"tcp1_gbit_s": 8.0}) if trial.subject == "kernel" else trial for trial in result.trials
    ]
    flood = panels(result, "veth")[1]
    assert [(bar.middle, bar.label) for bar in flood.bars] == [(0.0, "not measured"), (150.0, "150")]


def test_plots(result: Result, tmp_path: Path) -> None:
    """One picture per wire."""
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    paths = plots.draw(result, tmp_path)
    assert [path.name for path in paths] == ["bench-veth.png", "bench-wire.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
