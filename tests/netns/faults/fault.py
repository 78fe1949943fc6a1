"""One fault of node a, while its pod sends requests to node c's pod a hundred times a second, and its row."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.netns.cluster.lab import Cluster
from tests.netns.interop.daemon import plain

from .fault_report import FaultReport, Row
from .questions import Questions

OFF = "fast path off"
_SLOW_S = 0.5
_USUAL = {"leases_changed", "lease_acquired", "lease_renewed", "forwarding", "stopping", "devices_open", "gear"}


class Fault:
    """A fault from `began` to `over`; `lost` counts the requests since then, and is set at the end."""

    def __init__(self) -> None:
        self.began = self.over = time.monotonic()
        self.lost = 0

    def lasts(self, seconds: float) -> None:
        """Keep the fault up for this time."""
        time.sleep(seconds)
        self.over = time.monotonic()


@contextmanager
def faulted(cluster: Cluster, report: FaultReport, place: int, name: str, length: int = 64) -> Iterator[Fault]:
    """Send requests of `length` bytes during the body; at the end they are answered again, and a row has the loss."""
    near, far = cluster.nodes["a"], cluster.nodes["c"]
    log = cluster.members["a"].log
    logged = log.stat().st_size
    with Questions(near.pod_ns, near.pod[4], far.pod_ns, far.pod[4], length) as questions:
        fault = Fault()
        yield fault
        back_s = questions.wait_back(fault.over)
        questions.settle()
    fault.lost, asked = questions.lost(fault.began)
    slowest_s = questions.slowest_s(fault.began)
    slow = f"; slowest answer {slowest_s:.1f} s" if slowest_s > _SLOW_S else ""
    report.rows.append(Row(place, name, f"{fault.lost} of {asked}{slow}", f"{back_s:.2f} s", _said(log, logged)))


def _said(log: Path, since: int) -> str:
    """Return the events logged since then, each once, without those of every start, and the last plain text line."""
    found: dict[str, None] = {}
    for line in plain(log.read_bytes()[since:].decode()).splitlines():
        if line.startswith("{"):
            event = json.loads(line)
            if event["event"] not in _USUAL:
                found.setdefault(f"`{event['event']}`")
        elif line.startswith("vxland: "):
            found.setdefault(re.sub(r"\S*/(?=subnet\.env)", "", line))
    return ", ".join(found) or "nothing"
