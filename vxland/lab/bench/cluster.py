"""`vxland bench --leases`: one vxland in a cluster of thousands of nodes, whose leases are in a real store.

node 1: vxland flanneld ── etcd, or kube-apiserver over etcd: node 2. The other nodes are leases only. For each number
of leases, in a fresh lab: time from the start of the process until every lease is in the kernel; cost when nothing
changes; delay until one changed MAC is in the kernel's neighbour table, and the work for it as others count it; and a
storm of changes, after which the kernel must agree with the store.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from rich.console import Console
from rich.table import Table

from vxland.lab import kube, shell, vtep
from vxland.lab.bench import cost_plot, cost_report, resources
from vxland.lab.bench.costs import Costs, Result, StoreKind, Storm, Work
from vxland.lab.bench.kernel_watch import KernelWatch, programmed
from vxland.lab.bench.kube_leases import KubeLeases
from vxland.lab.bench.population import STAGES, Edit, Population
from vxland.lab.bench.scale import UNDERLAYS
from vxland.lab.bench.stores import EtcdLeases, LeaseStore
from vxland.lab.bench.subjects import memory_pids
from vxland.lab.host import describe
from vxland.lab.namespaces import Lab, remove, sweep
from vxland.lab.signals import ignore_signals, interruptible
from vxland.lab.topology import NODES, UNDERLAY
from vxland.model.errors import StartError

Show: TypeAlias = Callable[[str], None]

STORES: Final[dict[StoreKind, Callable[[Lab], LeaseStore]]] = {"etcd": EtcdLeases, "kube": KubeLeases}
SIZES: Final[dict[StoreKind, tuple[int, ...]]] = {"etcd": (1_000, 5_000, 20_000), "kube": (1_000,)}
"""Numbers of leases if none are given."""

PACKAGES: Final = {"etcd": "etcd-server", "iptables-restore": "iptables"}
HERE: Final = NODES[0]
START_S, CHANGE_S, CATCH_UP_S = 180.0, 20.0, 60.0  # timeouts
IDLE_S, IDLE_CPU_S, BUSY_S = 0.5, 0.005, 10.0  # vxland's rest before a single change; and the timeout of that
WIDTH: Final = 110  # of the table


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Durations of the measurements."""

    settle_s: float = 6.0  # before the rest: for what follows a change later
    rest_s: float = 10.0
    changes: int = 20
    beats: int = 100
    storm_s: float = 10.0
    alone: bool = True  # also with one lease, for its memory


FULL, QUICK = ClusterPlan(), ClusterPlan(settle_s=0.0, rest_s=1.0, changes=5, beats=5, storm_s=1.0, alone=False)


def run(sizes: Sequence[int], store: StoreKind, output: Path, *, quick: bool, json_wanted: bool) -> int:
    """Measure, print and write; 0 if all was measured, else 1. StartError if it cannot start."""
    shell.require(("vxland",), "the benchmark", PACKAGES if store == "etcd" else kube.PACKAGES)
    if store == "kube":
        kube.assets()
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
        console = Console()
        console.print(_shown(cost_report.table(result)), width=max(console.width, WIDTH))
    base = output / f"leases-{result.store}"
    paths = [base.with_suffix(".json"), base.with_suffix(".md")]
    try:
        output.mkdir(parents=True, exist_ok=True)
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


