"""Daemons stop, die, return, take over from flanneld and hand back, without effect on others.   lab.py: topology."""

from __future__ import annotations

import signal

import pytest

from tests.netns.interop.ns import wait_until
from tests.netns.interop.traffic import ping, send_tcp

from .fake_flanneld import FakeFlanneld, key, value
from .lab import Cluster
from .node import Member
from .store import DAY_S

pytestmark = pytest.mark.netns

MAC = "0e:11:22:33:44:55"


@pytest.fixture
def d(cluster: Cluster, c: FakeFlanneld, spare: Member) -> Member:
    """Node d, running; all others have its lease."""
    if not spare.running:
        spare.start()
        cluster.agree("join")
        c.follow()
    return spare


def base_of(cluster: Cluster, letter: str) -> str:
    """Return the address of a node's flannel.1."""
    return cluster.name_of(letter).partition("-")[0]


@pytest.mark.parametrize(("letter", "how"), [("a", signal.SIGTERM), ("b", signal.SIGKILL)])
def test_a_restart_changes_nothing(cluster: Cluster, letter: str, how: signal.Signals) -> None:
    """Subnet, MAC and subnet.env stay; no node changes a route; other nodes' traffic loses nothing."""
    member, other = cluster.members[letter], cluster.nodes["c"]

    def state() -> tuple[object, ...]:
        return cluster.etcd.subnets(), member.subnet_env(), member.node.macs(), member.node.peers()

    before = state()
    with cluster.only(between="bc" if letter == "a" else "ac"):
        assert member.stop(how) == (0 if how == signal.SIGTERM else -how)
        assert state() == before
        member.start()
        assert state() == before
    send_tcp(member.node.pod_ns, other.pod_ns, other.pod[4], 1 << 16)


def test_a_new_mac_in_the_settings(cluster: Cluster, c: FakeFlanneld, d: Member) -> None:
    """A configured MAC reaches all nodes; without one the published MAC is kept, even if the device is gone."""
    base = base_of(cluster, "d")
    for overlay, recreate in (({"mac": MAC}, False), ({}, True)):
        d.settings["overlay"] = overlay
        with cluster.only(f"{base}/24"):
            d.stop()
            if recreate:
                d.ns.ip("link delete flannel.1")
            d.start()
            cluster.agree("new MAC")
            c.follow()
        assert d.node.macs() == {4: MAC}
        assert base_of(cluster, "d") == base
        for letter in "abc":
            ping(cluster.nodes[letter].ns, base)


def test_a_lease_that_is_deleted_is_taken_again(cluster: Cluster, d: Member) -> None:
    """The reason does not matter: the same subnet and text, for another day."""
    name, before = cluster.name_of("d"), cluster.etcd.subnets()
    with cluster.only(name.replace("-", "/")):
        cluster.etcd.delete(f"subnets/{name}")
        d.wait_for("lease_recreated")
        assert cluster.etcd.subnets() == before
        assert cluster.etcd.ttl(f"subnets/{name}") == DAY_S
        cluster.agree("recreated")
    ping(cluster.nodes["a"].ns, base_of(cluster, "d"))


def test_losing_the_subnet_to_another_node_ends_the_daemon(cluster: Cluster, c: FakeFlanneld, d: Member) -> None:
    """Exit 1, and the log names the new owner, which the other nodes follow."""
    name = cluster.name_of("d")
    with cluster.only(name.replace("-", "/")):
        cluster.etcd.put(f"subnets/{name}", value({4: "192.168.111.200"}, {4: MAC}))
        assert d.wait() == 1
        assert f"the lease on {name.replace('-', '/')} is that of the node at 192.168.111.200 now" in d.said()
        cluster.agree("taken")
    cluster.etcd.delete(f"subnets/{name}")
    cluster.agree("gone")
    c.follow()


