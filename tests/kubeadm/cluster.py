"""A cluster of two nodes that kubeadm makes as docs/kubeadm.md says, and a host beside it.

    outside 192.168.111.1 === br0 === e0 node 0, 192.168.111.128: the control plane
                               ====== e0 node 1, 192.168.111.129

Nothing here measures time. Events are awaited with timeouts that only a broken cluster exceeds.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.installed import ROOT
from tests.kubeadm.machine import IMAGES, OUTSIDE, Machine
from tests.removal import removing
from vxland.lab import shell

NODES: Final = (0, 1)
PATIENCE_S: Final = 120.0

_PLAIN: Final = ("tso", "gso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx")
"""Features that a plain card lacks: only packets of the MTU cross, with their checksums."""

_SKIPPED: Final = " --skip-phases=addon/coredns"
"""Added to the page's command: there is no coredns here."""


def blocks(title: str) -> list[str]:
    """Return the indented blocks of a section of the page, in order."""
    text = (ROOT / "docs/kubeadm.md").read_text()
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?:    .*\n)+", section)]


def until(what: str, holds: Callable[[], bool]) -> None:
    """Return once `holds()`; AssertionError names `what` if that does not happen."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain: {what}"
        time.sleep(0.5)  # polls: the state is inside another machine


class Cluster:
    """Both nodes, and the host outside, a network namespace of this name."""

    def __init__(self, nodes: tuple[Machine, Machine], outside: str) -> None:
        self.nodes = nodes
        self.outside = outside
        self._credentials = ""

    def create(self, images: Path) -> None:
        """Prepare the nodes and create the cluster as the page says; it has no network then."""
        first, _ = self.nodes
        prepare, load = blocks("Prepare the nodes")
        init, join = blocks("Create the cluster")

        def ready(node: Machine) -> None:
            archives = [each.name for each in images.iterdir() if each.name not in load]
            node.sh(prepare)
            for each in archives:
                node.sh(f"ctr -n k8s.io images import {IMAGES}/{each}")
            node.sh(f"cd {IMAGES}\n{load}")

        with ThreadPoolExecutor() as both:
            list(both.map(ready, self.nodes))
        command, self._credentials, *_ = init.splitlines()
        assert command.startswith("kubeadm init")
        first.sh(command.partition("#")[0].rstrip() + _SKIPPED)
        self._fit_kube_proxy()
        assert join.startswith("kubeadm join")
        self.join()

    def join(self) -> None:
        """Join the second node, with the command that kubeadm shows."""
        self.nodes[1].sh(self.nodes[0].sh("kubeadm token create --print-join-command"))

    def _fit_kube_proxy(self) -> None:
        """Leave the size of the connection table alone: a network namespace cannot change it."""
        config = json.dumps(self.get("-n", "kube-system", "configmap", "kube-proxy"))
        assert "maxPerCore: null" in config
        self.sh("kubectl apply -f -", config.replace("maxPerCore: null", "maxPerCore: 0"))
        self.kubectl("-n", "kube-system", "delete", "pods", "-l", "k8s-app=kube-proxy")

    def sh(self, script: str, stdin: str = "") -> str:
        """Run commands of a page on the first node, with the credentials that the page names."""
        return self.nodes[0].sh(f"{self._credentials}\n{script}", stdin)

    def kubectl(self, *words: str) -> str:
        """Run `kubectl WORDS` and return its output."""
        return self.sh(f"kubectl {' '.join(words)}")

    def get(self, *words: str) -> dict[str, Any]:
        """Return the result of `kubectl get WORDS` as an object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found

    def wait_nodes_ready(self) -> None:
        """Return once both nodes are Ready."""
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={PATIENCE_S:.0f}s")

    def subnet(self, number: int) -> str:
        """Return the beginning of the addresses of a node's pods: 10.244.1. for 10.244.1.0/24."""
        cidr: str = self.get("node", self.nodes[number].name)["spec"]["podCIDR"]
        return cidr.removesuffix("0/24")

    def ctl(self, number: int, *words: str) -> dict[str, Any]:
        """Return the answer of `vxlandctl WORDS --json` in vxland's pod of a node."""
        at = f"--field-selector=spec.nodeName={self.nodes[number].name}"
        (pod,) = self.get("-n", "kube-flannel", "pods", "-l", "app=vxland", at)["items"]
        name = pod["metadata"]["name"]
        words = ("-n", "kube-flannel", "exec", name, "-c", "kube-vxland", "--", "vxlandctl", *words, "--json")
        answer: dict[str, Any] = json.loads(self.kubectl(*words))
        return answer

    @contextmanager
    def plain_wires(self) -> Iterator[None]:
        """Take features from both ends of the nodes' wires, and give them back."""
        ends = [(node.name, "e0") for node in self.nodes] + [(self.outside, f"v{number}") for number in NODES]
        try:
            for namespace, device in ends:
                _set_features(namespace, device, "off")
            yield
        finally:
            for namespace, device in ends:
                _set_features(namespace, device, "on")


def _set_features(namespace: str, device: str, value: str) -> None:
    words = [word for feature in _PLAIN for word in (feature, value)]
    shell.run("ip", "netns", "exec", namespace, "ethtool", "-K", device, *words)


@contextmanager
def booted(root: Path, images: Path, name: str, scratch: Path) -> Iterator[Cluster]:
    """Two nodes, booted and connected, without a cluster; removed afterwards, on failure and Ctrl-C too."""
    lab, outside = scratch / name, f"{name}-o"
    nodes = Machine(name, 0, root, lab, images), Machine(name, 1, root, lab, images)
    with removing(
        *(node.down for node in nodes),
        partial(shell.attempt, ("ip", "netns", "del", outside)),
        partial(shutil.rmtree, lab, ignore_errors=True),
    ):
        shell.run("ip", "netns", "add", outside)
        shell.ip_batch(outside, ("link set lo up", "link add br0 type bridge", f"addr add {OUTSIDE}/24 dev br0"))
        shell.ip_batch(outside, ("link set br0 up",))
        for node in nodes:
            node.create()
            end = f"v{node.number}"
            shell.run("ip", "-n", node.name, "link", "add", "e0", "type", "veth", "peer", end, "netns", outside)
            shell.ip_batch(outside, (f"link set {end} master br0", f"link set {end} up"))
            node.connect()
            node.boot()
        for node in nodes:
            node.wait_booted()
        yield Cluster(nodes, outside)
