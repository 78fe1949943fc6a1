"""TCP while other programs want the CPU: node 1's vxland in a container's control group, beside two busy neighbours.

The kernel's device has no process to limit; it has the same neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from vxland.lab import cgroups, shell, traffic
from vxland.lab.bench import load
from vxland.lab.bench.load import Ends
from vxland.lab.bench.subjects import memory_pids
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES

CPUS: Final = 0.1
"""vxland's request, which is a weight, and its limit."""

NEIGHBOURS: Final = 2
"""Busy processes that request a CPU each and have no limit."""

_NEIGHBOUR: Final = "import sys, time; end = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
_SPARE_S: Final = 30.0  # after the measurement, until a neighbour ends by itself


def tcp(ends: Ends, seconds: int) -> dict[str, float]:
    """Return Gbit/s of one stream from node 1, and to it."""
    found = {}
    with _busy(ends.lab, 2 * seconds + _SPARE_S):
        for direction, options in {"from": (), "to": ("-R",)}.items():
            with traffic.iperf_server(ends.lab, ends.target):
                found[f"{direction}_gbit_s"] = load.transferred(ends, seconds, *options).gbit_s
    return found


@contextmanager
def _busy(lab: Lab, seconds: float) -> Iterator[None]:
    """Put node 1's vxland into its group, and run its neighbours, while the block runs."""
    node = NODES[0]
    with ExitStack() as stack:
        if pids := memory_pids(lab, node):
            cgroups.enter(stack.enter_context(cgroups.group(node.namespace, CPUS, CPUS)), pids)
        for number in range(NEIGHBOURS):
            name = f"neighbour{number}"
            inside = stack.enter_context(cgroups.group(name, 1.0))
            process = lab.start(name, node, (*shell.PYTHON, "-c", _NEIGHBOUR, str(seconds)), dict(os.environ))
            stack.callback(lab.stop, name)
            cgroups.enter(inside, [process.pid])
        yield
