"""Nodes join, leave and change in etcd; vxland follows without touching other peers.   lab.py has the topology."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns.interop.ns import wait_until
from tests.netns.interop.traffic import HEADERS, ping, send_tcp

from .fake_flanneld import FakeFlanneld, value
from .lab import GHOST_MAC, OUTSIDE, Cluster, source_of
from .store import DAY_S

pytestmark = pytest.mark.netns

GHOST = "10.244.200.0/24"
POD_NODES = "abc"


def test_entries_equal_flannels(cluster: Cluster) -> None:
    """subnet.env and the lease in etcd are equal byte for byte; the lease lasts a day."""
    for letter in "ab":
        node, name = cluster.nodes[letter], cluster.name_of(letter)
        base, _, length = name.partition("-")
        assert length == "24"
        assert cluster.etcd.subnets()[name] == (
            f'{{"PublicIP":"{node.underlay[4]}","PublicIPv6":null,"BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{node.macs()[4]}"}}}}'
        )
        assert cluster.etcd.ttl(f"subnets/{name}") == DAY_S
        assert cluster.members[letter].subnet_env() == (
            f"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={base[:-1]}1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        )
        address = node.ns.ip_json("-4 addr show dev flannel.1")[0]["addr_info"]
        assert [(one["local"], one["prefixlen"]) for one in address] == [(base, 32)]
    assert cluster.name_of("a") == "10.244.7.0-24"  # from its previous subnet.env


@pytest.mark.parametrize(("near", "far"), list(itertools.permutations(POD_NODES, 2)))
def test_pods_reach_each_other(cluster: Cluster, near: str, far: str) -> None:
    """Full-size packets and a TCP stream, byte by byte, between the pods of every pair of nodes."""
    source, target = cluster.nodes[near], cluster.nodes[far]
    ping(source.pod_ns, target.pod[4], source.mtu - HEADERS[4])
    send_tcp(source.pod_ns, target.pod_ns, target.pod[4], 1 << 19)
    assert source_of(source.pod_ns, target.pod_ns, target.pod[4]) == source.pod[4]


@pytest.mark.parametrize("letter", "ab")
def test_masquerade_is_seen_from_outside(cluster: Cluster, letter: str) -> None:
    """Outside the cluster a pod's packets have its node's address, although FORWARD's policy is DROP."""
    node = cluster.nodes[letter]
    assert "-P FORWARD DROP" in node.ns.run("iptables", "-S", "FORWARD")
    assert source_of(node.pod_ns, cluster.net, OUTSIDE[4]) == node.underlay[4]


def test_leave_and_return(cluster: Cluster, c: FakeFlanneld) -> None:
    """A deleted lease removes its route and neighbour; its return restores both."""
    a, pod = cluster.nodes["a"], cluster.nodes["c"].pod[4]
    with cluster.only(c.subnets[4]):
        c.leave()
        cluster.agree("leave")
        c.publish()
        cluster.agree("return")
    ping(a.pod_ns, pod)


def test_a_new_mac(cluster: Cluster, c: FakeFlanneld) -> None:
    """In etcd mode flanneld has a new MAC after each restart."""
    old = c.macs[4]
    with cluster.only(c.subnets[4]):
        c.ensure_links()
        assert c.macs[4] != old
        c.publish()
        cluster.agree("new MAC")
        c.follow()
    for letter in "ab":
        ping(cluster.nodes[letter].pod_ns, cluster.nodes["c"].pod[4])
        ping(cluster.nodes["c"].pod_ns, cluster.nodes[letter].pod[4])


def test_a_new_subnet(cluster: Cluster, c: FakeFlanneld) -> None:
    """The same node with another subnet: the route moves there, and back."""
    old, new = dict(c.subnets), {4: GHOST}
    with cluster.only(old[4], new[4]):
        for subnets in (new, old):
            c.leave()
            c.start({4: subnets[4]})
            cluster.agree("new subnet")
            ping(cluster.nodes["a"].ns, subnets[4].partition("/")[0])
    ping(cluster.nodes["b"].pod_ns, cluster.nodes["c"].pod[4])


def test_a_new_address(cluster: Cluster, c: FakeFlanneld) -> None:
    """The same node with another PublicIP and the same MAC: datagrams go there, and only that source is accepted."""
    ns, old, new = cluster.nodes["c"].ns, c.addresses[4], "192.168.111.180"
    ns.ip(f"addr add {new}/24 dev e0")
    for address in (new, old):
        with cluster.only(c.subnets[4]):
            mac = c.macs[4]
            c.addresses[4] = address
            c.ensure_links(mac)
            c.follow()
            c.publish()
            for letter in "ab":
                cluster.reaches(letter, cluster.nodes["c"].pod[4])
        cluster.agree("new address")
    ns.ip(f"addr del {new}/24 dev e0")


@pytest.mark.parametrize("letter", "ab")
def test_a_node_that_sends_from_another_address(cluster: Cluster, c: FakeFlanneld, letter: str) -> None:
    """Refused until `security.sources` lists it, and again without it, by reload; also from the file beside flags."""
    member, node = cluster.members[letter], cluster.nodes["c"]
    published, other = node.underlay[4], node.underlay[4].rpartition(".")[0] + ".210"

    def set_sources(sources: dict[str, list[str]]) -> None:
        member.settings["security"] = {"source_check": "strict", "sources": sources}
        member.write()
        seen = member.said().count("reloaded")  # with flanneld's flags, the log is plain text
        member.send_signal(signal.SIGHUP)
        wait_until(lambda: member.said().count("reloaded") > seen, "the reload", member.said)

    def answered() -> bool:
        return node.pod_ns.attempt("ping", "-c1", "-W1", cluster.nodes[letter].pod[4]).returncode == 0

    node.ns.ip(f"addr add {other}/24 dev e0")
    node.ns.ip(f"link set flannel.1 type vxlan id 1 local {other} dev e0")
    try:
        set_sources({})
        assert not answered()
        set_sources({published: [other]})
        wait_until(answered, "node c is let in", member.said)
        set_sources({})
        wait_until(lambda: not answered(), "node c is refused")
    finally:
        node.ns.ip(f"link set flannel.1 type vxlan id 1 local {published} dev e0")
        node.ns.ip(f"addr del {other}/24 dev e0")
        del member.settings["security"]
        member.write()
        member.send_signal(signal.SIGHUP)
    wait_until(answered, "node c as it was")
    c.follow()


