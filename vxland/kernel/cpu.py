"""CPU time of this process: used, waited for a CPU, and lost to the limit of its control group.

The data path runs in the process, so a busy neighbour or a limit of the group slows every pod's traffic. Everything is
read on request: a few files of /proc and of the control groups, version 1 or 2, each bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

_PROC: Final = Path("/proc/self")
_AUTOGROUP: Final = Path("/proc/sys/kernel/sched_autogroup_enabled")  # sched(7)
_MAX_FILE: Final = 4096
_MAX_MOUNTS: Final = 1 << 20
_MAX_DEPTH: Final = 16
_MAX_TASKS: Final = 256
_NS_A_S: Final = 1e9


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time of the existing threads since their start; throttling of the groups since they were made."""

    used_s: float
    waited_s: float
    """Time in which threads could have run, but other processes had the CPU."""

    limit: float | None
    """CPUs that the group, or one above it, may use at most; None without a limit."""

    throttled_s: float
    """Time in which the group was stopped because it had used up its limit."""

    throttled_periods: int


def cpu(proc: Path = _PROC) -> Cpu:
    """Read the CPU time; an unreadable file counts as 0, or as no limit."""
    used, waited = _schedstat(proc / "task")
    limit, throttled_s, throttled_periods = cpu_limit(proc)
    return Cpu(used, waited, limit, throttled_s, throttled_periods)


def cpu_limit(proc: Path = _PROC) -> tuple[float | None, float, int]:
    """Return `limit`, `throttled_s` and `throttled_periods` of cpu(), without a file for each thread."""
    limits, throttled = [], (0.0, 0)
    for group in _groups(_text(proc / "cgroup"), proc):
        if (limit := _limit(group)) is not None:
            limits.append(limit)
        throttled = max(throttled, _throttled(group))
    return min(limits, default=None), *throttled


def has_own_share(proc: Path = _PROC, autogroup: Path = _AUTOGROUP) -> bool:
    """Return whether the CPU time that a thread leaves goes to other threads of this process, and not to neighbours.

    It does in a control group with a weight, and in a session of its own, if the kernel makes each session a group.
    """
    cgroup = _text(proc / "cgroup")
    if any((group / "cpu.weight").exists() for group in _groups(cgroup, proc)):  # the root of version 2 has none
        return True
    for line in cgroup.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if "cpu" in controllers.split(",") and path.strip("/"):
            return True
    return _text(autogroup).strip() == "1"


def _schedstat(tasks: Path) -> tuple[float, float]:
    """Seconds that the threads ran, and waited on a run queue; Documentation/scheduler/sched-stats.rst."""
    used = waited = 0
    with suppress(OSError):
        for task in list(tasks.iterdir())[:_MAX_TASKS]:
            words = _text(task / "schedstat").split()
            if len(words) >= 2 and all(word.isdecimal() for word in words[:2]):
                used, waited = used + int(words[0]), waited + int(words[1])
    return used / _NS_A_S, waited / _NS_A_S


@lru_cache(maxsize=2)
def _groups(cgroup: str, proc: Path) -> tuple[Path, ...]:
    """The folder of the group that limits the process's CPU, and those of its parents, as far as they are mounted here.

    `cgroup` is /proc/self/cgroup: with version 1, and with both, the controller `cpu` has a line of its own.
    """
    paths = {}
    for line in cgroup.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        paths["cgroup" if "cpu" in controllers.split(",") else "cgroup2" if not controllers else ""] = path
    for kind in ("cgroup", "cgroup2"):
        if kind in paths and (mounted := _mounted(proc, kind)) is not None:
            root, point = mounted
            inside = PurePosixPath(paths[kind])
            # In a container the mount begins at its own group, which the path may or may not include.
            below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
            parts = [] if ".." in below.parts else below.parts[:_MAX_DEPTH]
            return tuple(point.joinpath(*parts[:count]) for count in range(len(parts), -1, -1))
    return ()


def _mounted(proc: Path, kind: str) -> tuple[PurePosixPath, Path] | None:
    """The mounted part of the hierarchy, and its mount point; proc_pid_mountinfo(5)."""
    for line in _text(proc / "mountinfo", _MAX_MOUNTS).splitlines():
        before, _, after = line.partition(" - ")
        fields, (found, _, options) = before.split(" "), (*after.split(" "), "", "", "")[:3]
        if found == kind and len(fields) > 4 and (kind == "cgroup2" or "cpu" in options.split(",")):
            return PurePosixPath(fields[3]), Path(fields[4])
    return None


def _limit(group: Path) -> float | None:
    """The number of CPUs that the group may use; None without a limit."""
    words = _text(group / "cpu.max").split() or [
        _text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def _throttled(group: Path) -> tuple[float, int]:
    """Seconds in which the group was stopped, and the number of periods."""
    found = dict(_numbers(_text(group / "cpu.stat")))
    seconds = found["throttled_usec"] / 1e6 if "throttled_usec" in found else found.get("throttled_time", 0) / _NS_A_S
    return seconds, found.get("nr_throttled", 0)


def _numbers(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isdecimal():
            yield name, int(value)


def _text(path: Path, limit: int = _MAX_FILE) -> str:
    """The beginning of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(limit).decode(errors="replace")
    except OSError:
        return ""
