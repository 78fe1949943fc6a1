"""Results of `vxland bench --leases`: what a node costs among so many leases, how that grows, and the targets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, TypeAlias

StoreKind: TypeAlias = Literal["etcd", "kube"]


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one change, on average, as counted by the kernel, the store and vxland."""

    kernel_changes: float
    """Changes of routes and permanent neighbours that the kernel reported."""
    netlink_requests: float
    """Netlink messages that vxland sent."""
    kernel_reads: float
    """Reads of all routes and neighbours."""
    store_requests: float
    """Requests that the store received from vxland, renewals included."""
    received_bytes: float
    """Bytes that reached the node, with the headers of Ethernet, IP and TCP."""


@dataclass(frozen=True, slots=True)
class Storm:
    """A storm of changes, and its cost. The kernel agreed with the store `caught_up_s` after the last one.

    `cpu_percent`: CPU time until then, over the time of the changes.
    """

    changes: int
    rate: float
    cpu_percent: float
    caught_up_s: float


@dataclass(frozen=True, slots=True)
class Costs:
    """One vxland among so many leases. Percentages are of one CPU."""

    leases: int
    start_s: float
    start_cpu_s: float
    start_bytes: int
    """Bytes that reached the node until then."""
    start_requests: int
    """Requests that the store received until then."""
    rest_cpu_percent: float
    rest_bytes_s: float
    """Bytes a second that reached the node at rest."""
    rest_mib: float
    change_ms: Sequence[float]
    change_cpu_ms: float
    """CPU time of each change until vxland rested again, without that which it needs at rest."""
    work: Work
    beat_cpu_ms: float | None
    """CPU time for a write to another node's entry that leaves its lease as it is; None: the store has none."""
    beat_bytes: float | None
    storm: Storm
    peak_mib: float
    held_ms: Mapping[str, float]
    """Longest time that the event loop was held, from the start until the end of `start`, `changes` and `storm`."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of the result: its unit, how many digits are shown, and how it follows from the costs."""

    key: str
    title: str
    unit: str
    digits: int
    value: Callable[[Costs], float | None]
    floor: float | None = None
    """Upper limits with 5,000 leases in etcd, on two idle CPUs."""
    aim: float | None = None


MEASURES = (
    Measure("start_s", "start until all are in the kernel", "s", 1, lambda costs: costs.start_s, 3.5, 2),
    Measure("start_cpu_s", "CPU time of the start", "s", 1, lambda costs: costs.start_cpu_s),
    Measure("start_mb", "received during the start", "MB", 2, lambda costs: costs.start_bytes / 1e6),
    Measure("start_requests", "requests to the store during the start", "", 0, lambda costs: costs.start_requests),
    Measure("change_ms", "a changed MAC, store to kernel: median", "ms", 1, lambda c: median(c.change_ms), 40, 15),
    Measure("worst_ms", "a changed MAC: worst", "ms", 1, lambda costs: max(costs.change_ms), 80, 30),
    Measure("change_cpu_ms", "CPU time for it, with all that follows", "ms", 1, lambda c: c.change_cpu_ms, 15, 3),
    Measure("kernel_changes", "changes in the kernel for it", "", 1, lambda costs: costs.work.kernel_changes),
    Measure("netlink_requests", "netlink requests for it", "", 1, lambda costs: costs.work.netlink_requests),
    Measure("kernel_reads", "reads of the whole kernel state for it", "", 2, lambda costs: costs.work.kernel_reads),
    Measure("store_requests", "requests to the store for it", "", 2, lambda costs: costs.work.store_requests),
    Measure("received_bytes", "received for the change", "bytes", 0, lambda costs: costs.work.received_bytes),
    Measure("beat_cpu_ms", "CPU time for an unchanged entry, written", "ms", 1, lambda c: c.beat_cpu_ms),
    Measure("beat_bytes", "received for that", "bytes", 0, lambda costs: costs.beat_bytes),
    Measure("storm_rate", "storm: changes a second", "", 0, lambda costs: costs.storm.rate),
    Measure("storm_cpu_percent", "storm: CPU, of one", "%", 0, lambda costs: costs.storm.cpu_percent, 45, 20),
    Measure("caught_up_s", "storm: kernel agrees after its end", "s", 2, lambda costs: costs.storm.caught_up_s),
    Measure("held_start_ms", "event loop held at most: start", "ms", 1, lambda c: c.held_ms["start"], 20, 5),
    Measure("held_ms", "event loop held at most: to the end", "ms", 1, lambda c: c.held_ms["storm"], 20, 5),
    Measure("rest_cpu_percent", "at rest: CPU, of one", "%", 2, lambda costs: costs.rest_cpu_percent),
    Measure("rest_bytes_s", "at rest: received a second", "bytes", 0, lambda costs: costs.rest_bytes_s),
    Measure("rest_mib", "memory at rest", "MiB", 1, lambda costs: costs.rest_mib, 72, 55),
    Measure("peak_mib", "memory: peak", "MiB", 1, lambda costs: costs.peak_mib),
)
ALONE = Measure("alone_mib", "memory with 1 lease", "MiB", 1, lambda _: None, 50, 40)
GROWTH = {"change_ms": (1.5, 1.1), "change_cpu_ms": (1.5, 1.1)}
"""Floor and aim of the growth of a measure between the sizes GROWN."""
GROWN = (5_000, 20_000)


@dataclass(slots=True)
class Result:
    """The sizes measured so far, by rising number of leases; `alone_mib` is the memory with one lease."""

    store: StoreKind
    alone_mib: float | None = None
    sizes: list[Costs] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def grown(self) -> tuple[Costs, Costs] | None:
        """The two largest sizes, whose ratio shows the growth; None if there are fewer."""
        return (self.sizes[-2], self.sizes[-1]) if len(self.sizes) > 1 else None


def growth(result: Result) -> dict[str, float]:
    """Return each measure with the most leases over that with the second most, where both are above 0."""
    if result.grown is None:
        return {}
    pairs = {each.key: tuple(map(each.value, result.grown)) for each in MEASURES}
    return {key: large / small for key, (small, large) in pairs.items() if small and large}
