"""Control groups of the controller `cpu`, version 1 or 2, for programs of a lab: a request and a limit, as a container.

Their names carry the lab's process id, `vxdemo-<pid>-*`, as everything else of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vxland.model.errors import StartError

ROOT: Final = Path("/sys/fs/cgroup")
V1: Final = ROOT / "cpu"  # with version 1 beside version 2 the controller belongs to version 1
PERIOD_US: Final = 100_000
_TRIES: Final = 5  # a program may start another while its processes are moved


@contextmanager
def group(name: str, request: float, limit: float | None = None) -> Iterator[Path]:
    """A group with the weight that Kubernetes gives a container with this request, and its limit, both in CPUs.

    At the end its processes return to the group above, and it is removed.
    """
    if (root := _root()) is None:
        cause = f"control groups below {ROOT} have no controller `cpu`"
        raise StartError(cause, f"echo +cpu > {ROOT}/cgroup.subtree_control")
    path = root / f"vxdemo-{os.getpid()}-{name}"
    try:
        path.mkdir()
        for file, value in settings(path, request, limit).items():
            (path / file).write_text(value)
    except OSError as exc:
        remove(path)
        raise StartError(
            f"the control group {path} cannot be made: {exc.strerror}", "run it as root of the machine"
        ) from exc
    try:
        yield path
    finally:
        remove(path)


def enter(path: Path, pids: Iterable[int]) -> None:
    """Move these processes, with all their threads, into the group."""
    for pid in pids:
        (path / "cgroup.procs").write_text(str(pid))


def remove(path: Path) -> None:
    """Return the group's processes to the group above, and remove it."""
    for _ in range(_TRIES):
        with suppress(OSError):  # a process has ended, or another has started
            enter(path.parent, map(int, (path / "cgroup.procs").read_text().split()))
            path.rmdir()
            return


def of_labs() -> list[Path]:
    """Return the existing groups of all labs."""
    return [path for root in (V1, ROOT) for path in root.glob("vxdemo-*")]


def usable() -> bool:
    """Return whether groups with a weight and a limit can be made."""
    return _root() is not None


def _root() -> Path | None:
    if (V1 / "cgroup.procs").exists():
        return V1
    controllers = ROOT / "cgroup.subtree_control"
    return ROOT if controllers.exists() and "cpu" in controllers.read_text().split() else None


def settings(path: Path, request: float, limit: float | None) -> dict[str, str]:
    """Return contents by file; the weights are those of the kubelet and runc."""
    shares = max(2, round(request * 1024))
    quota = "max" if limit is None else str(round(limit * PERIOD_US))
    if (path / "cpu.weight").exists():
        return {"cpu.weight": str(1 + (shares - 2) * 9999 // 262_142), "cpu.max": f"{quota} {PERIOD_US}"}
    return {
        "cpu.shares": str(shares),
        "cpu.cfs_period_us": str(PERIOD_US),
        "cpu.cfs_quota_us": "-1" if limit is None else quota,
    }
