"""`vxland bench --leases`: one vxland in a cluster of thousands of nodes, whose leases are in a real etcd.

node 1: vxland flanneld ── etcd: node 2. The other nodes are leases only. Four measurements, in this order: time from
the start of the process until every lease is in the kernel; cost when nothing changes; delay until one changed MAC is
in the kernel's neighbour table; and a storm of changes, after which the kernel must agree with the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from statistics import median

from rich.console import Console
from rich.table import Table

from vxland.lab import etcd, shell, vtep
from vxland.lab.bench import resources
from vxland.lab.bench.population import NeighbourWatch, Population, expected, programmed
from vxland.lab.bench.subjects import memory_pids
from vxland.lab.etcd import EtcdServer, Operation
from vxland.lab.host import describe
from vxland.lab.namespaces import Lab, sweep
from vxland.lab.signals import ignore_signals, interruptible
from vxland.lab.topology import NODES
from vxland.model.errors import StartError

NETWORK, SUBNET_LEN = IPv4Network("10.0.0.0/8"), 24
TARGETS = {"start_s": 10.0, "change_ms": 200.0, "memory_mib": 100.0}
START_S, CHANGE_S, CATCH_UP_S = 120.0, 10.0, 60.0  # timeouts
IDLE_S, BUSY_S = 0.5, 10.0  # vxland's idle time before a single change, and its timeout
LOOK_S = 0.2  # between reads of the kernel's tables: one takes 50 ms of a CPU for 5,000 routes
STORM_RATE = 500  # changes a second
STAGES = 4  # each node in the storm: new MAC, leave, return with a new MAC, new MAC
PACKAGES = {"etcd": "etcd-server", "iptables-restore": "iptables"}


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Durations of the measurements."""

    settle_s: float = 6.0  # before the rest: vxland compares all leases 5 s after a change
    rest_s: float = 10.0
    changes: int = 20
    storm_s: float = 10.0


FULL, QUICK = ClusterPlan(), ClusterPlan(settle_s=0.0, rest_s=1.0, changes=5, storm_s=1.0)


@dataclass(frozen=True, slots=True)
class Storm:
    """A storm of changes, and its cost. `caught_up_s` after the last one the kernel agreed with the store."""

    changes: int
    rate: float
    cpu_percent: float
    caught_up_s: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class ClusterResult:
    """The results. CPU percentages are of one CPU."""

    leases: int
    start_s: float
    start_cpu_s: float
    rest_cpu_percent: float
    rest_mib: float
    change_ms: list[float]
    change_cpu_ms: float
    storm: Storm


def run(leases: int, *, quick: bool, json_wanted: bool) -> int:
    """Measure and print; 0 if all was measured, else 1. StartError if it cannot start or vxland does not follow."""
    shell.require(("vxland",), "the benchmark", PACKAGES)
    notes = Console(stderr=True, soft_wrap=True)
    lab = Lab()
    with interruptible():
        try:
            sweep()
            with notes.status("building") as status:
                show = status.update if notes.is_terminal else notes.print
                result = _measure(lab, leases, QUICK if quick else FULL, show)
        except KeyboardInterrupt:
            notes.print("interrupted; everything that the benchmark made is removed")
            return 1
        finally:
            with suppress(KeyboardInterrupt):
                ignore_signals()
            lab.remove()
    if json_wanted:
        print(json.dumps({**asdict(result), "targets": TARGETS, "machine": describe()}, indent=2))
    else:
        Console().print(table(result))
    return 0


def _measure(lab: Lab, leases: int, plan: ClusterPlan, show: Callable[[str], None]) -> ClusterResult:
    here, there = NODES
    lab.build()
    with closing(EtcdServer(lab, there)) as store:
        show(f"writing {leases:,} leases")
        store.put(etcd.CONFIG_KEY, etcd.network_config(NETWORK, SubnetLen=SUBNET_LEN))
        population = Population(leases)
        population.settle(store)
        show("starting vxland")
        begun = time.monotonic()
        vtep.start_flanneld(lab, here, store.url, pure=False)
        start_s = _agree(lab, store, START_S) - begun
        pids = memory_pids(lab, here)
        start_cpu_s = resources.cpu_s(pids)
        show(f"at rest for {plan.rest_s:.0f} s")
        time.sleep(plan.settle_s)
        cpu_percent = _at_rest(pids, plan.rest_s)
        rss_mib = resources.rss_mib(pids)
        show(f"{plan.changes} single changes")
        before = resources.cpu_s(pids)
        change_ms = _changes(lab, store, population, leases, plan.changes)
        change_cpu_ms = (resources.cpu_s(pids) - before) * 1000 / plan.changes
        show(f"{STORM_RATE} changes a second for {plan.storm_s:.0f} s")
        storm = _storm(lab, store, population, leases, plan.storm_s)
    return ClusterResult(leases, start_s, start_cpu_s, cpu_percent, rss_mib, change_ms, change_cpu_ms, storm)


def _at_rest(pids: list[int], seconds: float) -> float:
    begun, before = time.monotonic(), resources.cpu_s(pids)
    time.sleep(seconds)
    return _percent(resources.cpu_s(pids) - before, time.monotonic() - begun)


