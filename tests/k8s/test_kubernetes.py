"""vxland as the network of a real Kubernetes cluster: flannel's walk-through, and changes of nodes.

The tests build on each other, in order, on one cluster of two nodes: run all of them, with `make test-k8s`. Most end
with the walk-through: four busybox pods on two nodes, pings on one node and between both, captures at cni0, flannel.1
and eth0, and a file over HTTP. Pods stay while the daemons below them change.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import image
from tests.k8s.cluster import FAKE_FLANNELD, NODES, READYZ, ROOT, Cluster, until
from tests.k8s.traffic import traffic

DEPLOY = ROOT / "deploy"
LABEL = "node.vxland/enabled"
NAMESPACE = ("-n", "kube-flannel")
DAEMONSET = "daemonset/kube-vxland-ds"
FLANNEL = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: flannel, namespace: kube-flannel}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flannel}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flannel}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flannel}
subjects: [{kind: ServiceAccount, name: flannel, namespace: kube-flannel}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-flannel-ds, namespace: kube-flannel}
spec:
  selector: {matchLabels: {app: flannel}}
  template:
    metadata: {labels: {app: flannel}}
    spec:
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]}]
      hostNetwork: true
      priorityClassName: system-node-critical
      serviceAccountName: flannel
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists, effect: NoSchedule}]
      containers: [{name: kube-flannel, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}]
"""
"""flannel's manifest as far as scheduling and rights go; its daemon runs in the node, outside the pod."""

OWN_CONFIG = """data: {cluster: 'has more in its ConfigMap than a file of anybody else'}"""


RETIRE = re.findall(
    r"^ +kubectl ((?:-n kube-flannel )?delete .*flannel(?:-ds)?)$",
    (ROOT / "docs" / "migrate-from-flannel.md").read_text(),
    re.MULTILINE,
)
"""The guide's commands that retire flannel."""


def daemonset_nodes(cluster: Cluster, app: str) -> set[str]:
    """Return the nodes that have a pod of a DaemonSet; a pod that waits for the scheduler is on none."""
    return {pod["spec"].get("nodeName") for pod in cluster.get(*NAMESPACE, "pods", "-l", f"app={app}")["items"]} - {
        None
    }


def waiting(cluster: Cluster, app: str) -> list[str]:
    """Return the scheduler's reasons for pods of a DaemonSet that are on no node."""
    return [
        state["message"]
        for pod in cluster.get(*NAMESPACE, "pods", "-l", f"app={app}")["items"]
        for state in pod["status"].get("conditions", [])
        if (state["type"], state["status"]) == ("PodScheduled", "False")
    ]


def config(cluster: Cluster) -> dict[str, str]:
    """Return the ConfigMap of the cluster's network."""
    data: dict[str, str] = cluster.get(*NAMESPACE, "configmap", "kube-flannel-cfg")["data"]
    return data


def patch(cluster: Cluster, daemonset: str, name: str) -> None:
    """Apply a patch of deploy/ to a DaemonSet."""
    cluster.kubectl(*NAMESPACE, "patch", "daemonset", daemonset, "--patch-file", DEPLOY / f"{name}.patch.yml")


def ready_nodes(cluster: Cluster, app: str) -> set[str]:
    """Return the nodes whose pod of a DaemonSet is ready."""
    return {
        pod["spec"]["nodeName"]
        for pod in cluster.get(*NAMESPACE, "pods", "-l", f"app={app}")["items"]
        if "deletionTimestamp" not in pod["metadata"]
        and any(state["type"] == "Ready" and state["status"] == "True" for state in pod["status"].get("conditions", []))
    }


