"""docs/kubeadm.md in a cluster that kubeadm makes, with kube-proxy: installed, used, upgraded, and a node removed.

The tests build on each other, in order: run all of them, with `make test-kubeadm`.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.kubeadm import services
from tests.kubeadm.cluster import NODES, Cluster, blocks, until


def fast_paths(cluster: Cluster) -> list[bool]:
    """Return whether the fast path of each node is on."""
    return [cluster.ctl(number, "status")["planes"][0]["fast_path"]["on"] for number in NODES]


def set_fast_path(cluster: Cluster, value: str) -> None:
    """Set `datapath.fast_path` with the page's command, and return once both nodes have it."""
    command, *_ = blocks("Upgrades and removal")
    cluster.sh(command.replace("fast_path=off", f"fast_path={value}"))
    until(f"the fast path is {value}", lambda: fast_paths(cluster) == [value == "auto"] * len(NODES))


def test_installed_by_the_page(cluster: Cluster) -> None:
    """The nodes were NotReady; with the page's commands both become Ready, each with a pod of vxland."""
    install, look = blocks("Install vxland")
    cluster.sh(install)
    cluster.wait_nodes_ready()
    assert cluster.sh(look).count(" 2/2 ") == len(NODES)
    until("the fast path is on", lambda: fast_paths(cluster) == [True] * len(NODES))
    services.deploy(cluster)


@pytest.mark.parametrize("plain", [False, True], ids=["superframes", "plain"])
@pytest.mark.parametrize("fast_path", ["auto", "off"])
def test_services(cluster: Cluster, fast_path: str, *, plain: bool) -> None:
    """Pods, nodes and a host outside reach pods through kube-proxy's rules, which leave the source that the page says.

    On a plain wire only packets of the MTU cross, and senders compute checksums, as with a simple card.
    """
    set_fast_path(cluster, fast_path)
    with cluster.plain_wires() if plain else contextlib.nullcontext():
        services.check(cluster)


def test_both_daemons_start_again(cluster: Cluster) -> None:
    """After kube-proxy and vxland have started again, in this order, the rules of both are in force."""
    set_fast_path(cluster, "auto")
    for namespace, daemonset, label in (
        ("kube-system", "kube-proxy", "k8s-app=kube-proxy"),
        ("kube-flannel", "kube-vxland-ds", "app=vxland"),
    ):
        cluster.kubectl("-n", namespace, "delete", "pods", "-l", label, "--grace-period=1")
        cluster.kubectl("-n", namespace, "rollout", "status", f"daemonset/{daemonset}", "--timeout=300s")
    services.wait_ready(cluster)
    services.check(cluster)


def test_node_leaves_and_joins(cluster: Cluster) -> None:
    """A node after the page's commands has nothing of vxland; it joins again, with another subnet, and has pods.

    With the bridge of its former subnet, which `kubeadm reset` leaves, no pod would start there.
    """
    _, leave, clean = blocks("Upgrades and removal")
    node, before = cluster.nodes[1], cluster.subnet(1)
    cluster.sh(leave.replace("NODE", node.name))
    node.sh(clean, "y\n")  # `kubeadm reset` asks
    assert not [*node.ip_json("link show dev flannel.1"), *node.ip_json("link show dev cni0")]
    assert "FLANNEL" not in node.run("iptables-save")
    assert "vxland" not in node.run("tc", "filter", "show", "dev", "e0", "ingress")
    assert node.run("ls", "/etc/cni/net.d") == ""
    cluster.join()
    cluster.wait_nodes_ready()
    services.wait_ready(cluster)
    assert cluster.subnet(1) != before
    services.check(cluster)