@contextmanager
def ghost(cluster: Cluster, name: str, text: str) -> Iterator[None]:
    """An entry that exists during the body; a vxland has received it at the start and its removal at the end."""
    try:
        cluster.etcd.put(f"subnets/{name}", text)
        cluster.heard()
        yield
    finally:
        cluster.etcd.delete(f"subnets/{name}")
        cluster.heard()


@pytest.mark.parametrize("what", ["address", "MAC", "MAC of vxland's"])
def test_duplicates_disturb_no_peer(cluster: Cluster, c: FakeFlanneld, what: str) -> None:
    """A newcomer with another node's PublicIP or MAC gets its own subnet, and attracts no other traffic."""
    a, b, pod = (*(cluster.nodes[letter] for letter in "ab"), cluster.nodes["c"].pod[4])
    special = {
        "address": {"address": c.addresses[4]},
        "MAC": {"mac": c.macs[4]},
        "MAC of vxland's": {"mac": b.macs()[4]},
    }[what]
    with cluster.only(GHOST):
        with ghost(cluster, *cluster.ghost(200, **special)):
            cluster.agree(f"duplicate {what}")
            for node in (a, b):
                ping(node.pod_ns, pod)
                ping(cluster.nodes["c"].pod_ns, node.pod[4])
        cluster.agree(f"duplicate {what} gone")
    ping(a.pod_ns, pod)


def test_two_claims_on_a_subnet(cluster: Cluster, c: FakeFlanneld) -> None:
    """All nodes use the first claim, whatever MAC the other has; only the two claimants are affected."""
    subnet, name = c.subnets[4], f"{c.name}&fd00:99::-64"
    for mac in ("fe:ff:ff:ff:ff:ff", "02:00:00:00:00:00"):
        with cluster.only(subnet):
            with ghost(cluster, name, value({4: "192.168.111.200"}, {4: mac})):
                cluster.agree("two claims", {subnet: c.macs[4]})
            cluster.agree("one claim")
    ping(cluster.nodes["a"].pod_ns, cluster.nodes["c"].pod[4])


def test_a_windows_node(cluster: Cluster) -> None:
    """An empty MAC is no peer yet and no error; a real one makes it a peer, which a later empty one keeps."""
    name, empty = cluster.ghost(200, mac="")
    with cluster.only(GHOST), ghost(cluster, name, empty):
        cluster.agree("no MAC")
        cluster.etcd.put(f"subnets/{name}", cluster.ghost(200)[1])
        cluster.agree("a MAC")
        cluster.etcd.put(f"subnets/{name}", empty)
        cluster.heard()
        cluster.agree("no MAC again", {GHOST: GHOST_MAC})
        assert cluster.members["a"].metric("vxland_registry_quarantined") == 0


def test_another_backend(cluster: Cluster, c: FakeFlanneld) -> None:
    """A peer that changes to host-gw leaves the tunnel; on vxlan again, it returns."""
    gw = json.dumps({"PublicIP": c.addresses[4], "PublicIPv6": None, "BackendType": "host-gw"})
    with cluster.only(c.subnets[4]):
        cluster.etcd.put(f"subnets/{c.name}", gw)
        cluster.agree("host-gw")
        c.publish()
        cluster.agree("vxlan")
    ping(cluster.nodes["b"].pod_ns, cluster.nodes["c"].pod[4])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("garbage", "{}"),
        ("10.244.300.0-24", "{}"),
        ("10.244.200.0-99", "{}"),
        ("10.99.0.0-16", value({4: "192.168.111.200"}, {4: GHOST_MAC})),
        ("10.244.200.0-24", "not JSON"),
        ("10.244.200.0-24", value({4: "somewhere"}, {4: GHOST_MAC})),
        ("10.244.200.0-24", value({4: "192.168.111.200"}, {4: "ff:ff:ff:ff:ff:ff"})),
        ("10.244.200.0-24&", "[]"),
    ],
)
def test_malformed_entries_are_quarantined(cluster: Cluster, name: str, text: str) -> None:
    """No route or neighbour changes; the entry is counted, and named in the log."""
    with cluster.only():
        with ghost(cluster, name, text):
            assert cluster.members["a"].metric("vxland_registry_quarantined") == 1
            assert name in [event["entry"] for event in cluster.members["a"].events("lease_quarantined")]
        assert cluster.members["a"].metric("vxland_registry_quarantined") == 0


def test_a_healthy_peer_with_a_spoilt_entry_stays(cluster: Cluster, c: FakeFlanneld) -> None:
    """An invalid entry keeps the node's last valid lease."""
    with cluster.only():
        cluster.etcd.put(f"subnets/{c.name}", c.value[:-5])
        cluster.heard()
        assert cluster.members["a"].metric("vxland_registry_quarantined") == 1
        ping(cluster.nodes["a"].pod_ns, cluster.nodes["c"].pod[4])
        c.publish()
        cluster.agree("repaired")
    assert cluster.members["a"].metric("vxland_registry_quarantined") == 0