def planes(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the status of each pod of vxland, as vxlandctl shows it."""
    pods = [pod["metadata"]["name"] for pod in cluster.get(*NAMESPACE, "pods", "-l", "app=vxland")["items"]]
    ctl = ("-c", "kube-vxland", "--", "python", "-P", "-m", "vxland.ctl", "status", "--json")
    answers = [json.loads(cluster.kubectl(*NAMESPACE, "exec", pod, *ctl)) for pod in pods]
    return [answer["planes"][0] for answer in answers]


def roll_out(cluster: Cluster, *words: str) -> None:
    """Run `kubectl WORDS`, which replaces vxland's pods, and return once the new ones are ready."""
    cluster.kubectl(*NAMESPACE, *words)
    cluster.kubectl(*NAMESPACE, "rollout", "status", DAEMONSET, "--timeout=300s")


def backend_data(cluster: Cluster, node: int) -> str:
    """Return the VTEP that `node` publishes, as text."""
    annotations = cluster.get("node", f"node{node}")["metadata"]["annotations"]
    text: str = annotations["flannel.alpha.coreos.com/backend-data"]
    return text


def subnet_env(cluster: Cluster, node: int) -> dict[str, str]:
    """Return the lines of subnet.env of `node`."""
    text = cluster.on(node, "cat", "/run/flannel/subnet.env")
    return dict(line.split("=", 1) for line in text.splitlines())


def gateway(cidr: str) -> str:
    """Return the gateway of a /24 in the form of subnet.env."""
    assert cidr.endswith(".0/24")
    return cidr.replace(".0/24", ".1/24")


def test_two_nodes(cluster: Cluster) -> None:
    """With vxland as the daemon of both nodes, the walk-through's Deployment runs and every check of it passes."""
    for node in NODES:
        cluster.start_vxland(node)
    cluster.run("cni", "bridge")
    cluster.deploy()
    cluster.walk_through()
    for node, peer in ((1, 2), (2, 1)):
        assert cluster.routes(node) == {cluster.pod_cidr(peer)}
        conditions = cluster.get("node", f"node{node}")["status"]["conditions"]
        assert ("NetworkUnavailable", "False", "FlannelIsUp") in {
            (said["type"], said["status"], said["reason"]) for said in conditions
        }


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("fast_path", ["off", "auto"])
def test_restart_under_traffic(cluster: Cluster, ending: str, fast_path: str) -> None:
    """A daemon that ends, cleanly or not, and restarts costs some pings and no TCP connection.

    With the fast path it costs none.
    """
    cluster.stop(1, "vxland")
    cluster.start_vxland(1, fast_path)
    mac = cluster.on(1, "cat", "/sys/class/net/flannel.1/address")
    with traffic(cluster) as running:
        if ending == "SIGTERM":
            cluster.stop(1, "vxland")
        else:
            cluster.kill(1, "vxland")
        cluster.start_vxland(1, fast_path)
        lost = running.report(f"{ending} and start, datapath.fast_path {fast_path}")
    assert lost == 0 or fast_path == "off"
    assert cluster.on(1, "cat", "/sys/class/net/flannel.1/address") == mac


def test_node_deleted_and_added(cluster: Cluster) -> None:
    """A deleted node is removed from the other; added again with another subnet, a restarted daemon joins it."""
    before = cluster.pod_cidr(2)
    pid = cluster.lab / "node2" / "kubelet.pid"
    kubelet = cluster.on(2, "sh", "-c", 'tr "\\0" "\\n" <"/proc/$(cat "$0")/cmdline"', pid).split()
    cluster.kubectl("delete", "node", "node2")
    until("node1 has no route to it", lambda: before not in cluster.routes(1))
    cluster.stop(2, "kubelet")  # a kubelet registers its Node when it starts
    cluster.start(2, "kubelet", *kubelet)
    until("node2 has a subnet", lambda: bool(cluster.get("nodes", "--field-selector=metadata.name=node2")["items"]))
    until("node2 has a subnet", lambda: "podCIDR" in cluster.get("node", "node2")["spec"])
    now = cluster.pod_cidr(2)
    assert now != before

    def ended_or_moved() -> bool:
        return cluster.status(2, READYZ) == "000" or subnet_env(cluster, 2)["FLANNEL_SUBNET"] == gateway(now)

    until("the daemon took notice", ended_or_moved)
    if cluster.status(2, READYZ) == "000":  # as a supervisor does
        cluster.start_vxland(2)
    assert subnet_env(cluster, 2)["FLANNEL_SUBNET"] == gateway(now)
    cluster.on(2, "ip", "link", "delete", "cni0")  # it has the gateway of the old subnet
    cluster.run("cni", "bridge")
    cluster.deploy()
    cluster.walk_through()
    assert cluster.routes(1) == {now}


def test_with_kernel_vxlan(cluster: Cluster) -> None:
    """The walk-through passes with vxland on one node and a kernel vxlan device, set as flannel's, on the other."""
    cluster.stop(2, "vxland")
    cluster.on(2, "ip", "link", "delete", "flannel.1")
    cluster.start_kernel_vxlan(2)
    cluster.walk_through()
    assert "vxlan id 1" in cluster.on(2, "ip", "-d", "link", "show", "flannel.1")
    assert "tun type tap" in cluster.on(1, "ip", "-d", "link", "show", "flannel.1")


def test_daemonset(cluster: Cluster, tmp_path: Path) -> None:
    """With deploy/'s DaemonSet and flannel's, labelled nodes change over, and the walk-through passes."""
    image.load(cluster)
    flannel = tmp_path / "flannel.yml"
    flannel.write_text(FLANNEL)
    cluster.kubectl("create", "-f", DEPLOY / "kube-flannel-cfg.yml")
    cluster.kubectl("apply", "-f", flannel)
    cluster.kubectl(*NAMESPACE, "patch", "configmap", "kube-flannel-cfg", "--patch", OWN_CONFIG)
    before = config(cluster)
    cluster.kubectl("apply", "-f", DEPLOY / "kube-vxland.yml")
    assert config(cluster) == before
    patch(cluster, "kube-flannel-ds", "keep-flannel-off")
    patch(cluster, "kube-vxland-ds", "cni-bridge")
    until("flannel is on both nodes", lambda: ready_nodes(cluster, "flannel") == {"node1", "node2"})
    assert daemonset_nodes(cluster, "vxland") == set()

    cluster.stop(1, "vxland")
    for node in NODES:
        cluster.on(node, "rm", "/etc/cni/net.d/10-flannel.conflist")
    cluster.kubectl("label", "node", "node1", f"{LABEL}=")
    until("vxland is ready on node1", lambda: ready_nodes(cluster, "vxland") == {"node1"})
    cluster.stop(2, FAKE_FLANNELD)  # its device stays and forwards, as flanneld's does
    mac = cluster.on(2, "cat", "/sys/class/net/flannel.1/address")
    with traffic(cluster) as running:
        cluster.kubectl("label", "node", "node2", f"{LABEL}=")
        until("vxland is ready on both nodes", lambda: ready_nodes(cluster, "vxland") == {"node1", "node2"})
        running.report("flannel's device to vxland's DaemonSet")
    until("flannel is on none", lambda: daemonset_nodes(cluster, "flannel") == set())
    cluster.kubectl(
        "wait", "--for=condition=Ready", "node/node1", "node/node2", "--timeout=120s"
    )  # the node has a conflist
    for node in NODES:
        assert "tun type tap" in cluster.on(node, "ip", "-d", "link", "show", "flannel.1")
        conflist = yaml.safe_load(cluster.on(node, "cat", "/etc/cni/net.d/10-flannel.conflist"))
        assert conflist["plugins"][0]["ipam"]["ranges"] == [[{"subnet": cluster.pod_cidr(node)}]]
    assert cluster.on(2, "cat", "/sys/class/net/flannel.1/address") == mac
    cluster.walk_through()
    cluster.deploy()  # with the conflist of the DaemonSet
    cluster.walk_through()


def test_upgrade_of_flannel(cluster: Cluster, tmp_path: Path) -> None:
    """A flannel manifest that is applied again undoes the patch: its pods wait, none starts next to vxland.

    One started earlier, took the device from vxland, and the node lost most of its traffic until it was repaired.
    """
    flannel = tmp_path / "flannel.yml"
    flannel.write_text(FLANNEL.replace("[sleep, infinity]", "[sleep, '1000000']"))  # another version
    cluster.kubectl("apply", "-f", flannel)
    affinity = cluster.get(*NAMESPACE, "daemonset", "kube-flannel-ds")["spec"]["template"]["spec"]["affinity"]
    assert LABEL not in str(affinity["nodeAffinity"])
    assert "vxland" in str(affinity["podAntiAffinity"])  # which that manifest does not set
    until("flannel's pods wait", lambda: len(waiting(cluster, "flannel")) == len(NODES))
    assert all("anti-affinity" in why for why in waiting(cluster, "flannel")), waiting(cluster, "flannel")
    assert (daemonset_nodes(cluster, "flannel"), ready_nodes(cluster, "vxland")) == (set(), {"node1", "node2"})
    cluster.walk_through()
    patch(cluster, "kube-flannel-ds", "keep-flannel-off")
    until("nothing waits", lambda: not cluster.get(*NAMESPACE, "pods", "-l", "app=flannel")["items"])


def test_back_to_flannel(cluster: Cluster) -> None:
    """Without its label a node returns to flannel, with its MAC and subnet, and the walk-through passes."""
    subnet, data = cluster.pod_cidr(2), backend_data(cluster, 2)
    cluster.kubectl("label", "node", "node2", f"{LABEL}-")
    until("vxland has left node2", lambda: daemonset_nodes(cluster, "vxland") == {"node1"})
    until("flannel is there", lambda: ready_nodes(cluster, "flannel") == {"node2"})
    assert (cluster.pod_cidr(2), backend_data(cluster, 2)) == (subnet, data)
    cluster.on(2, "ip", "link", "delete", "flannel.1")  # as flanneld does with a device that is no vxlan device
    cluster.start_kernel_vxlan(2)
    cluster.walk_through()
    assert ready_nodes(cluster, "vxland") == {"node1"}


def test_label_without_patch(cluster: Cluster, tmp_path: Path) -> None:
    """Without the patch flannel's pod stays, and vxland's waits until it is gone."""
    flannel = tmp_path / "flannel.yml"
    flannel.write_text(FLANNEL)
    cluster.kubectl("apply", "-f", flannel)
    until("flannel's pod for node1 waits", lambda: bool(waiting(cluster, "flannel")))
    until("flannel is on node2", lambda: ready_nodes(cluster, "flannel") == {"node2"})
    cluster.kubectl("label", "node", "node2", f"{LABEL}=")
    until("vxland waits", lambda: bool(waiting(cluster, "vxland")))
    assert "anti-affinity" in waiting(cluster, "vxland")[0]
    assert (ready_nodes(cluster, "vxland"), ready_nodes(cluster, "flannel")) == ({"node1"}, {"node2"})


def test_flannel_retired(cluster: Cluster) -> None:
    """Without flannel's DaemonSet, account and rights vxland continues, and starts again: it has its own."""
    cluster.stop(2, FAKE_FLANNELD)
    before = config(cluster)
    for words in RETIRE:
        cluster.kubectl(*words.split())
    until("vxland is ready on both nodes", lambda: ready_nodes(cluster, "vxland") == {"node1", "node2"})
    roll_out(cluster, "rollout", "restart", DAEMONSET)
    cluster.walk_through()
    assert config(cluster) == before


@pytest.mark.parametrize("fast_path", ["off", "auto"])
def test_rollout_restart_under_traffic(cluster: Cluster, fast_path: str) -> None:
    """Pods' traffic stood still while the kubelet replaced vxland's pod, one node after the other.

    With the fast path, for which the pod has CAP_BPF, nothing is lost.
    """
    data = {"vxland.yaml": f"datapath: {{fast_path: '{fast_path}'}}\n"}
    cluster.kubectl(*NAMESPACE, "patch", "configmap", "kube-flannel-cfg", "--patch", json.dumps({"data": data}))
    setting = "FLANNELD_VXLAND_CONFIG=/etc/kube-flannel/vxland.yaml"
    roll_out(cluster, "set", "env", DAEMONSET, "-c", "kube-vxland", setting, f"FOR={fast_path}")
    wanted = [fast_path == "auto"] * len(NODES)
    until(f"the fast path is {fast_path}", lambda: [each["fast_path"]["on"] for each in planes(cluster)] == wanted)
    with traffic(cluster) as running:
        roll_out(cluster, "rollout", "restart", DAEMONSET)
        lost = running.report(f"rollout restart, datapath.fast_path {fast_path}")
    assert lost == 0 or fast_path == "off"
