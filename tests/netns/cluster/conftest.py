"""Fixtures: the clusters and their nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .fake_flanneld import FakeFlanneld
from .lab import Cluster
from .node import Member


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Cluster]:
    """An IPv4 cluster: a runs `vxland run`, b `vxland flanneld` interpreted; c and d run nothing yet."""
    conf: dict[str, object] = {"Network": "10.244.0.0/16", "SubnetMax": "10.244.99.0", "Backend": {"Type": "vxlan"}}
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), conf, "abcd")
    try:
        cluster.build()
        a, b = cluster.member("a"), cluster.member("b", "interpreted", flags=True)
        a.subnet_file.write_text("FLANNEL_SUBNET=10.244.7.1/24\n")  # its previous subnet
        for member in (a, b):
            member.ns.run("iptables", "-P", "FORWARD", "DROP")
            member.launch()
        for member in (a, b):
            member.wait_ready()
            member.node.attach_pod(member.subnet_env())
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="package")
def c(built: Cluster) -> FakeFlanneld:
    """Node c, set up as by flanneld, with a pod."""
    daemon = built.flanneld("c")
    used = {name.partition("-")[0] for name in built.etcd.subnets()}
    subnet = next(base for number in range(20, 99) if (base := f"10.244.{number}.0") not in used)
    daemon.start({4: f"{subnet}/24"})
    built.nodes["c"].attach_pod(f"FLANNEL_SUBNET={subnet[:-1]}1/24\nFLANNEL_MTU=1450\n")
    return daemon


@pytest.fixture
def cluster(built: Cluster, c: FakeFlanneld) -> Cluster:
    """The cluster, after all nodes have agreed on its members."""
    built.agree("at start")
    c.follow()
    return built


@pytest.fixture(scope="module")
def spare(built: Cluster) -> Iterator[Member]:
    """The vxland of node d, not started; all of it is removed at the end."""
    member = built.member("d")
    yield member
    built.remove("d")
