"""CPU time and memory of processes and of the machine; and spinners that keep its CPUs awake."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES

_BUSY = (0, 1, 2, 5, 6)  # of /proc/stat's columns: user, nice, system, irq, softirq; see proc(5)
_RSS, _PEAK = (re.compile(rf"^{name}:\s+(\d+) kB$", re.MULTILINE) for name in ("VmRSS", "VmHWM"))
_SCHED = 2  # linux/posix-timers.h: CPUCLOCK_SCHED, the time that the scheduler has counted
_WAIT_S = 5.0

# The end is bounded, so that even a killed benchmark leaves no spinner behind. An autogroup of the lowest weight:
# SCHED_IDLE alone ranks a process only within its session's group, sched(7).
_SPINNER = """\
import os, sys, time
cpu, seconds = int(sys.argv[1]), float(sys.argv[2])
try:
    with open("/proc/self/autogroup", "w") as group: group.write("19")
except OSError: pass
os.sched_setaffinity(0, {cpu})
end = time.monotonic() + seconds
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while time.monotonic() < end: pass
"""


def busy_s() -> float:
    """Return the CPU seconds of all CPUs since boot in which they were not idle, without the hypervisor's share."""
    columns = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return float(sum(columns[column] for column in _BUSY)) / os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of the processes, all threads together, ended ones too; clock_getcpuclockid(3).

    The clock counts nanoseconds; the ticks of /proc would hide a change that costs 3 ms.
    """
    return sum(time.clock_gettime((~pid << 3) | _SCHED) for pid in pids)


def rss_mib(pids: Iterable[int], *, peak: bool = False) -> float:
    """Return the resident memory of the processes together, in MiB, or its peak; 0 for none."""
    found = ((_PEAK if peak else _RSS).search(Path(f"/proc/{pid}/status").read_text()) for pid in pids)
    return sum(int(match[1]) for match in found if match) / 1024


def open_files(pids: Iterable[int]) -> int:
    """Return the number of file descriptors of the processes together."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


@contextmanager
def awake(lab: Lab, seconds: float) -> Iterator[None]:
    """Keep every CPU out of its idle state while the block runs, for at most `seconds`, by spinners of lowest priority.

    Otherwise a round trip on a virtual machine is mostly the time in which the hypervisor wakes halted CPUs.
    """
    names = []
    try:
        for cpu in sorted(os.sched_getaffinity(0)):
            name = f"spinner{cpu}"
            command = (*shell.PYTHON, "-c", _SPINNER, str(cpu), str(seconds))
            process = lab.start(name, NODES[0], command, dict(os.environ))
            names.append(name)
            end = time.monotonic() + _WAIT_S
            while os.sched_getscheduler(process.pid) != os.SCHED_IDLE and time.monotonic() < end:
                time.sleep(0.01)
        yield
    finally:
        for name in names:
            lab.stop(name)
