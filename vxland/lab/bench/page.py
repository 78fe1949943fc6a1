"""bench.html: the plots and tables of a result as a page."""

from __future__ import annotations

from vxland.lab.bench import report
from vxland.lab.bench.panels import panels
from vxland.lab.bench.rounds import Result
from vxland.lab.bench.summary import judge
from vxland.lab.page import document


def render(result: Result) -> str:
    """Return the page."""
    verdicts = judge(result.trials, result.options.mtus[0], result.once)
    return document.render(
        "bench.html.jinja",
        circumstances=report.circumstances(result),
        mtus=[(mtu, panels(result, mtu), report.table(result, mtu)) for mtu in result.options.mtus],
        targets=report.target_table(verdicts) if any(verdict.value is not None for verdict in verdicts) else [],
        skipped={report.TITLES[name]: why for name, why in result.skipped.items()},
        failures=result.failures,
        interrupted=result.interrupted,
    )
