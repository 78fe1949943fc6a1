"""One number of leases in `vxland bench --leases`: a fresh lab, and everything that is measured in it, in this order.

Time from the start of the process until every lease is in the kernel; cost when nothing changes; delay until one
changed MAC is in the kernel's neighbour table, and the work for it; and a storm of changes, after which the kernel must
agree with the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import yaml

from vxland.lab import shell, vtep
from vxland.lab.bench import resources
from vxland.lab.bench.costs import Costs, StoreKind, Storm, Work
from vxland.lab.bench.kernel_watch import KernelWatch, programmed
from vxland.lab.bench.kube_leases import KubeLeases
from vxland.lab.bench.population import STAGES, Edit, Population
from vxland.lab.bench.scale import UNDERLAYS
from vxland.lab.bench.stores import EtcdLeases, LeaseStore
from vxland.lab.bench.subjects import memory_pids
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES, UNDERLAY
from vxland.model.errors import StartError

Show: TypeAlias = Callable[[str], None]

STORES: Final[dict[StoreKind, Callable[[Lab], LeaseStore]]] = {"etcd": EtcdLeases, "kube": KubeLeases}
HERE: Final = NODES[0]
START_S, CHANGE_S, CATCH_UP_S = 180.0, 20.0, 60.0  # timeouts
IDLE_S, IDLE_CPU_S, BUSY_S = 0.5, 0.005, 10.0  # vxland's rest before a single change; and the timeout of that


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Durations of the measurements."""

    settle_s: float = 6.0  # before the rest: for what follows a change later
    rest_s: float = 10.0
    changes: int = 20
    pause_s: float = 1.0  # before each change: what vxland needs at rest is not counted as the change's
    beats: int = 100
    storm_s: float = 10.0
    alone: bool = True  # also with one lease, for its memory


FULL, QUICK = (
    ClusterPlan(),
    ClusterPlan(settle_s=0.0, rest_s=1.0, changes=5, pause_s=0.2, beats=5, storm_s=1.0, alone=False),
)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU time of vxland, and bytes that reached the node, in some seconds."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    received: int = 0

    @property
    def cpu_share(self) -> float:
        """CPU seconds in each second."""
        return self.cpu_s / self.seconds

    def plus(self, other: Spent) -> Spent:
        """Return both together."""
        return Spent(self.seconds + other.seconds, self.cpu_s + other.cpu_s, self.received + other.received)

    def beyond(self, rest: float) -> float:
        """Return the CPU seconds without those that rest takes."""
        return max(self.cpu_s - rest * self.seconds, 0.0)


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
        held = {"start": self._held_ms()}
        self._show(f"at rest for {plan.rest_s:.0f} s")
        rest_mib = self.memory(plan)
        rest = self._spent(lambda: time.sleep(plan.rest_s))
        self._rest = rest.cpu_share
        self._show(f"{plan.changes} single changes")
        change_ms, change_cpu, work = self._changes(plan)
        held["changes"] = self._held_ms()
        beat_cpu, beat_bytes = self._beats(plan.beats)
        self._show(f"{self._store.storm_rate} changes a second for {plan.storm_s:.0f} s")
        storm = self._storm(plan.storm_s)
        return Costs(
            leases=len(self._population.leases),
            start_s=start_s,
            start_cpu_s=start_cpu_s,
            start_bytes=start_bytes,
            start_requests=start_requests,
            rest_cpu_percent=100 * rest.cpu_share,
            rest_bytes_s=rest.received / plan.rest_s,
            rest_mib=rest_mib,
            change_ms=change_ms,
            change_cpu_ms=change_cpu * 1000 / plan.changes,
            work=work,
            beat_cpu_ms=beat_cpu,
            beat_bytes=beat_bytes,
            storm=storm,
            peak_mib=resources.rss_mib(self._pids, peak=True),
            held_ms=held | {"storm": self._held_ms()},
        )

    def _show(self, what: str) -> None:
        self._progress(f"{len(self._population.leases):,} leases: {what}")

    @property
    def _pids(self) -> list[int]:
        return memory_pids(self._lab, HERE)

    def _changes(self, plan: ClusterPlan) -> tuple[list[float], float, Work]:
        """Return milliseconds from before each write to the kernel's event, the CPU seconds of all, and their work."""
        count = plan.changes
        self._await_idle()
        self._watch.drain()
        before, asked, changes = self._counted(), self._store.requests(), self._watch.changes
        taken: list[float] = []
        paused, changed = Spent(), Spent()
        for number in range(count):
            node = number * 7919 % len(self._population.leases)  # a prime, so that changes are spread over the table
            paused = paused.plus(self._spent(lambda: time.sleep(plan.pause_s)))
            changed = changed.plus(self._spent(partial(self._change, node, taken)))
        self._rest = paused.cpu_share
        self._watch.drain()
        requests, reads = (after - once for after, once in zip(self._counted(), before, strict=True))
        work = Work(
            kernel_changes=(self._watch.changes - changes) / count,
            netlink_requests=requests / count,
            kernel_reads=reads / count,
            store_requests=sum((self._store.requests() - asked).values()) / count,
            received_bytes=changed.received / count,
        )
        return taken, changed.beyond(self._rest), work

    def _change(self, number: int, taken: list[float]) -> None:
        """Give a node another MAC; append the milliseconds until the kernel has it, and return once vxland rests."""
        renewal = self._population.renewal(number)
        begun = time.monotonic()
        self._store.commit([renewal])
        self._watch.wait(self._population.mac(number), CHANGE_S)
        taken.append((time.monotonic() - begun) * 1000)
        self._await_idle()

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

        spent = self._spent(write)
        return spent.beyond(self._rest) * 1000 / count, spent.received / count

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
        ended = time.monotonic()
        agreed = self._agree(self._store.expected(), CATCH_UP_S)
        return Storm(
            changes=changes,
            rate=changes / (ended - begun),
            cpu_percent=100 * (resources.cpu_s(self._pids) - before) / (ended - begun),
            caught_up_s=max(agreed - ended, 0.0),
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

    def _spent(self, job: Callable[[], None]) -> Spent:
        """Return what vxland spent while the job ran."""
        begun, cpu, received = time.monotonic(), resources.cpu_s(self._pids), self._received()
        job()
        return Spent(time.monotonic() - begun, resources.cpu_s(self._pids) - cpu, self._received() - received)

    def _received(self) -> int:
        links = shell.run("ip", "-n", self._lab.namespace(HERE), "-json", "-stats", "link", "show", "dev", UNDERLAY)
        return int(json.loads(links)[0]["stats64"]["rx"]["bytes"])

    def _counted(self) -> tuple[int, int]:
        """Return vxland's own counters: netlink requests, and reads of all routes and neighbours."""
        done = vtep.status(self._lab, HERE)["planes"][0]["reconcile"]
        return done["requests"], done["reads"]

    def _held_ms(self) -> float:
        """Return the longest time so far that one step of a task held the event loop."""
        return float(vtep.status(self._lab, HERE)["event_loop"]["held_s"]) * 1000
