"""`vxland bench --soak`: mixed traffic both ways for long; memory and open files of both daemons must stay flat.

What both have dropped meanwhile is told, by reason: none of it is judged, for the traffic is more than fits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median

from rich.console import Console

from vxland.lab import shell, traffic, vtep
from vxland.lab.bench import load, resources
from vxland.lab.bench.load import Ends
from vxland.lab.bench.subjects import SUBJECTS, Subject, memory_pids
from vxland.lab.bench.summary import COMPILED
from vxland.lab.namespaces import Lab, sweep
from vxland.lab.signals import deafen, stoppable
from vxland.lab.topology import NODES, UNDERLAY_MTU, LabNode
from vxland.model.errors import StartError

STREAMS = 2  # each way, all the time; beside them by turns, and each way:
RATE, PACKETS_S = 10_000, 2.0  # small packets
ROUND_TRIPS_S = 5.0  # under load a round trip takes 10 ms, and 100 of them tell percentiles
MAX_GROWTH_MIB = 1.0  # from the middle to the last third; the first one is warming up


@dataclass(frozen=True, slots=True)
class SoakSample:
    """Both daemons at one moment: MiB, descriptors, and drops since start by "direction reason", each by node."""

    at_s: float
    rss_mib: tuple[float, ...]
    open_files: tuple[int, ...]
    dropped: tuple[dict[str, int], ...]


def play(seconds: int, *, json_wanted: bool) -> int:
    """Run for so long, or until Ctrl-C; print what was seen. 0 when memory and descriptors stayed flat. VxlandError."""
    shell.require(("vxland",), "the benchmark")
    notes = Console(stderr=True, soft_wrap=True)
    lab, samples = Lab(), list[SoakSample]()
    with stoppable():
        try:
            sweep()
            _carry(lab, next(one for one in SUBJECTS if one.name == COMPILED), seconds, samples, notes)
            moved = traffic.parse_iperf(lab.log("iperf3-client").read_text())
        except KeyboardInterrupt:
            notes.print("interrupted; all that the benchmark had made is removed again")
            moved = traffic.Throughput(0.0, 0, "interrupted")
        finally:
            with suppress(KeyboardInterrupt):
                deafen()
            lab.remove()
    growth_mib, new_files = growth(samples)
    flat = growth_mib < MAX_GROWTH_MIB and new_files <= 0
    if json_wanted:
        found = {"flat": flat, "growth_mib": growth_mib, "new_files": new_files, "samples": list(map(asdict, samples))}
        print(json.dumps(found | {"iperf": asdict(moved)}, indent=2))
    else:
        print(_told(samples, moved))
        print(f"memory grew by {growth_mib:+.2f} MiB, open files by {new_files:+d}: {'flat' if flat else 'NOT flat'}")
    return 0 if flat and not moved.error else 1


def _told(samples: Sequence[SoakSample], moved: traffic.Throughput) -> str:
    """A line of the traffic, and one for each node: memory and descriptors at the first sample, at most and at last."""
    rate = moved.error or f"{moved.gbit_s:.2f} Gbit/s one way meanwhile"
    lines = [f"{samples[-1].at_s:.0f} s, {len(samples)} samples; {rate}"]
    for node, each in enumerate(NODES):
        rss = [one.rss_mib[node] for one in samples]
        files = [one.open_files[node] for one in samples]
        drops = ", ".join(f"{reason} {count}" for reason, count in samples[-1].dropped[node].items()) or "nothing"
        lines.append(
            f"{each.title}: {rss[0]:.1f} MiB at first, {max(rss):.1f} at most, {rss[-1]:.1f} at last;"
            f" {files[0]}, {max(files)}, {files[-1]} open files; dropped: {drops}"
        )
    return "\n".join(lines)


def growth(samples: Sequence[SoakSample]) -> tuple[float, int]:
    """MiB and descriptors that the worse of the nodes gained from the middle third of the samples to the last."""
    third = len(samples) // 3
    if not third:
        raise StartError(f"{len(samples)} samples say nothing", "let it run for a minute at least")
    middle, last = samples[third : 2 * third], samples[2 * third :]
    nodes = range(len(samples[0].rss_mib))
    return (
        max(median(one.rss_mib[node] for one in last) - median(one.rss_mib[node] for one in middle) for node in nodes),
        max(max(one.open_files[node] for one in last) - max(one.open_files[node] for one in middle) for node in nodes),
    )


def _carry(lab: Lab, subject: Subject, seconds: int, samples: list[SoakSample], notes: Console) -> None:
    """The traffic, and a sample after each turn of it."""
    lab.build()
    subject.set_up(lab, UNDERLAY_MTU)
    left, right = NODES
    ways = (Ends(lab, left, right, subject.address(right)), Ends(lab, right, left, subject.address(left)))
    with traffic.iperf_server(lab, right):
        to = ("-c", str(ways[0].address), "-p", str(traffic.IPERF_PORT))
        command = ("iperf3", "-4", "-J", *to, "-t", str(seconds), "--bidir", "-P", str(STREAMS))
        client = lab.start("iperf3-client", left, command, dict(os.environ))
        start = time.monotonic()
        while client.poll() is None:
            for ends in ways:
                load.packets(ends, RATE, PACKETS_S)
                load.round_trips(ends, ROUND_TRIPS_S)
            samples.append(_sample(lab, time.monotonic() - start))
            if samples[-1].at_s > seconds + shell.TIMEOUT_S:
                raise StartError("iperf3 does not end", f"see what it said: {lab.last_words('iperf3-client')}")
            if notes.is_terminal:
                notes.print(f"{samples[-1].at_s:.0f} of {seconds} s: {samples[-1].rss_mib} MiB", end="\r")


def _sample(lab: Lab, at_s: float) -> SoakSample:
    pids = [memory_pids(lab, node) for node in NODES]
    return SoakSample(
        at_s,
        tuple(resources.rss_mib(each) for each in pids),
        tuple(resources.open_files(each) for each in pids),
        tuple(_dropped(lab, node) for node in NODES),
    )


def _dropped(lab: Lab, node: LabNode) -> dict[str, int]:
    told = vtep.stats(lab, node)
    return {
        f"{way} {reason}": count for way in ("encap", "decap") for reason, count in told[way]["drops"].items() if count
    }
