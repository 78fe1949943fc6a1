"""Scheduling of threads, in separate processes: a thread cannot become less nice again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vxland.kernel.cpu import has_own_share
from vxland.kernel.seccomp import library

SCRIPT = """
import ctypes, os, platform, struct, threading
from vxland.kernel import scheduling
NUMBER = {"x86_64": 315, "aarch64": 275, "riscv64": 275, "armv7l": 381, "ppc64le": 356}[platform.machine()]

def of_thread():
    attr = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(NUMBER, 0, attr, 48, 0) == 0
    _, policy, flags, nice, _, slice_ns, _, _ = struct.unpack("=IIQiIQQQ", attr.raw)
    return policy, flags, nice, slice_ns

def in_thread(job):
    found = []
    thread = threading.Thread(target=lambda: found.append(job()))
    thread.start()
    thread.join()
    return found[0]

def nicer():
    scheduling.give_way()
    return of_thread()[2]
"""
SHORT = """
default = of_thread()
scheduling.wake_early()
policy, flags, nice, slice_ns = of_thread()
assert (policy, flags, nice) == (0, 1, default[2])
assert slice_ns == scheduling.SLICE_NS or slice_ns == default[3] == 0, slice_ns  # 0: before Linux 6.12
assert in_thread(of_thread) == default
"""
NICER = """
scheduling.has_own_share = lambda: {own}
before = of_thread()[2]
assert in_thread(nicer) == min(before + {more}, 19)
assert of_thread()[2] == before
"""
FILTERED = """
import errno
from vxland.kernel import seccomp
seccomp.install(seccomp.library())
for who in (os.getppid(), os.getpid()):
    try:
        os.setpriority(os.PRIO_PROCESS, who, 10)
    except PermissionError:
        continue
    raise AssertionError(who)
scheduling.wake_early()
"""


MUSL = """
import errno, os
def no_system_call(pid):
    raise OSError(errno.ENOSYS, "Function not implemented")
os.sched_getscheduler = no_system_call
"""


def run(script: str) -> None:
    """Run a script after SCRIPT, with the priority that this process has."""
    done = subprocess.run((sys.executable, "-P", "-c", SCRIPT + script), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_short_slice_is_the_threads_own() -> None:
    """Nothing else changes, and no thread that it starts inherits it: workers would wake as early."""
    run(SHORT)


def test_on_musl() -> None:
    """The start ended there with "Function not implemented": its library has no sched_getscheduler()."""
    run(MUSL + SHORT)


@pytest.mark.parametrize(("own", "more"), [(True, 5), (False, 0)])
def test_a_worker_gives_way_to_its_own_process_only(own: bool, more: int) -> None:
    """It keeps its weight if neighbours would get its CPU time: a stream beside it lost half of its throughput."""
    run(NICER.format(own=own, more=more))


@pytest.mark.skipif(library() is None, reason="pip install pyseccomp, apt-get install libseccomp2")
def test_behind_the_filter_of_system_calls() -> None:
    """A worker still gives way, and no other process can be made nicer."""
    run(FILTERED + NICER.format(own=True, more=5))


@pytest.mark.parametrize(
    ("cgroup", "files", "autogroup", "own"),
    [
        ("0::/kube.slice/pod\n", ["kube.slice/cpu.weight"], "0\n", True),
        ("0::/system.slice\n", ["system.slice/cpu.stat"], "0\n", False),
        ("0::/system.slice\n", ["system.slice/cpu.stat"], "1\n", True),
        ("4:cpu,cpuacct:/docker/0123\n0::/\n", [], "", True),
        ("4:cpu,cpuacct:/\n0::/\n", [], "0\n", False),
        ("", [], "", False),
    ],
)
def test_a_share_of_its_own(tmp_path: Path, cgroup: str, files: list[str], autogroup: str, own: bool) -> None:
    """A group of either version, or a session that the kernel makes a group; never the root of all groups."""
    groups = tmp_path / "groups"
    for name in files:
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text("100\n")
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(f"30 23 0:26 / {groups} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "autogroup").write_text(autogroup)
    assert has_own_share(tmp_path, tmp_path / "autogroup") == own
