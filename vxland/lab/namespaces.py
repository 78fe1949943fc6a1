"""The two nodes and four pods, made of network namespaces, and their complete removal.

Everything that a demo makes carries its process id: namespaces `vxdemo-<pid>-*` and the directory `/run/vxdemo-<pid>`
with configurations, logs and sockets. Removal therefore needs no list: it removes what carries the id, and ends the
processes inside. A later demo removes the remains of a dead one, unless the file `kept` forbids it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vxland.lab import cgroups, shell
from vxland.lab.signals import interrupt_deferred
from vxland.lab.topology import BRIDGE, NODES, OVERLAY_MTU, UNDERLAY, UNDERLAY_MTU, LabNode, Pod
from vxland.model.errors import StartError

RUN_DIR = Path("/run")
STOP_S = 5.0  # for a process to end before it is killed

_NAME = re.compile(r"vxdemo-(\d+)(?:-.*)?")


class Lab:
    """The namespaces, processes and files of one demo."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.dir = RUN_DIR / f"vxdemo-{self.pid}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.nodes = NODES  # `cni.attach` enters what a CNI plugin decides

    def namespace(self, of: LabNode | Pod) -> str:
        """Return the full name of a node's or pod's namespace."""
        return f"vxdemo-{self.pid}-{of.namespace}"

    def build(self, *, attach: bool = True) -> None:
        """Make all namespaces, links, addresses and routes except flannel.1. `attach`: also cni0 and its pods."""
        self.dir.mkdir(mode=0o700)
        for node in NODES:
            for of in (node, *node.pods):
                shell.run("ip", "netns", "add", self.namespace(of))
                # The walk-through is IPv4. IPv6 is off so that a silent device is really silent.
                for scope in ("all", "default"):
                    shell.set_sysctl(self.namespace(of), f"ipv6.conf.{scope}.disable_ipv6", 1)
        left, right = NODES
        shell.ip_batch(
            self.namespace(left),
            [f"link add {UNDERLAY} type veth peer name {UNDERLAY} netns {self.namespace(right)}"],
        )
        for node in NODES:
            shell.ip_batch(
                self.namespace(node),
                [
                    "link set lo up",
                    f"link set {UNDERLAY} mtu {UNDERLAY_MTU} address {node.underlay_mac} up",
                    f"addr add {node.underlay}/24 brd + dev {UNDERLAY}",
                ],
            )
            shell.set_sysctl(self.namespace(node), "ipv4.ip_forward", 1)
            for pod in node.pods:
                shell.ip_batch(self.namespace(pod), ["link set lo up"])
            if attach:
                self._attach_pods(node)

    def _attach_pods(self, node: LabNode) -> None:
        lines = [
            f"link add {BRIDGE} mtu {OVERLAY_MTU} address {node.bridge_mac} type bridge",
            f"addr add {node.gateway}/{node.subnet.prefixlen} brd + dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ]
        for pod in node.pods:
            lines += [
                f"link add {pod.port} mtu {OVERLAY_MTU} type veth peer name eth0 netns {self.namespace(pod)}",
                f"link set {pod.port} master {BRIDGE} up",
            ]
        shell.ip_batch(self.namespace(node), lines)
        for pod in node.pods:
            shell.ip_batch(
                self.namespace(pod),
                [
                    f"link set eth0 mtu {OVERLAY_MTU} address {pod.mac} up",
                    f"addr add {pod.address}/{node.subnet.prefixlen} brd + dev eth0",
                    f"route add default via {node.gateway}",
                ],
            )

    def start(
        self, name: str, of: LabNode | Pod, argv: Sequence[str], env: dict[str, str], *, service: bool = False
    ) -> subprocess.Popen[bytes]:
        """Run a program inside a node or pod until the end of the demo; `log(name)` has its output.

        A `service` keeps this machine's /sys, where it finds its control group; `ip netns exec` mounts another one.
        """
        namespace = self.namespace(of)
        inside = ("nsenter", f"--net=/run/netns/{namespace}") if service else shell.exec_in(namespace)
        with interrupt_deferred(), self.log(name).open("wb") as log:  # what was started is also recorded
            self.processes[name] = subprocess.Popen(
                (*inside, *argv),  # both become the program: one process id
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        return self.processes[name]

    def log(self, name: str) -> Path:
        """Return the file with the output of a program."""
        return self.dir / f"{name}.log"

    def log_tail(self, name: str, lines: int = 1) -> str:
        """Return the last lines of a program's output."""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])

    def stop(self, name: str) -> int:
        """End one program: SIGTERM, wait, then SIGKILL. Return its exit code, negative for a signal."""
        self.processes[name].terminate()
        return self._ended(name)

    def kill(self, name: str) -> None:
        """End one program by SIGKILL, as a crash would."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def _ended(self, name: str) -> int:
        """Return the exit code of a program that got SIGTERM. It gets only one: a second may find no handler."""
        process = self.processes[name]
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        del self.processes[name]
        return code

    def remove(self) -> dict[str, int]:
        """End every process, then remove every namespace and file. Return the exit codes by name."""
        for process in self.processes.values():
            process.terminate()  # all at once, so that the waits below overlap
        codes = {name: self._ended(name) for name in list(self.processes)}
        remove(self.pid)
        return codes

    def keep(self) -> Path:
        """Leave everything in place when the demo ends; return the script that removes it later."""
        script = self.dir / "remove.sh"
        script.write_text(_REMOVE.format(pid=self.pid, dir=shlex.quote(str(self.dir))))
        (self.dir / "kept").touch()
        return script


_REMOVE = """\
#!/bin/sh
# Ends what `vxland demo --keep` (process {pid}) left running, and removes its namespaces and files.
for ns in $(ip netns list | sed -n 's/^\\(vxdemo-{pid}-[^ ]*\\).*/\\1/p'); do
    for pid in $(ip netns pids "$ns"); do kill "$pid"; done
    tries=50
    while [ "$tries" -gt 0 ] && [ -n "$(ip netns pids "$ns")" ]; do tries=$((tries - 1)); sleep 0.1; done
    for pid in $(ip netns pids "$ns"); do kill -9 "$pid"; done
    ip netns del "$ns"
