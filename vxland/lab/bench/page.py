"""bench.html: the plots and tables of a result as a page."""

from __future__ import annotations

from vxland.lab.bench import report
from vxland.lab.bench.panels import panels
from vxland.lab.bench.rounds import Result
from vxland.lab.bench.summary import judge
from vxland.lab.bench.wires import TITLES
from vxland.lab.page import document


def render(result: Result) -> str:
    """Return the page."""
    verdicts = judge(result.trials, result.once)
    return document.render(
        "bench.html.jinja",
        circumstances=report.circumstances(result),
        wires=[
            (wire, TITLES[wire], panels(result, wire), report.table(result, wire), report.fast_path_lines(result, wire))
            for wire in result.options.wires
        ],
        targets=report.target_table(verdicts) if any(verdict.value is not None for verdict in verdicts) else [],
        skipped={report.TITLES[name]: why for name, why in result.skipped.items()},
        failures=result.failures,
        interrupted=result.interrupted,
    )