def _changes(lab: Lab, store: EtcdServer, population: Population, leases: int, count: int) -> list[float]:
    """Return, for each single change, the milliseconds from before the write to the kernel's notification."""
    taken = []
    with NeighbourWatch(lab, NODES[0]) as watch:
        for change in range(count):
            _await_idle(memory_pids(lab, NODES[0]))
            number = change * 7919 % leases  # a prime, so that changes are spread over the table
            renewal = population.renewal(number)
            begun = time.monotonic()
            store.commit([renewal])
            watch.wait(population.mac(number), CHANGE_S)
            taken.append((time.monotonic() - begun) * 1000)
    return taken


def _await_idle(pids: list[int]) -> None:
    """Return once vxland is idle after a change, or after BUSY_S in any case."""
    end = time.monotonic() + BUSY_S
    used = None
    while used != (used := resources.cpu_s(pids)) and time.monotonic() < end:
        time.sleep(IDLE_S)


def _storm(lab: Lab, store: EtcdServer, population: Population, leases: int, seconds: float) -> Storm:
    pids = memory_pids(lab, NODES[0])
    changes = round(STORM_RATE * seconds)
    hit = max(1, min(leases, changes // STAGES))
    most = min(hit, etcd.MAX_OPERATIONS)
    begun, before = time.monotonic(), resources.cpu_s(pids)
    done = 0
    while done < changes:
        time.sleep(max(0.0, begun + done / STORM_RATE - time.monotonic()))
        due = int((time.monotonic() - begun) * STORM_RATE) + 1  # one, unless this process was delayed
        some = range(done, min(due, changes, done + most))
        store.commit([_change(population, number, hit, last=number + hit >= changes) for number in some])
        done = some.stop
    ended, after = time.monotonic(), resources.cpu_s(pids)
    return Storm(
        changes=changes,
        rate=changes / (ended - begun),
        cpu_percent=_percent(after - before, ended - begun),
        caught_up_s=_agree(lab, store, CATCH_UP_S) - ended,
        peak_mib=resources.rss_mib(pids, peak=True),
    )


def _change(population: Population, change: int, hit: int, *, last: bool) -> Operation:
    """Return the storm's change of this number, on one of `hit` nodes; `last`: that node's last change."""
    stage, node = divmod(change, hit)
    leaves = stage % STAGES == 1 and not last  # a node that leaves must return
    return population.departure(node) if leaves else population.renewal(node)


def _agree(lab: Lab, store: EtcdServer, timeout_s: float) -> float:
    """Return the time when the kernel agreed with the store. StartError if it does not within `timeout_s`."""
    here = NODES[0]
    want = expected(store.list(etcd.LEASES), here.underlay)
    end = time.monotonic() + timeout_s
    while (have := programmed(lab, here)) != want:
        if lab.processes[here.namespace].poll() is not None:
            raise StartError("vxland ended", f"its last log lines:\n{lab.log_tail(here.namespace, vtep.LOG_TAIL)}")
        if time.monotonic() > end:
            differing = len(dict(want.items() ^ have.items()))
            raise StartError(
                f"{differing} of {len(want)} subnets differ from etcd after {timeout_s:.0f} s", "try fewer leases"
            )
        time.sleep(LOOK_S)
    return time.monotonic()


def _percent(cpu_s: float, seconds: float) -> float:
    return 100 * cpu_s / seconds


def table(result: ClusterResult) -> Table:
    """Return the results next to their targets."""
    found = Table(box=None, padding=(0, 2, 0, 0))
    for title in (f"vxland among {result.leases:,} leases", "measured", "target"):
        found.add_column(title, justify="left" if found.row_count == 0 and not found.columns else "right")
    for row in rows(result):
        found.add_row(*row)
    return found


def rows(result: ClusterResult) -> list[tuple[str, str, str]]:
    """Return the table's rows: measure, value, target."""
    start, change, memory = (f"{value:.0f}" for value in TARGETS.values())
    storm = result.storm
    return [
        ("start until all are in the kernel", f"{result.start_s:.1f} s", f"under {start} s"),
        ("CPU time of the start", f"{result.start_cpu_s:.1f} s", ""),
        ("one changed MAC, median", f"{median(result.change_ms):.0f} ms", f"under {change} ms"),
        (f"one changed MAC, worst of {len(result.change_ms)}", f"{max(result.change_ms):.0f} ms", f"under {change} ms"),
        ("CPU time of each change", f"{result.change_cpu_ms:.0f} ms", ""),
        ("CPU at rest", f"{result.rest_cpu_percent:.1f} %", ""),
        ("memory at rest", f"{result.rest_mib:.0f} MiB", f"under {memory} MiB"),
        (f"{storm.changes:,} changes: rate a second", f"{storm.rate:.0f}", ""),
        ("CPU during the changes", f"{storm.cpu_percent:.0f} %", ""),
        ("peak memory", f"{storm.peak_mib:.0f} MiB", f"under {memory} MiB"),
        ("kernel agrees with etcd after the last one", f"{storm.caught_up_s:.2f} s", ""),
    ]
