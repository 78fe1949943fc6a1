"""Write the figures of `vxland bench --leases` into the documentation.

    sudo .venv/bin/vxland bench --leases                # vxland-bench/leases-etcd.json
    sudo KUBEBUILDER_ASSETS=... .venv/bin/vxland bench --leases --store kube
    .venv/bin/python tools/scale.py vxland-bench/leases-etcd.json vxland-bench/leases-kube.json

docs/images/scale.png is drawn from all of them. Tables stand between `<!-- NAME -->` and `<!-- end -->`: in
docs/performance.md the results, in docs/scale.md what follows from them for larger clusters.
"""
# ruff: noqa: INP001  (a script, not a package)

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from vxland.lab.bench import cost_plot, cost_report
from vxland.lab.bench.costs import Costs, Result, Storm, Work

DOCS: Final = Path(__file__).parents[1] / "docs"
NODES: Final = (5_000, 20_000, 100_000)
DAY_S: Final = 86_400
CHANGES_A_DAY: Final = 2
"""Changes of each node's lease in a day, for the example: each is replaced once, so one lease goes and one comes."""
BEAT_S: Final = 300
"""Seconds between two writes of a kubelet to its Node without a change: nodeStatusReportFrequency."""
ROUTE_BYTES: Final = 1024
"""Memory in the kernel of one route and one neighbour; measured by slabs of Linux 6.18, docs/scale.md."""


def read(found: dict[str, Any]) -> Result:
    """Return the result of which `as_json` made this object."""
    sizes = []
    for size in found["sizes"]:
        known = {key: value for key, value in size.items() if key != "measures"}
        sizes.append(Costs(**known | {"work": Work(**size["work"]), "storm": Storm(**size["storm"])}))
    return Result(found["store"], found["alone_mib"], sizes, found["failures"])


def model(etcd: Result, kube: Result | None) -> list[list[str]]:
    """Return what a node, the store and the network carry, for each of NODES.

    What grows with the number of leases follows the line between the first and the last size.
    """
    first, last = etcd.sizes[0], etcd.sizes[-1]

    def line(small: float, large: float, nodes: int) -> float:
        slope = (large - small) / (last.leases - first.leases) if last is not first else large / last.leases
        return large + slope * (nodes - last.leases)

    def row(title: str, *values: str) -> list[str]:
        return [title, *values]

    rates = [nodes * CHANGES_A_DAY / DAY_S for nodes in NODES]
    change_cpu, change_bytes = last.change_cpu_ms, last.work.received_bytes
    rows = [
        row("nodes", *(f"{nodes:,}" for nodes in NODES)),
        row("**a node**", *("" for _ in NODES)),
        row("memory of vxland, MiB", *(f"{line(first.rest_mib, last.rest_mib, n):,.0f}" for n in NODES)),
        row("memory of the kernel's routes and neighbours, MiB", *(f"{n * ROUTE_BYTES / 2**20:,.0f}" for n in NODES)),
        row("start, s of CPU", *(f"{line(first.start_cpu_s, last.start_cpu_s, n):,.1f}" for n in NODES)),
        row("list at the start, etcd, MB", *(f"{line(first.start_bytes, last.start_bytes, n) / 1e6:,.1f}" for n in NODES)),
        row("changes a second", *(f"{rate:.2g}" for rate in rates)),
        row("CPU for them, etcd, of one", *(f"{rate * change_cpu / 10:.2g} %" for rate in rates)),
        row("received for them, etcd, bytes/s", *(f"{rate * change_bytes:,.0f}" for rate in rates)),
        row("**etcd**", *("" for _ in NODES)),
        row("events sent a second", *(f"{rate * n:,.0f}" for n, rate in zip(NODES, rates, strict=True))),
        row(
            "sent for them, MB/s",
            *(f"{rate * n * change_bytes / 1e6:,.1f}" for n, rate in zip(NODES, rates, strict=True)),
        ),
        row("renewals of leases a second", *(f"{n / DAY_S:.2g}" for n in NODES)),
        row(
            "sent if all nodes start at once, GB",
            *(f"{n * line(first.start_bytes, last.start_bytes, n) / 1e9:,.0f}" for n in NODES),
        ),
    ]
    if kube is None:
        return rows
    size = kube.sizes[-1]
    beats = [nodes / BEAT_S for nodes in NODES]
    beat_cpu, beat_bytes = size.beat_cpu_ms or 0.0, size.beat_bytes or 0.0
    a_node = size.start_bytes / size.leases
    return [
        *rows,
        row("**Kubernetes, a node**", *("" for _ in NODES)),
        row("list at the start, MB", *(f"{n * a_node / 1e6:,.0f}" for n in NODES)),
        row("writes of kubelets a second", *(f"{beat:,.0f}" for beat in beats)),
        row("CPU for them, of one", *(f"{beat * beat_cpu / 10:,.1f} %" for beat in beats)),
        row("received for them, MB/s", *(f"{beat * beat_bytes / 1e6:,.2f}" for beat in beats)),
        row("**API servers, together**", *("" for _ in NODES)),
        row(
            "sent for writes of kubelets, GB/s",
            *(f"{n * beat * beat_bytes / 1e9:,.1f}" for n, beat in zip(NODES, beats, strict=True)),
        ),
        row("sent if all nodes start at once, GB", *(f"{n * n * a_node / 1e9:,.0f}" for n in NODES)),
    ]


def fill(path: Path, name: str, rows: list[list[str]]) -> None:
    """Replace the table NAME of a page."""
    table = "\n".join(cost_report.markdown_table(rows))
    marks = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    text, count = marks.subn(lambda match: f"{match[1]}\n{table}\n{match[2]}", path.read_text())
    if count != 1:
        sys.exit(f"{path} has no place <!-- {name} --> ... <!-- end -->")
    path.write_text(text)


def main() -> None:
    """Fill in all tables for the files that the command line names, and draw the picture."""
    found = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    results = {each["store"]: read(each) for each in found}
    if "etcd" not in results:
        sys.exit(__doc__)
    for store, result in results.items():
        fill(DOCS / "performance.md", f"leases-{store}", cost_report.table(result))
    fill(DOCS / "scale.md", "scale", model(results["etcd"], results.get("kube")))
    cost_plot.draw(found, DOCS / "images" / "scale.png")


if __name__ == "__main__":
    main()