done
rm -rf {dir}
"""


def remove(pid: int) -> None:
    """Remove the namespaces, control groups and files of the demo with this process id, and end its processes."""
    mine = [name for name in shell.namespaces() if _pid_of(name) == pid]
    for name in mine:
        _empty(name)
        shell.attempt(("ip", "netns", "del", name))
    for path in cgroups.of_labs():
        if _pid_of(path.name) == pid:
            cgroups.remove(path)
    shutil.rmtree(RUN_DIR / f"vxdemo-{pid}", ignore_errors=True)


def remains(pid: int) -> list[str]:
    """Return the remaining namespaces, control groups and files of the demo with this process id, by name."""
    paths = [*shell.NETNS_DIR.glob("vxdemo-*"), *cgroups.of_labs(), *RUN_DIR.glob("vxdemo-*")]
    return sorted(str(path) for path in paths if _pid_of(path.name) == pid)


def sweep() -> list[int]:
    """Remove the remains of demos that were killed; return their process ids."""
    seen = {_pid_of(name) for name in (*shell.namespaces(), *(path.name for path in RUN_DIR.glob("vxdemo-*")))}
    swept = []
    for pid in sorted(pid for pid in seen if pid is not None):
        kept = RUN_DIR / f"vxdemo-{pid}" / "kept"
        if pid == os.getpid() and kept.exists():  # in a container process ids repeat quickly
            cause = f"a kept demo had the process id {pid} too"
            raise StartError(cause, f"remove it with `sh {kept.parent}/remove.sh`, or try again")
        if not kept.exists() and (pid == os.getpid() or not _alive(pid)):
            remove(pid)
            swept.append(pid)
    return swept


def _pid_of(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _empty(namespace: str) -> None:
    """End every process in the namespace: SIGTERM, wait, then SIGKILL."""
    _signal(namespace, signal.SIGTERM)
    end = time.monotonic() + STOP_S
    while shell.pids_in(namespace) and time.monotonic() < end:
        time.sleep(0.02)
    _signal(namespace, signal.SIGKILL)


def _signal(namespace: str, number: signal.Signals) -> None:
    for pid in shell.pids_in(namespace):
        with suppress(ProcessLookupError):  # it has already ended
            os.kill(pid, number)
