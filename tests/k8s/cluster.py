"""A real Kubernetes cluster of two nodes, made by `cluster.sh` of the folder VXLAND_K8S, and daemons in its nodes.

    kubectl --- API server, scheduler, controllers        netns ...ctl  10.99.0.254
                     |                  |
        node1  10.99.0.1           node2  10.99.0.2       each: kubelet, containerd, a network daemon, two busybox pods

Nothing here measures time. Events are awaited with timeouts that only a broken cluster exceeds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
NODES = (1, 2)
READYZ = "http://127.0.0.1:8082/readyz"
HELM = ROOT / "build" / "helm" / "helm"
PREFIX = "vxk"
"""The beginning of the names of the cluster's network namespaces."""
FAKE_FLANNELD = "fake-flanneld"
"""The name under which a test starts cluster.sh's fake flanneld."""


class Cluster:
    """The cluster that the script `tool` makes in the folder `lab` of the programs in `binaries`."""

    def __init__(self, tool: Path, binaries: Path, lab: Path) -> None:
        self.tool = tool
        self.lab = lab
        self._env = os.environ | {"LAB": str(lab), "BIN": str(binaries), "P": PREFIX}

    def run(self, *words: str | Path) -> str:
        """Run `cluster.sh WORDS` with its output shown, and return that output."""
        lines = []
        with self.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.write(f"    {line}")
                sys.stdout.flush()
                lines.append(line)
        assert process.returncode == 0, f"cluster.sh {' '.join(map(str, words))}: {''.join(lines[-20:])}"
        return "".join(lines)

    def popen(
        self, *words: str | Path, stdin: int = subprocess.DEVNULL, stdout: int, stderr: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """Start `cluster.sh WORDS` in the background."""
        command = ["bash", self.tool, *words]
        return subprocess.Popen(command, env=self._env, text=True, stdin=stdin, stdout=stdout, stderr=stderr)

    def ask(self, *words: str | Path, check: bool = True) -> str:
        """Run `cluster.sh WORDS` quietly and return its output."""
        done = subprocess.run(
            ["bash", self.tool, *words], env=self._env, text=True, capture_output=True, check=False, timeout=600
        )
        assert not check or done.returncode == 0, f"{' '.join(map(str, words))}: {done.stderr or done.stdout}"
        return done.stdout

    def kubectl(self, *words: str | Path) -> str:
        """Run `kubectl WORDS` and return its output."""
        return self.ask("kubectl", *words)

    def helm(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `helm WORDS` where the API server is."""
        homes = {f"HELM_{kind}_HOME": str(self.lab / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        command = ("nsenter", f"--net=/run/netns/{PREFIX}ctl", HELM, "--kubeconfig", self.lab / "kc.yaml", *words)
        return subprocess.run(
            command, env=os.environ | homes, text=True, capture_output=True, check=False, timeout=600, cwd=self.lab
        )

    def get(self, *words: str) -> dict[str, Any]:
        """Return the result of `kubectl get WORDS` as an object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found

    def on(self, node: int, *command: str | Path) -> str:
        """Run `command` inside `node` and return its output."""
        return self.ask("exec", str(node), *command)

    def start(self, node: int, name: str, *command: str | Path) -> None:
        """Start `command` in the background of `node`, under this name."""
        self.run("daemon", str(node), name, *command)

    def stop(self, node: int, name: str) -> None:
        """Send SIGTERM to the command started as `name`, and return once it has ended."""
        self.run("stop", str(node), name)

    def kill(self, node: int, name: str) -> None:
        """Send SIGKILL to the command started as `name`."""
        self.on(node, "sh", "-c", 'kill -KILL "$(cat "$0")"', self.lab / f"node{node}" / f"{name}.pid")

    def start_vxland(self, node: int, fast_path: str = "auto") -> None:
        """Start vxland with flanneld's command line, as the walk-through needs it, and return once it is ready."""
        file = self.lab / f"node{node}" / "vxland.yaml"
        file.write_text(f"datapath: {{fast_path: {fast_path}}}\n")
        command = ["env", f"NODE_NAME=node{node}", f"PYTHONPATH={ROOT}", f"FLANNELD_VXLAND_CONFIG={file}"]
        command += [sys.executable, "-m", "vxland", "flanneld"]
        flags = ["--kube-subnet-mgr", f"--kubeconfig-file={self.lab}/kc.yaml", "--iface=eth0", "--ip-masq"]
        flags += [f"--net-config-path={self.lab}/net-conf.json", "--healthz-ip=127.0.0.1", "--healthz-port=8082"]
        self.start(node, "vxland", *command, *flags)
        try:
            self.wait_ready(node)
        except AssertionError:
            sys.stdout.write((self.lab / f"node{node}" / "vxland.log").read_text(errors="replace")[-4000:])
            raise
        wanted = fast_path == "auto"
        until(f"node{node}'s fast path is {fast_path}", lambda: self.has_programs(node) == wanted)

    def has_programs(self, node: int) -> bool:
        """Return whether programs of the fast path are attached to the underlay of `node`."""
        return "vxland_decap" in self.on(node, "tc", "filter", "show", "dev", "eth0", "ingress")

    def wait_ready(self, node: int) -> None:
        """Return once the daemon of `node` reports that it is ready."""
        until(f"node{node} is ready", lambda: self.status(node, READYZ) == "200")

    def status(self, node: int, url: str) -> str:
        """Return the HTTP status of `url` inside `node`; 000 without an answer."""
        words = ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url)
        return self.ask("exec", str(node), *words, check=False)

    def start_kernel_vxlan(self, node: int) -> None:
        """Set up a node as flannel does for the kernel: a vxlan device, the peer's entries, flannel's annotations."""
        self.on(node, "rm", "-f", "/run/flannel/subnet.env")
        self.start(node, FAKE_FLANNELD, "bash", self.tool.with_name("standin.sh"), str(node), self.lab / "kc.yaml")

    def deploy(self) -> None:
        """Deploy the walk-through again: four busybox pods on two nodes, attached by the bridge plugin."""
        if self.get("deployments")["items"]:
            self.kubectl("scale", "deployment", "busybox", "--replicas=0")
            self.kubectl("delete", "pods", "-l", "app=busybox", "--force", "--grace-period=0")
            until("the old pods are gone", lambda: not self.get("pods", "-l", "app=busybox")["items"])
        self.run("deploy")

    def walk_through(self) -> None:
        """Run every check of the walk-through with the current pods."""
        self.run("check")

    def pods(self, node: int) -> list[tuple[str, str]]:
        """Return name and address of each of the Deployment's pods on `node`."""
        found = self.get("pods", "-l", "app=busybox", "--field-selector", f"spec.nodeName=node{node}")
        return [(pod["metadata"]["name"], pod["status"]["podIP"]) for pod in found["items"]]

    def pod_cidr(self, node: int) -> str:
        """Return the subnet of the pods of `node`."""
        cidr: str = self.get("node", f"node{node}")["spec"]["podCIDR"]
        return cidr

    def routes(self, node: int) -> set[str]:
        """Return the destinations that `node` reaches through the overlay device."""
        return {line.split()[0] for line in self.on(node, "ip", "route", "show", "dev", "flannel.1").splitlines()}


def until(what: str, holds: Callable[[], bool]) -> None:
    """Return once `holds()`; AssertionError names `what` if that does not happen."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain: {what}"
        time.sleep(0.2)  # polls: the state is inside another machine
