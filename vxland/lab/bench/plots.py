"""The result as pictures, one per wire, by matplotlib: see `panels`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vxland.lab.bench.panels import Panel, panels
from vxland.lab.bench.rounds import Result
from vxland.lab.bench.wires import TITLES

COLOURS = {"vxland": "#1f6feb", "baseline": "#57606a", "other": "#c0c7d0"}


def draw(result: Result, directory: Path) -> list[Path]:
    """Write `bench-<wire>.png` for each wire that has trials; return their paths."""
    import matplotlib as mpl  # noqa: PLC0415  (an extra that takes a second to load)
    from matplotlib import pyplot as plt  # noqa: PLC0415  (as above)

    mpl.rcdefaults()  # ignores a matplotlibrc in the current directory
    mpl.use("Agg")
    paths = []
    for wire in result.options.wires:
        shown = panels(result, wire)
        if not shown:
            continue
        rows = -(-len(shown) // 3)
        size = (15, 1 + rows * (1 + 0.35 * len(shown[0].bars)))
        figure, axes = plt.subplots(rows, 3, figsize=size, squeeze=False, sharey=True)
        for axis, panel in zip(axes.flat, shown, strict=False):
            _panel(axis, panel)
        for axis in axes.flat[len(shown) :]:
            axis.axis("off")
        figure.suptitle(f"{TITLES[wire]}: medians, a dot per round, ratio to the kernel's vxlan in brackets")
        figure.tight_layout()
        paths.append(directory / f"bench-{wire}.png")
        figure.savefig(paths[-1], dpi=110)
        plt.close(figure)
    return paths


def _panel(axis: Any, panel: Panel) -> None:  # noqa: ANN401  (untyped)
    bars = panel.bars
    rows = range(len(bars))
    axis.barh(rows, [bar.middle for bar in bars], color=[COLOURS[bar.role] for bar in bars], height=0.7)
    for row, bar in enumerate(bars):
        axis.plot(bar.rounds, [row] * len(bar.rounds), "k.", markersize=3)
        axis.annotate(bar.label, (bar.most, row), (4, 0), textcoords="offset points", va="center")
    axis.set_yticks(rows, [bar.title for bar in bars])
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.set_xlim(0, 1.5 * panel.most)
    axis.set_title(panel.title, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
