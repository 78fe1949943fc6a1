"""A booted Debian in a container, in its own network namespace; e0 is its underlay.

Its files are those of the shared root file system; its changes are kept in memory and lost with it. /etc/vxland is a
folder of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.removal import removing
from vxland.lab import shell

T = TypeVar("T")

MAC: Final = ("ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce")
CGROUPS: Final = Path("/sys/fs/cgroup")
_DEADLINE_S: Final = 60.0
_LONGEST_S: Final = 900.0
"""For one command: an installation on a busy machine. It ends a hang, and judges no speed."""

_ENTER_CGROUPS: Final = (
    'for group in $GROUPS_TO_ENTER; do mkdir -p $group; echo $$ >$group/cgroup.procs; done; exec "$@"'
)


def wait_until(condition: Callable[[], T], what: str, hint: Callable[[], str] = str) -> T:
    """Return the result of `condition()` once it is true. AssertionError, with the hint, if it never is."""
    end = time.monotonic() + _DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain: {what}\n{hint()}"
        time.sleep(0.05)
    return found


class Node:
    """Node 0 or 1 of a pair; `name` is the pair's."""

    hierarchies: tuple[str, ...] = ("systemd", "unified")
    """Hierarchies of cgroup version 1 in which it has a group of its own."""

    options: tuple[str, ...] = ("--capability=CAP_NET_ADMIN,CAP_BPF", "--system-call-filter=bpf")
    """Options of systemd-nspawn: units may do here what they may do on a machine."""

    def __init__(self, name: str, number: int, root: Path, scratch: Path) -> None:
        self.number = number
        self.name = f"{name}-{'ab'[number]}"
        self.address = f"192.168.111.{128 + number}"
        self.overlay = f"10.244.{number}.0"
        self.etc = scratch / self.name / "etc"
        self._root = root
        self._log = scratch / self.name / "console"
        self._tun = scratch / self.name / "tun"
        self._groups = [CGROUPS / each / self.name for each in self.hierarchies if (CGROUPS / each).is_dir()]
        self._groups = self._groups or [CGROUPS / self.name]  # version 2 only
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0

    def create(self) -> None:
        """Make the network namespace."""
        self.etc.mkdir(parents=True)
        os.mknod(self._tun, stat.S_IFCHR | 0o666, shell.TUN.stat().st_rdev)
        self._tun.chmod(0o666)  # as udev sets it; a container without udev uses the machine's
        shell.run("ip", "netns", "add", self.name)
        shell.set_sysctl(self.name, "ipv4.ip_forward", 1)
        shell.run("ip", "-n", self.name, "link", "set", "lo", "up")

    def connect(self) -> None:
        """Give the underlay, which exists, its address."""
        shell.ip_batch(self.name, (f"addr add {self.address}/24 dev e0", "link set e0 up"))

    def boot(self) -> None:
        """Start the container."""
        with self._log.open("wb") as log:
            self._container = subprocess.Popen(
                [
                    *("sh", "-c", _ENTER_CGROUPS, "sh", "systemd-nspawn", "-q", "-D", str(self._root)),
                    *("-M", self.name, "--register=no", "--keep-unit", "--volatile=overlay", "--console=pipe", "-b"),
                    *(f"--network-namespace-path=/run/netns/{self.name}", f"--bind={self._tun}:/dev/net/tun"),
                    *(f"--bind={self.etc}:/etc/vxland", "--kill-signal=SIGRTMIN+3"),
                    *self.options,
                ],
                env={**os.environ, "GROUPS_TO_ENTER": " ".join(map(str, self._groups))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_booted(self) -> None:
        """Return once systemd inside reports that it is running."""
        container = self._container
        assert container is not None

        def state() -> bool:
            assert container.poll() is None, self._log.read_text(errors="replace")[-2000:]
            found = shell.attempt(("ps", "-o", "pid=", "--ppid", str(container.pid))).stdout.split()
            self._init = int(found[0]) if found else 0
            return bool(found) and self.attempt("systemctl", "is-system-running").stdout.strip() == "running"

        wait_until(state, f"{self.name} is up", lambda: self.attempt("systemctl", "--failed").stdout)
        self.run("mount", "-o", "remount,bind,rw", "/proc/sys")  # as on a machine; nspawn makes it read-only
        self.run("/usr/lib/systemd/systemd-sysctl", "--prefix=/net/ipv4/ping_group_range")

    def down(self) -> None:
        """Stop the container and remove what create() and boot() made."""
        if self._container is not None:
            self._container.terminate()
            try:
                self._container.wait(20)
            except subprocess.TimeoutExpired:
                self._container.kill()
                self._container.wait()
        shell.attempt(("ip", "netns", "del", self.name))
        for group in self._groups:
            for folder in sorted(group.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):  # a plain file, or a group that is already gone
                    folder.rmdir()
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()

    def attempt(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside the container and return its result."""
        inside = ("nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C")
        return shell.attempt((*inside, *argv), stdin, timeout_s=_LONGEST_S)

    def run(self, *argv: str) -> str:
        """Run a command inside, which must succeed, and return its output."""
        done = self.attempt(*argv)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def ip_json(self, command: str) -> list[dict[str, Any]]:
        """Return the output of one `ip -j` command; the empty list for a device that does not exist."""
        done = shell.attempt(("ip", "-n", self.name, "-j", *command.split()))
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return [entry for entry in found if entry]


@contextlib.contextmanager
def booted(root: Path, name: str, scratch: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes of one root file system, booted and connected; removed afterwards, on failure and Ctrl-C too."""
    lab = scratch / name
    pair = Node(name, 0, root, lab), Node(name, 1, root, lab)
    with removing(*(node.down for node in pair), partial(shutil.rmtree, lab, ignore_errors=True)):
        for node in pair:
            node.create()
        shell.run("ip", "-n", pair[0].name, "link", "add", "e0", "type", "veth", "peer", "e0", "netns", pair[1].name)
        for node in pair:
            node.connect()
            node.boot()
        for node in pair:
            node.wait_booted()
        yield pair


class Service:
    """A unit of a node, and its configuration file."""

    def __init__(
        self, node: Node, unit: str = "vxland", vni: int = 1, port: int = 8472, network: str = "10.244"
    ) -> None:
        self.node = node
        self.unit = unit
        self.path = node.etc / f"{unit.partition('@')[2] or 'vxland'}.yaml"
        other = 1 - node.number
        self.settings: dict[str, Any] = {
            "overlay": {
                "network": f"{network}.0.0/16",
                "subnet": f"{network}.{node.number}.0/24",
                "vni": vni,
                "port": port,
                "mac": MAC[node.number],
            },
            "underlay": {"interface": "e0"},
            "datapath": {"workers": 2, "fast_path": "off"},
            "registry": {
                "peers": [
                    {"subnet": f"{network}.{other}.0/24", "vtep": f"192.168.111.{128 + other}", "mac": MAC[other]}
                ]
            },
            "metrics": {"listen": ""},
        }

    def write(self) -> None:
        """Write the settings; JSON is YAML too."""
        self.path.write_text(json.dumps(self.settings))

    def systemctl(self, verb: str) -> str:
        """Run `systemctl VERB UNIT`, which must succeed."""
        done = self.node.attempt("systemctl", verb, self.unit)
        assert done.returncode == 0, f"systemctl {verb} {self.unit}: {done.stderr}\n{self.log()}"
        return done.stdout

    def show(self, key: str) -> str:
        """Return a property of the unit."""
        return self.node.run("systemctl", "show", "--value", "-p", key, self.unit).strip()

    @property
    def pid(self) -> int:
        """The main process id inside the container; 0 if there is none."""
        return int(self.show("MainPID"))

    def kill(self, number: signal.Signals) -> None:
        """Send the main process a signal."""
        self.node.run("kill", f"-{number.value}", str(self.pid))

    def wait_restarted(self, pid: int) -> None:
        """Return once a process other than `pid` has reported that it is ready."""
        wait_until(
            lambda: self.show("ActiveState") == "active" and self.pid not in {0, pid},
            f"{self.unit} is back",
            self.log,
        )

    def log(self) -> str:
        """Return the unit's log."""
        return self.node.attempt("journalctl", "-u", self.unit, "-o", "cat", "--no-pager").stdout
