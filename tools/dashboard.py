#!/usr/bin/env python3
"""Draw deploy/grafana/dashboards/vxland.json with the last minutes of a real Prometheus.

For documentation, without Grafana: sends each panel's own queries to Prometheus, and draws the answers with matplotlib
in the dashboard's grid. The picture resembles Grafana's; queries, titles, units and places are those of the file.

    .venv/bin/python tools/dashboard.py --prometheus http://127.0.0.1:9090 --minutes 5 --output dashboard.png
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

DASHBOARD: Final = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards" / "vxland.json"
RATE_INTERVAL: Final = "20s"  # as in Grafana for scrapes every 5 s: four of them
STEP_S: Final = 5
UNITS: Final = {"bps": "bit/s", "pps": "/s", "ops": "/s", "s": " s", "percentunit": "", "short": ""}
DAY_S: Final = 86400
WIDE, LONG_NAME = 0.4, 25  # of the width; characters: limits for four columns of legend
BACK, PANEL, TEXT, GRID = "#f4f5f5", "#ffffff", "#24292e", "#e3e5e8"

Series = tuple[str, list[tuple[float, float]]]  # name; times in seconds since 1970, and values


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the file. `grid` is x, y, width, height in Grafana's 24 columns."""

    title: str
    kind: str
    unit: str
    grid: tuple[int, int, int, int]
    queries: tuple[tuple[str, str], ...]
    """Expression with its variables replaced, and the names of its series."""


def panels(dashboard: dict[str, Any]) -> Iterator[Panel]:
    """Yield the dashboard's panels, for all nodes."""
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        yield Panel(
            panel["title"],
            panel["type"],
            panel["fieldConfig"]["defaults"]["unit"],
            (place["x"], place["y"], place["w"], place["h"]),
            tuple((resolved(target["expr"]), target["legendFormat"]) for target in panel["targets"]),
        )


def resolved(expression: str) -> str:
    """Return the expression with Grafana's variables replaced. ValueError for one that the dashboard does not have."""
    for name, value in (("$__rate_interval", RATE_INTERVAL), ("$node", ".+")):
        expression = expression.replace(name, value)
    if "$" in expression:
        raise ValueError(f"{expression}: an undefined variable")
    return expression


def ask(url: str, query: str, minutes: float, names: str = "") -> list[Series]:
    """Return Prometheus's answer, a value each STEP_S; OSError, with its message, if it refuses the query."""
    now = time.time()
    words = urlencode({"query": query, "start": now - 60 * minutes, "end": now, "step": STEP_S})
    with urlopen(f"{url}/api/v1/query_range?{words}", timeout=30) as answer:  # noqa: S310  (the caller's own URL)
        found = json.load(answer)["data"]["result"]
    return [
        (
            re.sub(r"{{(\w+)}}", lambda match: one["metric"].get(match[1], ""), names),  # noqa: B023  (called at once)
            [(at, float(value)) for at, value in one["values"]],
        )
        for one in found
    ]


def readable(value: float, unit: str) -> str:
    """Return the value with its unit, in thousands, millions or thousand millions."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}{UNITS[unit].strip()}"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g}{' ' if unit == 'bps' else ''}{UNITS[unit]}"


def draw(dashboard: dict[str, Any], url: str, minutes: float, output: Path) -> None:
    """Send all queries and write the picture."""
    import matplotlib as mpl  # noqa: PLC0415  (half a second of CPU time, of which the tests of this file need nothing)
    from matplotlib import pyplot as plt  # noqa: PLC0415  (as above)

    mpl.use("Agg")
    plt.rcParams.update({"font.size": 8, "text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT})
    all_panels = list(panels(dashboard))
    height = max(panel.grid[1] + panel.grid[3] for panel in all_panels)
    figure = plt.figure(figsize=(14, 0.27 * height), facecolor=BACK)
    for panel in all_panels:
        x, y, w, h = panel.grid
        edge = 0.004
        box = (x / 24 + edge, 1 - (y + h) / height + edge, w / 24 - 2 * edge, h / height - 2 * edge)
        figure.add_artist(plt.Rectangle(box[:2], box[2], box[3], color=PANEL, transform=figure.transFigure, zorder=-1))
        figure.text(box[0] + 0.006, box[1] + box[3] - 0.006, panel.title, weight="bold", va="top")
        answers = [series for query, names in panel.queries for series in ask(url, query, minutes, names)]
        {"stat": _stat, "timeseries": _chart}[panel.kind](figure, box, panel, answers)
    now = time.time()
    for axis in figure.axes:
        axis.set_xlim((now - 60 * minutes) / DAY_S, now / DAY_S)
    figure.savefig(output, dpi=84, facecolor=BACK)
    plt.close(figure)


def _stat(figure: Any, box: tuple[float, ...], panel: Panel, answers: list[Series]) -> None:  # noqa: ANN401  (untyped)
    for column, (name, points) in enumerate(answers):
        at = box[0] + box[2] * (column + 0.5) / len(answers)
        figure.text(at, box[1] + 0.42 * box[3], readable(points[-1][1], panel.unit), size=18, ha="center", va="center")
        figure.text(at, box[1] + 0.12 * box[3], name, ha="center", va="center")


def _chart(figure: Any, box: tuple[float, ...], panel: Panel, answers: list[Series]) -> None:  # noqa: ANN401  (untyped)
    from matplotlib import dates, ticker  # noqa: PLC0415  (as above)

    left, low = 0.045 / box[2], 0.32  # of the panel: space for numbers, and for two lines of legend
    place = (box[0] + left * box[2], box[1] + low * box[3], (0.97 - left) * box[2], (0.86 - low) * box[3])
    axis = figure.add_axes(place, facecolor=PANEL)
    for name, points in answers:
        times = [at / DAY_S for at, _ in points]
        values = [value for _, value in points]
        axis.plot(times, values, linewidth=1, label=name)
        axis.fill_between(times, values, alpha=0.08)
    highest = max([value for _, points in answers for _, value in points if isfinite(value)], default=0)
    axis.set_ylim(0, 1.1 * highest or 1)
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: readable(value, panel.unit)))
    axis.yaxis.set_major_locator(ticker.MaxNLocator(4))
    axis.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axis.xaxis.set_major_locator(dates.MinuteLocator())
    axis.grid(color=GRID, linewidth=0.7)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if answers:
        columns = 4 if box[2] > WIDE and max(len(name) for name, _ in answers) < LONG_NAME else 2
        axis.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=columns,
            frameon=False,
            fontsize=7,
            handlelength=1.2,
        )
    else:
        axis.text(0.5, 0.5, "No data", ha="center", va="center", transform=axis.transAxes)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its URL (%(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes to show (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("dashboard.png"), help="the picture (%(default)s)")
    args = parser.parse_args()
    draw(json.loads(DASHBOARD.read_text()), args.prometheus, args.minutes, args.output)


if __name__ == "__main__":
    main()
