"""Services of the cluster, and the source address that a pod sees of each client.

Each node has a pod `talk-N` and, on its own network, `host-N`; both run talk.py. Services of the type NodePort lead to
them: talk-N, host-N, and local-N to talk-N with externalTrafficPolicy Local.
"""

from __future__ import annotations

import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tests.installed import ROOT
from tests.k8s.image import NAME
from tests.kubeadm.cluster import NODES, PATIENCE_S, Cluster, until
from tests.kubeadm.machine import OUTSIDE, Machine
from vxland.lab import shell

_TALK: Final = (ROOT / "tests/kubeadm/talk.py").read_text()
_PORT, _HOST_PORT = 8080, 8090
_KINDS: Final = {"talk": 30080, "host": 30090, "local": 30100}
"""Services, and the port of the nodes that leads to that of node 0."""

Target = tuple[str, int]


def deploy(cluster: Cluster) -> None:
    """Make pods and Services, and return once all pods are ready."""
    items = [_pods(cluster, kind, number) for kind in ("talk", "host") for number in NODES]
    items += [_service(kind, number) for kind in _KINDS for number in NODES]
    cluster.sh("kubectl apply -f -", json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    wait_ready(cluster)


def wait_ready(cluster: Cluster) -> None:
    """Return once all pods are ready, and each node's kube-proxy has rules that lead to them."""
    cluster.kubectl("wait", "--for=condition=Available", "deployments", "--all", f"--timeout={PATIENCE_S:.0f}s")
    ways = [f"--to-destination {address}:{_PORT}" for address in _addresses(cluster)]
    for node in cluster.nodes:

        def led(node: Machine = node) -> bool:
            rules = node.run("iptables-save", "-t", "nat")
            return all(way in rules for way in ways)

        until(f"kube-proxy of {node.name} leads to the pods", led)


def _addresses(cluster: Cluster) -> list[str]:
    """Return the address of each node's pod."""
    pods = {each["metadata"]["labels"]["app"]: each for each in cluster.get("pods")["items"]}
    return [pods[f"talk-{number}"]["status"]["podIP"] for number in NODES]


def _pods(cluster: Cluster, kind: str, number: int) -> dict[str, Any]:
    labels = {"app": f"{kind}-{number}"}
    port = _PORT + (kind == "host")
    command = ["python3", "-c", _TALK, "serve", str(port)]
    container: dict[str, Any] = {"name": "talk", "image": NAME, "imagePullPolicy": "IfNotPresent", "command": command}
    container["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    if kind == "talk":
        container["ports"] = [
            {"name": each.lower(), "containerPort": port, "hostPort": _HOST_PORT, "protocol": each}
            for each in ("TCP", "UDP")
        ]
    spec = {
        "hostNetwork": kind == "host",
        "nodeSelector": {"kubernetes.io/hostname": cluster.nodes[number].name},
        "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{kind}-{number}"},
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def _service(kind: str, number: int) -> dict[str, Any]:
    ports = [
        {
            "name": protocol.lower(),
            "protocol": protocol,
            "port": _PORT,
            "targetPort": _PORT + (kind == "host"),
            "nodePort": _KINDS[kind] + number,
        }
        for protocol in ("TCP", "UDP")
    ]
    spec: dict[str, Any] = {"type": "NodePort", "clusterIP": _cluster_ip(kind, number), "ports": ports}
    spec["selector"] = {"app": f"{'host' if kind == 'host' else 'talk'}-{number}"}
    if kind == "local":
        spec["externalTrafficPolicy"] = "Local"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{kind}-{number}"}, "spec": spec}


def _cluster_ip(kind: str, number: int) -> str:
    return f"10.96.100.{list(_KINDS).index(kind) * 10 + number}"


def expected(cluster: Cluster) -> dict[str, dict[Target, str]]:
    """Return the source address that a pod sees, for each client and address that it asks."""
    pod = _addresses(cluster)
    address = [each.address for each in cluster.nodes]
    device = [f"{cluster.subnet(number)}0" for number in NODES]
    bridge = [f"{cluster.subnet(number)}1" for number in NODES]
    found: dict[str, dict[Target, str]] = {"outside": {}}
    for here, there in ((0, 1), (1, 0)):
        node_port = _KINDS["talk"] + there
        by_port = {(address[here], node_port): device[here], (address[there], node_port): bridge[there]}
        found[f"talk-{here}"] = {
            (pod[there], _PORT): pod[here],
            (_cluster_ip("talk", there), _PORT): pod[here],
            (_cluster_ip("talk", here), _PORT): bridge[here],  # from the pod to itself
            (_cluster_ip("host", there), _PORT): address[here],
            (address[there], _HOST_PORT): address[here],
            **by_port,
        }
        found[f"host-{here}"] = {
            (pod[there], _PORT): device[here],
            (_cluster_ip("talk", there), _PORT): device[here],
            (_cluster_ip("host", there), _PORT): address[here],
            ("127.0.0.1", node_port): device[here],
            **by_port,
        }
        found["outside"] |= by_port | {
            (address[there], _KINDS["local"] + there): OUTSIDE,
            (address[there], _HOST_PORT): OUTSIDE,
        }
    return found


def check(cluster: Cluster) -> None:
    """Ask every address over TCP and UDP. Each byte comes back, and the pod sees the expected source address."""
    wanted = expected(cluster)
    with ThreadPoolExecutor(2) as some:
        answers = some.map(lambda each: _ask(cluster, *each), [(who, list(what)) for who, what in wanted.items()])
    wrong = [
        f"{who} to {host}:{port}: {seen}, and not {source}"
        for (who, what), answer in zip(wanted.items(), answers, strict=True)
        for ((host, port), source), seen in zip(what.items(), answer, strict=True)
        if seen != [source, source]
    ]
    assert not wrong, "\n".join(wrong)


def _ask(cluster: Cluster, who: str, targets: list[Target]) -> list[list[str]]:
    """Return what the servers saw over TCP and UDP, for each target; in its place the error."""
    words = ["-c", _TALK, "ask", json.dumps(targets)]
    if who == "outside":
        answer = shell.run("ip", "netns", "exec", cluster.outside, sys.executable, "-I", *words)
    else:
        answer = cluster.kubectl("exec", f"deployment/{who}", "--", "python3", *map(shlex.quote, words))
    found: list[list[str]] = json.loads(answer)
    return found
