"""A restart under traffic: kill -9 of node 1's vxland while pings and a TCP stream cross it, then a new process.

The kernel's device has no process; its numbers show what is lost anyway.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import Final, NamedTuple

from vxland.lab import shell, traffic
from vxland.lab.bench.load import Ends
from vxland.lab.bench.subjects import Subject, vxland_nodes
from vxland.model.errors import StartError

PINGS_PER_S: Final = 100
INTERVAL_S: Final = 0.1  # of iperf3's report, its shortest: shorter stalls do not show


class Phases(NamedTuple):
    """Seconds before the kill, until the new process, and after both."""

    lead_s: float
    down_s: float
    tail_s: float


def restart(subject: Subject, ends: Ends, mtu: int, phases: Phases) -> dict[str, float]:
    """Return the pings lost, and the seconds in which TCP could send nothing."""
    lab, seconds = ends.lab, round(sum(phases))
    count = ("-c", str(seconds * PINGS_PER_S), "-i", str(1 / PINGS_PER_S))
    programs = {
        "iperf3-client": traffic.iperf_client(ends.address, seconds, "-i", str(INTERVAL_S)),
        "pings": ("ping", "-n", "-q", *count, str(ends.address)),
    }
    with traffic.iperf_server(lab, ends.target):
        running = [lab.start(name, ends.source, argv, dict(os.environ)) for name, argv in programs.items()]
        for node in vxland_nodes(lab)[:1]:
            time.sleep(phases.lead_s)
            lab.kill(node.namespace)
            time.sleep(phases.down_s)
            subject.start(lab, node, mtu)
        try:
            for process in running:
                process.wait(seconds + shell.TIMEOUT_S)
        except subprocess.TimeoutExpired as exc:
            raise StartError("traffic does not end after the restart", "see the log of the node") from exc
        report, pings = (lab.log(name).read_text() for name in programs)
        for name in programs:
            lab.stop(name)
    found = traffic.parse_ping("ping", pings)
    return {"pings_lost": found.sent - found.received, "stalled_s": traffic.stalled_s(report, seconds)}
