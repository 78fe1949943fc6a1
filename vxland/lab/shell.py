"""The commands that a reader of the walk-through would type; an error names the command that failed."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from vxland.lab.signals import interrupt_deferred
from vxland.lab.topology import Kind
from vxland.model.errors import StartError

T = TypeVar("T")

_SERVERS = {"etcd-server": "etcd"}  # packages that start these services

NETNS_DIR = Path("/run/netns")  # where `ip netns` keeps its namespaces
TUN = Path("/dev/net/tun")
PYTHON = (sys.executable, "-P")
"""This Python, for `-m` and `-c`: it imports nothing from the current directory."""

PACKAGES = {"ip": "iproute2", "ping": "iputils-ping", "iperf3": "iperf3"}
TIMEOUT_S = 30.0  # more than twice what any command of the demo takes

_LIBC = ctypes.CDLL(None, use_errno=True)  # os.setns is new in Python 3.12
_CLONE_NEWNET = 0x4000_0000


def require(kinds: Iterable[Kind], what: str = "the demo", more: Mapping[str, str] | None = None) -> None:
    """Raise StartError without root, a required program (`more`: program to package), or a TAP driver for vxland."""
    if os.geteuid() != 0:
        cause, remedy = f"{what} makes network namespaces, which needs root", "run it with sudo"
        raise StartError(cause, remedy)
    require_programs(what, {**PACKAGES, **(more or {})})
    if "vxland" in kinds and not TUN.exists():
        cause = f"{TUN} is missing"
        raise StartError(cause, "modprobe tun; a container needs --device /dev/net/tun")


def require_programs(what: str, packages: Mapping[str, str]) -> None:
    """Raise StartError if a program is missing, with the package of the first one."""
    for program, package in packages.items():
        if shutil.which(program) is None:
            cause = f"{what} runs {program}, which is not installed"
            server = _SERVERS.get(package)  # the demo starts its own servers
            and_then = f"; then systemctl disable --now {server}, which it starts" if server else ""
            raise StartError(cause, f"apt-get install {package}{and_then}")


def attempt(argv: Sequence[str], stdin: str = "", timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run the command and return its result, whatever its exit code; StartError only if it does not end."""
    try:
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},  # this program parses the output of ping and ip
            start_new_session=True,  # Ctrl-C goes to the demo alone, which ends its children in order
        )
    except subprocess.TimeoutExpired as exc:
        cause = f"`{' '.join(argv)}` did not end within {timeout_s:.0f} s"
        raise StartError(cause, "run it manually to see why; `vxland demo --keep` leaves the namespaces") from exc


def run(*argv: str, stdin: str = "") -> str:
    """Run the command to its end before any interrupt; return its output. StartError with its message if it fails."""
    with interrupt_deferred():  # an `ip netns add` that is cut off would leave a name behind
        done = attempt(argv, stdin)
    if done.returncode != 0:
        error = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        given = f" given {stdin.strip()!r}" if stdin else ""
        cause = f"`{' '.join(argv)}`{given} failed: {error}"
        remedy = "the demo needs full root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and a kernel with namespaces, veth and bridge"
        raise StartError(cause, remedy)
    return done.stdout


def ip_batch(namespace: str, lines: Iterable[str]) -> None:
    """Run `ip -batch` with the lines inside the namespace, in one process."""
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def exec_in(namespace: str, *argv: str) -> tuple[str, ...]:
    """Return the command that runs `argv` inside the namespace."""
    return ("ip", "netns", "exec", namespace, *argv)


def inside(namespace: str, job: Callable[[], T]) -> T:
    """Run `job` in a short-lived thread that enters the namespace; return its result. The caller stays outside."""

    def entered() -> T:
        with (NETNS_DIR / namespace).open("rb") as door:
            if _LIBC.setns(door.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns refused", namespace)
        return job()

    with ThreadPoolExecutor(max_workers=1) as threads:
        return threads.submit(entered).result()


def set_sysctl(namespace: str, key: str, value: int) -> None:
    """Write net.<key> of the namespace; skip a key that the kernel lacks."""
    path = Path("/proc/sys/net", *key.split("."))

    def write() -> None:
        if path.exists():
            path.write_text(f"{value}\n")

    try:
        inside(namespace, write)  # /proc/sys/net shows the calling thread's namespace
    except OSError as exc:
        cause = f"net.{key} cannot be set in a namespace: {exc.strerror}"
        raise StartError(cause, "in a container, run it --privileged") from exc


def namespaces() -> list[str]:
    """Return every named namespace of the machine."""
    return sorted(path.name for path in NETNS_DIR.glob("*"))


def pids_in(namespace: str) -> list[int]:
    """Return the processes inside the namespace."""
    return [int(pid) for pid in attempt(("ip", "netns", "pids", namespace)).stdout.split()]
