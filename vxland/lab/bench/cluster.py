"""`vxland bench --leases`: one vxland in a cluster of thousands of nodes, whose leases are in a real store.

node 1: vxland flanneld ── etcd, or kube-apiserver over etcd: node 2. The other nodes are leases only. Each number of
leases is a trial (cluster_trial.py); this module runs them, prints and writes the result.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from vxland.lab import kube, shell
from vxland.lab.bench import cost_plot, cost_report
from vxland.lab.bench.cluster_trial import FULL, QUICK, ClusterPlan, Show, Trial
from vxland.lab.bench.costs import Result, StoreKind
from vxland.lab.bench.output import prepare
from vxland.lab.host import describe
from vxland.lab.namespaces import remove, sweep
from vxland.lab.signals import ignore_signals, interruptible
from vxland.model.errors import StartError

SIZES: Final[dict[StoreKind, tuple[int, ...]]] = {"etcd": (1_000, 5_000, 20_000), "kube": (1_000,)}
"""Numbers of leases if none are given."""

PACKAGES: Final[dict[StoreKind, dict[str, str]]] = {
    "etcd": {"etcd": "etcd-server", "iptables-restore": "iptables"},
    "kube": {"openssl": "openssl", "iptables-restore": "iptables"},
}
WIDTH: Final = 110  # of the table


def run(sizes: Sequence[int], store: StoreKind, output: Path, *, quick: bool, json_wanted: bool) -> int:
    """Measure, print and write; 0 if all was measured, else 1. StartError if it cannot start."""
    shell.require(("vxland",), "the benchmark", PACKAGES[store])
    if store == "kube":
        kube.assets()
    prepare(output)
    notes = Console(stderr=True, soft_wrap=True)
    result, machine = Result(store), {"date": time.strftime("%Y-%m-%d"), **describe()}
    with interruptible():
        try:
            sweep()
            with notes.status("building") as status:
                show = status.update if notes.is_terminal else notes.print
                _measure(result, sorted(set(sizes) or SIZES[store]), QUICK if quick else FULL, show)
        except KeyboardInterrupt:
            result.interrupted = True
            notes.print("interrupted; everything that the benchmark made is removed")
        except StartError as exc:
            result.failures.append(str(exc))
            notes.print(f"vxland: {exc}", markup=False, highlight=False)
        finally:
            with suppress(KeyboardInterrupt):
                ignore_signals()
            remove(os.getpid())  # each trial removes its own lab; this removes that of an interrupted one
    if result.sizes:
        _report(result, machine, output, notes, json_wanted=json_wanted)
    return 1 if result.interrupted or result.failures else 0


def _report(result: Result, machine: Mapping[str, object], output: Path, notes: Console, *, json_wanted: bool) -> None:
    found = cost_report.as_json(result, machine)
    if json_wanted:
        print(json.dumps(found, indent=2))
    else:
        Console(width=max(Console().width, WIDTH)).print(_shown(cost_report.table(result)))
    base = output / f"leases-{result.store}"
    paths = [base.with_suffix(".json"), base.with_suffix(".md")]
    try:
        paths[0].write_text(json.dumps(found, indent=2) + "\n")
        paths[1].write_text(cost_report.markdown(result, machine))
        if result.grown:
            paths.append(base.with_suffix(".png"))
            cost_plot.draw([found], paths[-1])
    except ImportError:
        notes.print("no picture: matplotlib is missing; pip install 'vxland[plots]'", markup=False)
        del paths[-1]
    notes.print(f"written: {', '.join(map(str, paths))}", markup=False, highlight=False)


def _shown(rows: list[list[str]]) -> Table:
    head, *others = rows
    made = Table(box=None, padding=(0, 2, 0, 0))
    for title in head:
        made.add_column(title, justify="right" if made.columns else "left")
    for row in others:
        made.add_row(*row)
    return made


def _measure(result: Result, sizes: Sequence[int], plan: ClusterPlan, show: Show) -> None:
    if plan.alone:
        with closing(Trial(result.store, 1, show)) as trial:
            trial.start()
            result.alone_mib = trial.memory(plan)
    for leases in sizes:
        with closing(Trial(result.store, leases, show)) as trial:
            result.sizes.append(trial.costs(plan))
