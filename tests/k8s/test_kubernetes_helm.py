"""The Helm chart in the cluster of test_kubernetes.py, after its tests; alone, the first test makes what they leave.

That is deploy/'s DaemonSet on both nodes beside flannel's ConfigMap, with cni-bridge.patch.yml, and four busybox pods.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.k8s import image
from tests.k8s.cluster import NODES, Cluster, until
from tests.k8s.test_kubernetes import DAEMONSET, DEPLOY, LABEL, NAMESPACE, patch, planes, ready_nodes
from tests.k8s.traffic import traffic

CHART = DEPLOY / "helm" / "vxland"
BESIDE_FLANNEL = DEPLOY / "helm" / "kube-vxland.values.yaml"
BOTH = {f"node{node}" for node in NODES}


def helm(cluster: Cluster, *words: str | Path) -> str:
    """Run helm for the release's namespace, and return its output."""
    done = cluster.helm(*NAMESPACE, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def containers(cluster: Cluster) -> list[str]:
    """Return the names of the containers of the DaemonSet."""
    spec = cluster.get(*NAMESPACE, DAEMONSET)["spec"]["template"]["spec"]
    return [each["name"] for kind in ("initContainers", "containers") for each in spec.get(kind, [])]


def names(cluster: Cluster) -> set[str]:
    """Return the names of vxland's pods."""
    return {pod["metadata"]["name"] for pod in cluster.get(*NAMESPACE, "pods", "-l", "app=vxland")["items"]}


@pytest.fixture(scope="module", autouse=True)
def _manifests(cluster: Cluster) -> None:
    """The manifests' DaemonSet on both nodes, and four pods; test_kubernetes.py leaves both."""
    if cluster.get(*NAMESPACE, "daemonsets")["items"]:
        return
    image.load(cluster)
    cluster.kubectl("create", "-f", DEPLOY / "kube-flannel-cfg.yml")
    cluster.kubectl("apply", "-f", DEPLOY / "kube-vxland.yml")
    patch(cluster, "kube-vxland-ds", "cni-bridge")
    cluster.kubectl("label", "node", "--all", f"{LABEL}=")
    until("vxland is ready on both nodes", lambda: ready_nodes(cluster, "vxland") == BOTH)
    cluster.kubectl("wait", "--for=condition=Ready", "node/node1", "node/node2", "--timeout=120s")
    cluster.deploy()


def test_manifests_become_a_release(cluster: Cluster) -> None:
    """A release takes over the objects of the manifests, their pods, and loses no ping."""
    until("the fast path is on", lambda: all(each["fast_path"]["on"] for each in planes(cluster)))
    pods = names(cluster)
    with traffic(cluster) as running:
        words = ("--values", BESIDE_FLANNEL, "--set", "cni.conflist=bridge", "--take-ownership", "--force-conflicts")
        helm(cluster, "install", "vxland", CHART, *words, "--wait")
        lost = running.report("helm install over the manifests")
    assert lost == 0
    assert names(cluster) == pods


def test_upgrade(cluster: Cluster) -> None:
    """`helm upgrade` with another setting replaces the pods, loses no ping, and the daemons have the setting."""
    with traffic(cluster) as running:
        words = ("--set", "config.security.source_check=strict,config.datapath.fast_path=auto", "--force-conflicts")
        helm(cluster, "upgrade", "vxland", CHART, "--reuse-values", *words, "--wait")
        lost = running.report("helm upgrade with another setting")
    assert lost == 0
    assert [each["source_check"] for each in planes(cluster)] == ["strict"] * len(NODES)


def test_value_out_of_range(cluster: Cluster) -> None:
    """A value out of range is refused by name, before anything in the cluster changes."""
    before = cluster.get(*NAMESPACE, DAEMONSET)["metadata"]["generation"]
    done = cluster.helm(*NAMESPACE, "upgrade", "vxland", CHART, "--reuse-values", "--set", "backend.vni=16777216")
    assert done.returncode == 1
    assert "'/backend/vni'" in done.stderr
    assert cluster.get(*NAMESPACE, DAEMONSET)["metadata"]["generation"] == before
    assert [each["revision"] for each in json.loads(helm(cluster, "history", "vxland", "-o", "json"))] == [1, 2]


def test_new_cluster(cluster: Cluster) -> None:
    """Without manifests, labels and conflists, the chart's own values make a network, and pods keep their traffic."""
    with traffic(cluster) as running:
        helm(cluster, "uninstall", "vxland", "--wait")
        until("no pod is left", lambda: not names(cluster))
        cluster.kubectl(*NAMESPACE, "delete", "configmap", "kube-flannel-cfg")
        cluster.kubectl("label", "node", "--all", f"{LABEL}-")
        for node in NODES:
            cluster.on(node, "rm", "/etc/cni/net.d/10-flannel.conflist")
        helm(cluster, "install", "vxland", CHART, "--wait")
        lost = running.report("helm uninstall and install")
    assert lost == 0
    assert containers(cluster) == ["kube-vxland", "cni-bridge"]
    assert ready_nodes(cluster, "vxland") == BOTH
    cluster.kubectl("wait", "--for=condition=Ready", "node/node1", "node/node2", "--timeout=120s")
    cluster.deploy()
    with traffic(cluster) as running:
        assert running.report("new pods") == 0
