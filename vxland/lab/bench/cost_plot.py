"""Costs by size of the cluster as a picture, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vxland.lab.bench.costs import MEASURES

SHOWN = ("change_ms", "change_cpu_ms", "storm_cpu_percent", "start_s", "rest_mib", "held_ms")


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a picture of results, as `cost_report.as_json` returns them: a panel for each measure, a line per store."""
    import matplotlib as mpl  # noqa: PLC0415  (an extra that takes a second to load)
    from matplotlib import pyplot as plt  # noqa: PLC0415  (as above)

    mpl.rcdefaults()  # ignores a matplotlibrc in the current directory
    mpl.use("Agg")
    ticks = sorted({size["leases"] for result in results for size in result["sizes"]})
    shown = [each for each in MEASURES if each.key in SHOWN]
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5))
    for axis, each in zip(axes.flat, shown, strict=True):
        for result in results:
            sizes = [size for size in result["sizes"] if each.key in size["measures"]]
            leases = [size["leases"] for size in sizes]
            axis.plot(leases, [size["measures"][each.key] for size in sizes], "o-", label=result["store"])
        if each.floor is not None:
            axis.plot([5_000], [each.floor], "_", color="#cf222e", markersize=18, label="floor, 5,000 in etcd")
        axis.set_title(f"{each.title}, {each.unit}", loc="left", fontsize=10)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("leases")
        axis.set_xticks(ticks, [f"{leases:,}" for leases in ticks])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