class Trial:
    """A fresh lab with a store of so many leases."""

    def __init__(self, store: StoreKind, leases: int, show: Show) -> None:
        self._lab = Lab()
        self._progress = show
        self._population = Population(leases)
        self._rest = 0.0  # CPU seconds in a second in which nothing changes: pings, timers
        try:
            self._show(f"starting {store}")
            self._lab.build()
            here, there = (self._lab.namespace(node) for node in NODES)
            shell.ip_batch(here, [f"route add default via {NODES[1].underlay}"])  # the nodes' addresses have a route,
            shell.ip_batch(there, [f"route add blackhole {UNDERLAYS}"])  # but nobody answers
            self._store = STORES[store](self._lab)
            self._show("writing them")
            edits = [Edit(lease) for lease in self._population.leases]
            for at in range(0, leases, self._store.most):
                self._store.commit(edits[at : at + self._store.most])
            self._watch = KernelWatch(self._lab, HERE)
        except BaseException:
            self._lab.remove()
            raise

    def close(self) -> None:
        """Remove everything."""
        self._watch.close()
        self._store.close()
        self._lab.remove()

    def start(self) -> tuple[float, int]:
        """Start vxland; return the seconds, and its requests to the store, until all leases were in the kernel."""
        want = self._store.expected()  # beforehand: it takes CPU time too
        asked = self._store.requests()
        socket = str(vtep.control_socket(self._lab, HERE))
        self._show("starting vxland")
        begun = time.monotonic()
        self._store.start_node(yaml.safe_dump({"control": {"socket": socket}}))
        taken = self._agree(want, START_S) - begun
        return taken, sum((self._store.requests() - asked).values())

    def memory(self, plan: ClusterPlan) -> float:
        """Return the resident memory at rest."""
        time.sleep(plan.settle_s)
        return resources.rss_mib(self._pids)

    def costs(self, plan: ClusterPlan) -> Costs:
        """Measure everything, from the start of vxland."""
        received = self._received()
        start_s, start_requests = self.start()
        start_cpu_s, start_bytes = resources.cpu_s(self._pids), self._received() - received
        held = self._held("start")
        self._show(f"at rest for {plan.rest_s:.0f} s")
        rest_mib = self.memory(plan)
        rest_cpu, rest_bytes = self._spent(lambda: time.sleep(plan.rest_s))
        self._rest = rest_cpu / plan.rest_s
        self._show(f"{plan.changes} single changes")
        change_ms, change_cpu, work = self._changes(plan.changes)
        held |= self._held("changes")
        beat_cpu, beat_bytes = self._beats(plan.beats)
        self._show(f"{self._store.storm_rate} changes a second for {plan.storm_s:.0f} s")
        storm = self._storm(plan.storm_s)
        return Costs(
            leases=len(self._population.leases),
            start_s=start_s,
            start_cpu_s=start_cpu_s,
            start_bytes=start_bytes,
            start_requests=start_requests,
            rest_cpu_percent=100 * self._rest,
            rest_bytes_s=rest_bytes / plan.rest_s,
            rest_mib=rest_mib,
            change_ms=change_ms,
            change_cpu_ms=change_cpu * 1000 / plan.changes,
            work=work,
            beat_cpu_ms=beat_cpu,
            beat_bytes=beat_bytes,
            storm=storm,
            peak_mib=resources.rss_mib(self._pids, peak=True),
            held_ms=held | self._held("storm"),
        )

    def _show(self, what: str) -> None:
        self._progress(f"{len(self._population.leases):,} leases: {what}")

    @property
    def _pids(self) -> list[int]:
        return memory_pids(self._lab, HERE)

    def _changes(self, count: int) -> tuple[list[float], float, Work]:
        """Return milliseconds from before each write to the kernel's event, the CPU seconds of all, and their work."""
        self._await_idle()
        self._watch.drain()
        before, asked, changes = self._counted(), self._store.requests(), self._watch.changes
        taken: list[float] = []

        def change() -> None:
            taken.extend(
                self._change(number * 7919 % len(self._population.leases)) for number in range(count)
            )  # spread

        cpu, received = self._spent(change)
        self._watch.drain()
        work = {key: (value - before[key]) / count for key, value in self._counted().items()}
        return (
            taken,
            cpu,
            Work(
                kernel_changes=(self._watch.changes - changes) / count,
                netlink_requests=work.get("requests"),
                kernel_reads=work.get("reads"),
                store_requests=sum((self._store.requests() - asked).values()) / count,
                received_bytes=received / count,
            ),
        )

    def _change(self, number: int) -> float:
        """Give a node another MAC; return the milliseconds until the kernel has it, once vxland rests again."""
        renewal = self._population.renewal(number)
        begun = time.monotonic()
        self._store.commit([renewal])
        self._watch.wait(self._population.mac(number), CHANGE_S)
        taken = (time.monotonic() - begun) * 1000
        self._await_idle()
        return taken

    def _beats(self, count: int) -> tuple[float | None, float | None]:
        """Return CPU milliseconds and bytes for each write that changes no lease."""
        if not self._store.beats:
            return None, None
        self._show(f"{count} entries written without a change")
        some = [self._population.leases[number % len(self._population.leases)] for number in range(count)]

        def write() -> None:
            for lease in some:
                self._store.beat(lease)
            self._await_idle()

        cpu, received = self._spent(write)
        return cpu * 1000 / count, received / count

    def _storm(self, seconds: float) -> Storm:
        rate = self._store.storm_rate
        changes = round(rate * seconds)
        hit = max(1, min(len(self._population.leases), changes // STAGES))
        most = min(hit, self._store.most)
        begun, before = time.monotonic(), resources.cpu_s(self._pids)
        done = 0
        while done < changes:
            time.sleep(max(0.0, begun + done / rate - time.monotonic()))
            due = int((time.monotonic() - begun) * rate) + 1  # one, unless this process was delayed
            some = range(done, min(due, changes, done + most))
            self._store.commit([self._population.storm(one, hit, last=one + hit >= changes) for one in some])
            done = some.stop
        ended, after = time.monotonic(), resources.cpu_s(self._pids)
        return Storm(
            changes=changes,
            rate=changes / (ended - begun),
            cpu_percent=100 * (after - before) / (ended - begun),
            caught_up_s=max(self._agree(self._store.expected(), CATCH_UP_S) - ended, 0.0),
        )

    def _agree(self, want: dict[str, str], timeout_s: float) -> float:
        """Return the time since when the kernel agrees with the store. StartError if that takes too long."""
        end = self._watch.settled(lambda: self._agrees(want), timeout_s)
        if end is None:
            differing = len(dict(want.items() ^ programmed(self._lab, HERE).items()))
            cause = f"{differing} of {len(want)} subnets differ from the store after {timeout_s:.0f} s"
            raise StartError(cause, "try fewer leases")
        return end

    def _agrees(self, want: dict[str, str]) -> bool:
        name = HERE.namespace
        if self._lab.processes[name].poll() is not None:
            raise StartError("vxland ended", f"its last log lines:\n{self._lab.log_tail(name, vtep.LOG_TAIL)}")
        return programmed(self._lab, HERE) == want

    def _await_idle(self) -> None:
        """Return once vxland rests after a change, or after BUSY_S in any case."""
        end = time.monotonic() + BUSY_S
        used = resources.cpu_s(self._pids)
        while time.monotonic() < end:
            time.sleep(IDLE_S)
            before, used = used, resources.cpu_s(self._pids)
            if used - before < self._rest * IDLE_S + IDLE_CPU_S:
                return

    def _spent(self, job: Callable[[], None]) -> tuple[float, int]:
        """Return vxland's CPU seconds for the job, without those of rest, and the bytes that reached the node."""
        begun, cpu, received = time.monotonic(), resources.cpu_s(self._pids), self._received()
        job()
        spent = resources.cpu_s(self._pids) - cpu - self._rest * (time.monotonic() - begun)
        return max(spent, 0.0), self._received() - received

    def _received(self) -> int:
        links = shell.run("ip", "-n", self._lab.namespace(HERE), "-json", "-stats", "link", "show", "dev", UNDERLAY)
        return int(json.loads(links)[0]["stats64"]["rx"]["bytes"])

    def _counted(self) -> Counter[str]:
        """Return vxland's own counters of netlink requests and of full reads, as far as it has them."""
        done: dict[str, Any] = vtep.status(self._lab, HERE)["planes"][0]["reconcile"]
        return Counter({key: done[key] for key in ("requests", "reads") if key in done})

    def _held(self, phase: str) -> dict[str, float]:
        """Return the longest hold of the event loop so far, in milliseconds, as that of `phase`."""
        loop: dict[str, Any] = vtep.status(self._lab, HERE).get("event_loop", {})
        return {phase: loop["held_s"] * 1000} if "held_s" in loop else {}
