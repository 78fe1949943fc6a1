"""Write the figures of `vxland bench --leases` into the documentation.

    sudo .venv/bin/vxland bench --leases                # vxland-bench/leases-etcd.json
    sudo KUBEBUILDER_ASSETS=... .venv/bin/vxland bench --leases --store kube
    .venv/bin/python tools/scale.py vxland-bench/leases-etcd.json vxland-bench/leases-kube.json

docs/images/scale.png is drawn from all of them. Tables stand between `<!-- NAME -->` and `<!-- end -->`: in
docs/performance.md the results, in docs/scale.md what follows from them for larger clusters.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
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
    """Return what a node, the store and the network carry, for each of NODES."""
    rows = [["nodes", *(f"{nodes:,}" for nodes in NODES)]]

    def add(title: str, value: Callable[[int], float] | None = None, form: str = ",.0f") -> None:
        rows.append([title, *("" if value is None else f"{value(nodes):{form}}" for nodes in NODES)])

    last = etcd.sizes[-1]
    received = last.work.received_bytes
    start_bytes = line(etcd, lambda costs: costs.start_bytes)
    add("**a node**")
    add("memory of vxland, MiB", line(etcd, lambda costs: costs.rest_mib))
    add("memory of the kernel's routes and neighbours, MiB", lambda nodes: nodes * ROUTE_BYTES / 2**20)
    add("start, s of CPU", line(etcd, lambda costs: costs.start_cpu_s), ",.1f")
    add("list at the start, MB", lambda nodes: start_bytes(nodes) / 1e6)
    add("changes a second", rate, ".2g")
    add("CPU for them, % of one", lambda nodes: rate(nodes) * last.change_cpu_ms / 10, ",.2f")
    add("received for them, bytes/s", lambda nodes: rate(nodes) * received)
    add("**etcd**")
    add("events sent a second", lambda nodes: nodes * rate(nodes))
    add("sent for them, MB/s", lambda nodes: nodes * rate(nodes) * received / 1e6, ",.1f")
    add("renewals of leases a second", lambda nodes: nodes / DAY_S, ".2g")
    add("sent if all nodes start at once, GB", lambda nodes: nodes * start_bytes(nodes) / 1e9)
    if kube is not None:
        size = kube.sizes[-1]
        beat_cpu_ms, beat_bytes, node_bytes = (
            size.beat_cpu_ms or 0,
            size.beat_bytes or 0,
            size.start_bytes / size.leases,
        )
        add("**a node, with Kubernetes**")
        add("list at the start, MB", lambda nodes: nodes * node_bytes / 1e6)
        add("writes of kubelets a second", lambda nodes: nodes / BEAT_S)
        add("CPU for them, % of one", lambda nodes: nodes / BEAT_S * beat_cpu_ms / 10, ",.1f")
        add("received for them, MB/s", lambda nodes: nodes / BEAT_S * beat_bytes / 1e6, ",.2f")
        add("**API servers, together**")
        add("sent for writes of kubelets, GB/s", lambda nodes: nodes * nodes / BEAT_S * beat_bytes / 1e9, ",.1f")
        add("sent if all nodes start at once, GB", lambda nodes: nodes * nodes * node_bytes / 1e9)
    return rows


def rate(nodes: int) -> float:
    """Return the changes a second of the example."""
    return nodes * CHANGES_A_DAY / DAY_S


def line(result: Result, value: Callable[[Costs], float]) -> Callable[[int], float]:
    """Return the line through a value of the smallest and the largest size."""
    first, last = result.sizes[0], result.sizes[-1]
    slope = (value(last) - value(first)) / max(last.leases - first.leases, 1)
    return lambda nodes: value(last) + slope * (nodes - last.leases)


def fill(path: Path, name: str, text: str) -> None:
    """Replace what stands at NAME on a page."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    page, count = marks.subn(lambda match: f"{match[1]}\n{text.strip()}\n\n{match[2]}", path.read_text())
    if count != 1:
        sys.exit(f"{path} has no place <!-- {name} --> ... <!-- end -->")
    path.write_text(page)


def main() -> None:
    """Fill in all tables for the files that the command line names, and draw the picture."""
    found = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    results = {each["store"]: read(each) for each in found}
    if "etcd" not in results:
        sys.exit(__doc__)
    for each in found:
        result = results[each["store"]]
        fill(DOCS / "performance.md", f"leases-{result.store}", cost_report.markdown(result, each["machine"]))
    table = cost_report.markdown_table(model(results["etcd"], results.get("kube")))
    fill(DOCS / "scale.md", "scale", "\n".join(table))
    cost_plot.draw(found, DOCS / "images" / "scale.png")


if __name__ == "__main__":
    main()