def test_vxland_takes_over_from_flanneld_and_hands_back(cluster: Cluster, c: FakeFlanneld, spare: Member) -> None:
    """The kernel's flannel.1 is replaced, MAC and subnet are kept; no peer changes anything; and back."""
    node = cluster.nodes["d"]
    flanneld = cluster.flanneld("d")
    cluster.remove("d")
    flanneld.start({4: "10.244.88.0/24"})
    cluster.agree("flanneld joins")
    c.follow()
    mac, text = flanneld.macs[4], cluster.etcd.subnets()[flanneld.name]
    spare.subnet_file.write_text("FLANNEL_SUBNET=10.244.88.1/24\n")
    with cluster.only():
        assert node.kind() == "vxlan"
        spare.start()
        assert node.kind() == "tun"
        assert node.macs() == {4: mac}
        assert cluster.name_of("d") == key(flanneld.subnets)
        assert cluster.etcd.subnets()[flanneld.name] == text
        for letter in "abc":
            ping(cluster.nodes[letter].ns, "10.244.88.0")
        cluster.heard()
    assert spare.events("kernel_device_replaced")
    spare.stop()
    with cluster.only("10.244.88.0/24"):
        flanneld.start({4: "10.244.88.0/24"})
        assert node.kind() == "vxlan"
        assert flanneld.macs[4] != mac
        cluster.agree("flanneld is back")
        c.follow()
        for letter in "abc":
            ping(cluster.nodes[letter].ns, "10.244.88.0")
    node.ns.ip("link delete flannel.1")
    flanneld.leave()


def test_cleanup_leaves_nothing(d: Member) -> None:
    """After a stop, `vxland run --cleanup` removes and lists device and rules; a second run finds nothing."""
    assert "FLANNEL" in d.ns.run("iptables-save")
    refused = d.cleanup()
    assert refused.returncode == 1
    assert "in use" in refused.stderr
    d.stop()
    assert "flannel.1" in d.ns.links()
    first, second = d.cleanup(), d.cleanup()
    assert (first.returncode, first.stdout) == (0, "removed: flannel.1, firewall rules\n")
    assert (second.returncode, second.stdout) == (0, "nothing to remove\n")
    assert "flannel.1" not in d.ns.links()
    assert "FLANNEL" not in d.ns.run("iptables-save")


def test_start_with_a_foreign_device(cluster: Cluster, spare: Member) -> None:
    """A flannel.1 that is neither vxland's nor flannel's stays; the daemon logs the remedy, and waits.

    Earlier the daemon ended, and a kubelet waited for minutes after the device was gone.
    """
    cluster.remove("d")
    ns = cluster.nodes["d"].ns
    ns.ip("link add flannel.1 type bridge")
    spare.launch()
    reason = "opening devices: flannel.1 exists and is no TAP of ours"
    wait_until(lambda: spare.readiness()[1].startswith(reason), reason, spare.said)
    assert cluster.nodes["d"].kind() == "bridge"
    ns.ip("link delete flannel.1")
    spare.wait_ready()
    (event,) = spare.events("node_waits")
    assert event["cause"] == "flannel.1 exists and is no TAP of ours"


@pytest.mark.parametrize("held", ["another program", "a kernel device"])
def test_start_with_a_used_port(cluster: Cluster, spare: Member, held: str) -> None:
    """The node names the program that has the port, and goes on when it is free."""
    cluster.remove("d")
    ns = cluster.nodes["d"].ns
    if held == "a kernel device":
        ns.batch("link add other type vxlan id 99 dev e0 dstport 8472", "link set other up")
        spare.launch()
        wait_until(lambda: "the kernel vxlan device other" in spare.readiness()[1], "who has it", spare.said)
        ns.ip("link delete other")
    else:
        with ns.socket(cluster.nodes["d"].underlay[4], port=8472):
            spare.launch()
            wait_until(lambda: "UDP port 8472 is held by" in spare.readiness()[1], "who has it", spare.said)
    spare.wait_ready()
    assert len(spare.events("node_waits")) == 1
