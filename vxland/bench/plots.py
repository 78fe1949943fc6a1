"""The result as pictures, one a MTU: a panel for each measure, a bar for each subject, a dot for each round."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vxland.bench.report import TITLES, measured
from vxland.bench.rounds import Result
from vxland.bench.subjects import BASELINE
from vxland.bench.summary import COMPILED, MEASURES, Measure, ratio, value

PANELS = (
    "tcp1_gbit_s",
    "tcp8_gbit_s",
    "tcp1_cpu_s_per_gb",
    "flood_pps",
    "lossless_pps",
    "rr_p50_us",
)
HIGHLIGHT, BASE, OTHER = "#1f6feb", "#57606a", "#c0c7d0"


def missing() -> str:
    """What keeps plots from being drawn; empty when nothing."""
    return "" if find_spec("matplotlib") else "no plots without matplotlib: pip install 'vxland[bench]'"


def draw(result: Result, directory: Path) -> list[Path]:
    """Write `bench-<mtu>.png` for each MTU that has turns; returns their paths."""
    import matplotlib as mpl  # noqa: PLC0415  an extra, which takes a second to load
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.use("Agg")
    paths = []
    for mtu in result.options.mtus:
        names = measured(result, mtu)
        shown = [one for one in MEASURES if one.key in PANELS and _is_measured(result, mtu, names, one)]
        if not shown:
            continue
        rows = -(-len(shown) // 3)
        figure, axes = plt.subplots(
            rows, 3, figsize=(15, 1 + rows * (1 + 0.35 * len(names))), squeeze=False, sharey=True
        )
        for axis, one in zip(axes.flat, shown, strict=False):
            _panel(axis, result, mtu, names, one)
        for axis in axes.flat[len(shown) :]:
            axis.axis("off")
        figure.suptitle(f"underlay MTU {mtu}: medians, dots for rounds, in brackets the ratio to the kernel's vxlan")
        figure.tight_layout()
        paths.append(directory / f"bench-{mtu}.png")
        figure.savefig(paths[-1], dpi=110)
        plt.close(figure)
    return paths


def _is_measured(result: Result, mtu: int, names: list[str], one: Measure) -> bool:
    return any(value(result.turns, mtu, name, one.key) is not None for name in names)


def _panel(axis: Any, result: Result, mtu: int, names: list[str], one: Measure) -> None:  # noqa: ANN401
    middles = [(value(result.turns, mtu, name, one.key) or 0.0) * one.scale for name in names]
    colours = [{COMPILED: HIGHLIGHT, BASELINE: BASE}.get(name, OTHER) for name in names]
    axis.barh(range(len(names)), middles, color=colours, height=0.7)
    for row, name in enumerate(names):
        rounds = [
            turn.measures[one.key] * one.scale
            for turn in result.turns
            if (turn.mtu, turn.subject) == (mtu, name) and one.key in turn.measures
        ]
        axis.plot(rounds, [row] * len(rounds), "k.", markersize=3)
        to_kernel = ratio(result.turns, mtu, one.key, name, BASELINE)
        bracket = "" if to_kernel is None or name == BASELINE else f" ({to_kernel:.2f})"
        at = max([middles[row], *rounds])
        axis.annotate(
            f"{middles[row]:.{one.digits}f}{bracket}", (at, row), (4, 0), textcoords="offset points", va="center"
        )
    axis.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1.5 * max([*middles, 1e-9]))
    axis.set_title(one.title, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
