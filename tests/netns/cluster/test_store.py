"""A store that is unavailable, returns, or is compacted; a node that waits for it.   lab.py has the topology."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.netns.interop.ns import wait_until
from tests.netns.interop.traffic import ping

from .fake_flanneld import FakeFlanneld
from .lab import Cluster
from .node import Member

pytestmark = pytest.mark.netns

GHOST = "10.244.200.0/24"


@pytest.fixture
def d(built: Cluster) -> Iterator[Member]:
    """The vxland of node d, not started; all of it is removed at the end."""
    member = built.member("d")
    member.subnet_file.unlink(missing_ok=True)
    yield member
    built.remove("d")


def waits(member: Member, for_what: str) -> None:
    """Return once the node reports the reason why it is not ready."""

    def says() -> bool:
        status, text = member.readiness()
        return status == 503 and for_what in text

    wait_until(says, for_what, lambda: f"{member.readiness()}\n{member.said()}")


def reads(member: Member, value: int) -> bool:
    """Return whether the node's metrics say that it can (1) or cannot (0) read the store."""
    return member.metric("vxland_registry_readable") == value


@pytest.mark.parametrize("compacted", [False, True])
def test_the_store_goes_away_and_returns(cluster: Cluster, c: FakeFlanneld, compacted: bool) -> None:
    """Forwarding continues; changes of that time arrive from the history or, after a compaction, by a new list."""
    a, b = cluster.members["a"], cluster.members["b"]
    with cluster.only(c.subnets[4], GHOST):
        cluster.etcd.stop()
        for member in (a, b):
            wait_until(partial(reads, member, 0), "trouble is seen")
            assert member.readiness() == (200, "vxland is ready\n")  # for a minute
        for member in (a, b):
            ping(member.node.pod_ns, cluster.nodes["c"].pod[4])
        cluster.etcd.start(hidden=True)
        c.ensure_links()
        c.publish()
        cluster.etcd.put("subnets/10.244.200.0-24", cluster.ghost(200)[1])
        if compacted:
            cluster.etcd.compact()
        cluster.etcd.stop()
        cluster.etcd.start()
        cluster.agree("what was missed")
        c.follow()
        for member in (a, b):
            wait_until(partial(reads, member, 1), "recovery is seen")
            ping(member.node.pod_ns, cluster.nodes["c"].pod[4])
        cluster.etcd.delete("subnets/10.244.200.0-24")
        cluster.agree("the watch goes on")


def test_a_node_waits(cluster: Cluster, d: Member) -> None:
    """First for the store, then for its configuration: it logs this, changes nothing, ends at SIGTERM, continues."""
    d.settings["etcd"]["prefix"] = "/late"
    cluster.etcd.stop()
    for ends in (True, False):
        d.launch()
        waits(d, "waiting for the network's configuration: store: http://192.168.111.254:2379: ")
        if ends:
            assert d.stop(signal.SIGTERM) == 0
    cluster.etcd.start()
    waits(d, "/late/config in etcd is missing: put flannel's network configuration there")
    assert "flannel.1" not in d.ns.links()
    assert not d.subnet_file.exists()
    cluster.etcd.put_at("/late/config", json.dumps(cluster.conf))
    d.wait_ready()
    assert d.subnet_env().startswith("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.")


@pytest.mark.parametrize("letter", ["a", "b"])
def test_a_restart_while_the_store_is_unavailable(cluster: Cluster, c: FakeFlanneld, letter: str) -> None:
    """Frames follow the store's last contents, and nothing changes; log and /readyz report it, and its return."""
    member, memory = cluster.members[letter], cluster.members[letter].directory / "leases.json"
    known = set(cluster.etcd.subnets()) - {cluster.name_of(letter)}
    member.stop()  # writes the changes of the last minute to the cache
    assert cached(memory) == known
    member.start()
    before = member.subnet_env(), member.node.macs(), member.node.peers()
    cluster.etcd.stop()
    try:
        with cluster.only(GHOST, between="bc" if letter == "a" else "ac"):
            for how in (signal.SIGTERM, signal.SIGKILL):
                member.stop(how)
                member.start()
                assert (member.subnet_env(), member.node.macs(), member.node.peers()) == before
                ping(member.node.pod_ns, cluster.nodes["c"].pod[4])
                assert str(memory) in member.said()
                assert reads(member, 0)
    finally:
        cluster.etcd.start()
    with cluster.only(GHOST):
        wait_until(partial(reads, member, 1), "recovery is seen", member.said)
        cluster.etcd.put("subnets/10.244.200.0-24", cluster.ghost(200)[1])
        cluster.agree("the store's own word")
        cluster.etcd.delete("subnets/10.244.200.0-24")
        cluster.agree("the watch goes on")
    c.follow()


def cached(memory: Path) -> set[str]:
    """Return the peers' keys in a node's cache file."""
    return {peer["subnet"].replace("/", "-") for peer in json.loads(memory.read_text())["peers"]}
