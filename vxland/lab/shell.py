"""The commands that a reader of the walk-through would type, run for them; a failure names the command."""

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

from vxland.lab.signals import held
from vxland.lab.topology import Kind
from vxland.model.errors import StartError

T = TypeVar("T")

_SERVERS = {"etcd-server": "etcd"}  # packages that start these services

NETNS_DIR = Path("/run/netns")  # where `ip netns` keeps its names
TUN = Path("/dev/net/tun")
PYTHON = (sys.executable, "-P")
"""The Python that runs here, for `-m` and `-c`: it imports nothing from the current directory."""

PACKAGES = {"ip": "iproute2", "ping": "iputils-ping", "iperf3": "iperf3"}
TIMEOUT_S = 30.0  # no command of the demo takes half of it; one that does is stuck

_LIBC = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12 only
_CLONE_NEWNET = 0x4000_0000


def require(kinds: Iterable[Kind], what: str = "the demo", more: Mapping[str, str] | None = None) -> None:
    """Refuse to start without root, the programs used (`more` by their packages), and a TAP driver for vxland."""
    if os.geteuid() != 0:
        cause, remedy = f"{what} makes network namespaces, and only root may", "run it with sudo"
        raise StartError(cause, remedy)
    require_programs(what, {**PACKAGES, **(more or {})})
    if "vxland" in kinds and not TUN.exists():
        cause = f"{TUN} is missing"
        raise StartError(cause, "modprobe tun; a container needs --device /dev/net/tun")


def require_programs(what: str, packages: Mapping[str, str]) -> None:
    """Refuse to start without the programs, and name the package of the first that is missing."""
    for program, package in packages.items():
        if shutil.which(program) is None:
            cause = f"{what} runs {program}, which is not installed"
            server = _SERVERS.get(package)  # the demo starts servers of its own
            and_then = f"; then systemctl disable --now {server}, which it has started" if server else ""
            raise StartError(cause, f"apt-get install {package}{and_then}")


def attempt(argv: Sequence[str], stdin: str = "", timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """How the command ended, whatever its exit code; StartError only when it never ended."""
    try:
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},  # ping and ip are read by this program too
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its children in order
        )
    except subprocess.TimeoutExpired as exc:
        cause = f"`{' '.join(argv)}` did not end within {timeout_s:.0f} s"
        raise StartError(cause, "run it by hand to see why; `vxland demo --keep` leaves the namespaces") from exc


def run(*argv: str, stdin: str = "") -> str:
    """What the command prints, run to its end before any interrupt. StartError with its complaint when it fails."""
    with held():  # `ip netns add` cut off, or still at work while all is removed, would leave a name behind
        done = attempt(argv, stdin)
    if done.returncode != 0:
        complaint = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        given = f" given {stdin.strip()!r}" if stdin else ""
        cause = f"`{' '.join(argv)}`{given} failed: {complaint}"
        remedy = "the demo needs full root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and a kernel with namespaces, veth and bridge"
        raise StartError(cause, remedy)
    return done.stdout


def ip_batch(namespace: str, lines: Iterable[str]) -> None:
    """Run `ip -batch` with the lines inside the namespace: one process, many commands."""
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def exec_in(namespace: str, *argv: str) -> tuple[str, ...]:
    """The command that runs `argv` inside the namespace."""
    return ("ip", "netns", "exec", namespace, *argv)


def inside(namespace: str, job: Callable[[], T]) -> T:
    """What `job` returns, done by a short-lived thread that has entered the namespace; the caller stays outside."""

    def entered() -> T:
        with (NETNS_DIR / namespace).open("rb") as door:
            if _LIBC.setns(door.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns refused", namespace)
        return job()

    with ThreadPoolExecutor(max_workers=1) as threads:
        return threads.submit(entered).result()


def set_sysctl(namespace: str, key: str, value: int) -> None:
    """Write net.<key> of the namespace; a key that the kernel lacks is left alone."""
    path = Path("/proc/sys/net", *key.split("."))

    def write() -> None:
        if path.exists():
            path.write_text(f"{value}\n")

    try:
        inside(namespace, write)  # /proc/sys/net is that of the calling thread's namespace
    except OSError as exc:
        cause = f"net.{key} cannot be set in a namespace: {exc.strerror}"
        raise StartError(cause, "in a container, run it --privileged") from exc


def namespaces() -> list[str]:
    """Every named namespace of the machine."""
    return sorted(path.name for path in NETNS_DIR.glob("*"))


def pids_in(namespace: str) -> list[int]:
    """The processes inside the namespace."""
    return [int(pid) for pid in attempt(("ip", "netns", "pids", namespace)).stdout.split()]
