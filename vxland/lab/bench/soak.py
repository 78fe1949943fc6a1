"""`vxland bench --soak`: mixed traffic both ways for a long time; memory and open files of both daemons must stay flat.

It prints what both dropped, by reason. Drops do not fail the test, because the traffic exceeds the capacity.
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
from vxland.lab.bench.summary import VXLAND
from vxland.lab.namespaces import Lab, sweep
from vxland.lab.signals import ignore_signals, interruptible
from vxland.lab.topology import NODES, POD_A, POD_C, UNDERLAY_MTU, LabNode
from vxland.model.errors import StartError

STREAMS = 2  # each way, all the time; in addition, alternating and each way:
RATE, PACKETS_S = 10_000, 2.0  # small packets
ROUND_TRIPS_S = 5.0  # under load a round trip takes 10 ms; percentiles need 100 of them
MAX_GROWTH_MIB = 1.0  # from the middle to the last third; the first third is the warm-up


@dataclass(frozen=True, slots=True)
class SoakSample:
    """Both daemons at one moment: MiB, descriptors, and drops since start by "direction reason", each by node."""

    at_s: float
    rss_mib: tuple[float, ...]
    open_files: tuple[int, ...]
    dropped: tuple[dict[str, int], ...]


def run(seconds: int, *, json_wanted: bool) -> int:
    """Run for this time or until Ctrl-C; print the results. 0 if memory and descriptors stayed flat. VxlandError."""
    shell.require(("vxland",), "the benchmark")
    notes = Console(stderr=True, soft_wrap=True)
    lab, samples = Lab(), list[SoakSample]()
    with interruptible():
        try:
            sweep()
            _carry(lab, next(one for one in SUBJECTS if one.name == VXLAND), seconds, samples, notes)
            moved = traffic.parse_iperf(lab.log("iperf3-client").read_text())
        except KeyboardInterrupt:
            notes.print("interrupted; everything that the benchmark made is removed")
            moved = traffic.Throughput(0.0, 0, "interrupted")
        finally:
            with suppress(KeyboardInterrupt):
                ignore_signals()
            lab.remove()
    growth_mib, new_files = growth(samples)
    flat = growth_mib < MAX_GROWTH_MIB and new_files <= 0
    if json_wanted:
        found = {"flat": flat, "growth_mib": growth_mib, "new_files": new_files, "samples": list(map(asdict, samples))}
        print(json.dumps(found | {"iperf": asdict(moved)}, indent=2))
    else:
        print(_summary(samples, moved))
        print(f"memory grew by {growth_mib:+.2f} MiB, open files by {new_files:+d}: {'flat' if flat else 'NOT flat'}")
    return 0 if flat and not moved.error else 1


def _summary(samples: Sequence[SoakSample], moved: traffic.Throughput) -> str:
    """Return a line on the traffic and one per node: memory and descriptors at first, at most and at last."""
    rate = moved.error or f"{moved.gbit_s:.2f} Gbit/s in one direction"
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
    """Return the growth in MiB and descriptors of the worse node, from the middle third of the samples to the last."""
    third = len(samples) // 3
    if not third:
        raise StartError(f"{len(samples)} samples are too few", "let it run for a minute at least")
    middle, last = samples[third : 2 * third], samples[2 * third :]
    nodes = range(len(samples[0].rss_mib))
    return (
        max(median(one.rss_mib[node] for one in last) - median(one.rss_mib[node] for one in middle) for node in nodes),
        max(max(one.open_files[node] for one in last) - max(one.open_files[node] for one in middle) for node in nodes),
    )


def _carry(lab: Lab, subject: Subject, seconds: int, samples: list[SoakSample], notes: Console) -> None:
    """Send the traffic, and take a sample after each cycle of it."""
    lab.build()
    subject.set_up(lab, UNDERLAY_MTU)
    both = (Ends(lab, POD_A, POD_C), Ends(lab, POD_C, POD_A))
    with traffic.iperf_server(lab, POD_C):
        to = ("-c", str(both[0].address), "-p", str(traffic.IPERF_PORT))
        command = ("iperf3", "-4", "-J", *to, "-t", str(seconds), "--bidir", "-P", str(STREAMS))
        client = lab.start("iperf3-client", POD_A, command, dict(os.environ))
        start = time.monotonic()
        while client.poll() is None:
            for ends in both:
                load.packets(ends, RATE, PACKETS_S)
                load.round_trips(ends, ROUND_TRIPS_S)
            samples.append(_sample(lab, time.monotonic() - start))
            if samples[-1].at_s > seconds + shell.TIMEOUT_S:
                raise StartError("iperf3 does not end", f"its log ends: {lab.log_tail('iperf3-client')}")
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
    stats = vtep.stats(lab, node)
    return {
        f"{side} {reason}": count
        for side in ("encap", "decap")
        for reason, count in stats[side]["drops"].items()
        if count
    }
