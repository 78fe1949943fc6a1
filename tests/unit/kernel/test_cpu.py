"""CPU time of the process, with either version of control groups, in a container or not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vxland.kernel.cpu import Cpu, cpu

ROOT = Path(__file__).parents[3]
V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")
BURN = """
import os, sys
from vxland.kernel.cpu import cpu
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
while not ((found := cpu()).throttled_periods and found.throttled_s):  # the kernel counts the period first
    sum(range(100_000))
print(found.limit, found.throttled_s > 0, found.used_s > 0)
"""


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write these files into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def mount(kind: str, root: str, point: Path, options: str = "rw") -> str:
    """Return a line of mountinfo, behind one of another file system."""
    return (
        f"1 2 0:3 / / rw - ext4 /dev/vda rw\n30 25 0:26 {root} {point} ro,nosuid shared:4 - {kind} cgroup {options}\n"
    )


def test_version_2_with_a_limit_above(tmp_path: Path) -> None:
    """The narrowest limit on the path counts, and the group that was stopped longest."""
    groups = tmp_path / "cgroup"
    tree(
        groups / "kube.slice",
        {
            "cpu.max": "50000 100000\n",
            "cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 12\nthrottled_usec 3500000\n",
            "pod/cpu.max": "max 100000\n",
            "pod/cpu.stat": "usage_usec 9\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
        },
    )
    proc = tree(
        tmp_path / "proc",
        {
            "cgroup": "0::/kube.slice/pod\n",
            "mountinfo": mount("cgroup2", "/", groups),
            "task/7/schedstat": "2500000000 500000000 70\n",
            "task/8/schedstat": "500000000 1000000000 70\n",
        },
    )
    assert cpu(proc) == Cpu(used_s=3.0, waited_s=1.5, limit=0.5, throttled_s=3.5, throttled_periods=12)


@pytest.mark.parametrize("path", ["/docker/0123", "/", "/../../docker/0123"])
def test_version_1_in_a_container(tmp_path: Path, path: str) -> None:
    """The mount begins at the container's own group, whether the process's path includes it or not."""
    group = tree(
        tmp_path / "cpu",
        {
            "cpu.cfs_quota_us": "20000\n",
            "cpu.cfs_period_us": "100000\n",
            "cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 250000000\n",
        },
    )
    proc = tree(
        tmp_path / "proc",
        {
            "cgroup": f"9:memory:/elsewhere\n4:cpu,cpuacct:{path}\n0::/\n",
            "mountinfo": mount("cgroup", path, group, "rw,cpu,cpuacct"),
        },
    )
    assert cpu(proc) == Cpu(used_s=0, waited_s=0, limit=0.2, throttled_s=0.25, throttled_periods=2)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cgroup": "0::/\n"},
        {"cgroup": "garbage\n4:cpu\n", "mountinfo": "garbage\n\n - cgroup\n", "task/1/schedstat": "x y z\n"},
        {"cgroup": "0::/a\n", "mountinfo": mount("cgroup2", "/", Path("/nowhere")), "task/1/schedstat": ""},
    ],
)
def test_an_unreadable_file_is_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    """A kernel without these files, or with others, gives zeros."""
    assert cpu(tree(tmp_path, files)) == Cpu(0, 0, None, 0, 0)


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a group whose processes get a tenth of a CPU."""
    v1 = (V1 / "cpu.shares").exists()
    folder = (V1 if v1 else V2) / f"vxt-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"no control group can be made: {exc}")
    try:
        try:
            (folder / ("cpu.cfs_quota_us" if v1 else "cpu.max")).write_text("10000" if v1 else "10000 100000")
        except OSError as exc:
            pytest.skip(f"the controller cpu is not available: {exc}")
        yield folder
    finally:
        folder.rmdir()


def test_a_real_limit_is_seen(group: Path) -> None:
    """A process that the kernel throttles reads its limit and the time in which it was stopped."""
    done = subprocess.run(
        (sys.executable, "-c", BURN, str(group)), cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "0.1 True True\n"
