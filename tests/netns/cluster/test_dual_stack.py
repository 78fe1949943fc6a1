"""A dual-stack cluster with DirectRouting and nftables; one node, set up as by flanneld, is behind a router.

a (vxland run, with the fast path) and b (vxland flanneld, without) are neighbours on the underlay; c is `far`.
lab.py has the topology.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import pytest

from tests.netns.interop.lab import FAMILIES, Family
from tests.netns.interop.ns import wait_until
from tests.netns.interop.traffic import HEADERS, no_checksum_errors, ping, send_tcp
from tests.netns.interop.wire import Capture

from .fake_flanneld import FakeFlanneld
from .lab import OUTSIDE, Cluster, source_of
from .node import Member

pytestmark = pytest.mark.netns

CONF = {
    "Network": "10.244.0.0/16",
    "EnableIPv6": True,
    "IPv6Network": "fd00:10:244::/48",
    "EnableNFTables": True,
    "Backend": {"Type": "vxlan", "DirectRouting": True},
}
FAR: dict[Family, str] = {4: "10.244.9.0/24", 6: "fd00:10:244:9::/64"}
TUNNEL_MTU: dict[Family, int] = {4: 1450, 6: 1430}
PAIRS = list(itertools.permutations("abc", 2))


@pytest.fixture(scope="module")
def far_and_all(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[tuple[Cluster, FakeFlanneld]]:
    """The running cluster, and its far node's daemon."""
    cluster = Cluster(tmp_path_factory.mktemp("dual"), CONF, "abc", far="c")
    try:
        cluster.build()
        far = cluster.flanneld("c")
        far.start(FAR)
        a, b = cluster.member("a"), cluster.member("b", flags=True)
        for member, fast_path in ((a, "auto"), (b, "off")):
            member.settings["datapath"] = {"fast_path": fast_path}
            member.launch()
        for member in (a, b):
            member.wait_ready()
            member.node.attach_pod(member.subnet_env())
        cluster.nodes["c"].attach_pod(
            "FLANNEL_SUBNET=10.244.9.1/24\nFLANNEL_IPV6_SUBNET=fd00:10:244:9::1/64\nFLANNEL_MTU=1430\n"
        )
        far.follow()
        yield cluster, far
    finally:
        cluster.down()


@pytest.fixture
def cluster(far_and_all: tuple[Cluster, FakeFlanneld]) -> Cluster:
    """The cluster with every route in place."""
    cluster, far = far_and_all
    for letter in "ab":
        cluster.members[letter].wait_for_peers({subnet: far.macs[family] for family, subnet in FAR.items()})
    return cluster


def test_entries_equal_flannels(cluster: Cluster) -> None:
    """subnet.env, key and lease of both families are equal byte for byte; two devices have their own MACs and MTUs."""
    for letter in "ab":
        node, name = cluster.nodes[letter], cluster.name_of(letter)
        macs = node.macs()
        v4, v6 = (part.rpartition("-")[0] for part in name.split("&"))
        assert name == f"{v4}-24&{v6}-64"
        assert cluster.etcd.subnets()[name] == (
            f'{{"PublicIP":"{node.underlay[4]}","PublicIPv6":"{node.underlay[6]}","BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{macs[4]}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{macs[6]}"}}}}'
        )
        assert macs[4] != macs[6]
        assert cluster.members[letter].subnet_env() == (
            "FLANNEL_NETWORK=10.244.0.0/16\n"
            f"FLANNEL_SUBNET={v4[:-1]}1/24\n"
            "FLANNEL_IPV6_NETWORK=fd00:10:244::/48\n"
            f"FLANNEL_IPV6_SUBNET={v6}1/64\n"
            f"FLANNEL_MTU={1430 if letter == 'a' else 1450}\n"  # the default of run, and that of flanneld's flags
            "FLANNEL_IPMASQ=true\n"
        )
        for device, mtu, base in (("flannel.1", 1450, f"{v4}/32"), ("flannel-v6.1", 1430, f"{v6}/128")):
            link = node.ns.ip_json(f"addr show dev {device} scope global")[0]
            assert link["mtu"] == mtu
            assert [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one] == [base]


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_pods_reach_each_other(cluster: Cluster, near: str, far: str) -> None:
    """Both families, full size, byte by byte: without the tunnel between neighbours, through it behind a router.

    Programs of node a take part where the tunnel is over IPv4.
    """
    source, target = cluster.nodes[near], cluster.nodes[far]
    tunnelled = "c" in (near, far)
    before = by_programs(cluster)
    with no_checksum_errors(source.pod_ns, target.pod_ns), Capture(source.ns) as capture:
        for family in FAMILIES:
            size = min(source.mtu, target.mtu, TUNNEL_MTU[family]) - HEADERS[family]
            ping(source.pod_ns, target.pod[family], size)
            send_tcp(source.pod_ns, target.pod_ns, target.pod[family], 1 << 18)
            assert source_of(source.pod_ns, target.pod_ns, target.pod[family]) == source.pod[family]
        pods = {*source.pod.values(), *target.pod.values()}  # excludes the daemons' own pings
        seen = [datagram for datagram in capture.datagrams() if datagram.inner.payload.dst in pods]
        outer = {frozenset((datagram.outer_src, datagram.outer_dst)) for datagram in seen}
    both = [frozenset((source.underlay[family], target.underlay[family])) for family in FAMILIES]
    assert outer == (set(both) if tunnelled else set())
    if {near, far} == {"a", "c"}:
        assert all(now > then for now, then in zip(by_programs(cluster), before, strict=True))


def by_programs(cluster: Cluster) -> list[float]:
    """Return the frames that programs of node a have carried, out and in."""
    name = 'vxland_fast_path_frames_total{{direction="{}"}}'
    return [cluster.members["a"].metric(name.format(way)) for way in ("encap", "decap")]


def test_a_pod_with_flannels_mtu_gets_the_tunnels_mtu(cluster: Cluster) -> None:
    """1450, as flanneld writes it, is 20 too much over IPv6: the node sends the pod one ICMP error per destination."""
    node, target = cluster.nodes["b"], cluster.nodes["c"].pod[6]
    assert node.mtu == TUNNEL_MTU[4]
    node.pod_ns.run("ip", "-6", "route", "flush", "cache")
    first = node.pod_ns.attempt("ping", "-c1", "-W1", "-M", "do", "-s", str(node.mtu - HEADERS[6]), target)
    assert first.returncode != 0
    assert "mtu=1430" in (first.stdout + first.stderr).lower().replace(" ", "")
    ping(node.pod_ns, target, TUNNEL_MTU[6] - HEADERS[6])


def two_answer(member: Member, device: str) -> bool:
    """Return whether both peers of a device answer pings."""
    return member.metric(f'vxland_peers{{device="{device}",state="reachable"}}') == 2


def test_peers_answer_pings(cluster: Cluster) -> None:
    """Peers with and without the tunnel, in both families, answer packets of the whole overlay MTU."""
    member = cluster.members["a"]
    for device in ("flannel.1", "flannel-v6.1"):
        wait_until(partial(two_answer, member, device), f"two peers of {device} answer", member.said)
        for other in "bc":
            address = cluster.nodes[other].underlay[4 if device == "flannel.1" else 6]
            full = f'vxland_peer_full_mtu{{device="{device}",peer="{address}"}}'
            assert member.metric(full) == 1


@pytest.mark.parametrize(("near", "far"), ["ab", "ba"])
def test_neighbours_have_plain_routes(cluster: Cluster, near: str, far: str) -> None:
    """A route through the peer's underlay address, in each family, and no neighbour on the overlay devices."""
    node, other = cluster.nodes[near], cluster.nodes[far]
    for family, part in zip(FAMILIES, cluster.name_of(far).split("&"), strict=True):
        (route,) = node.ns.ip_json(f"-{family} route show {part.replace('-', '/')}")
        assert (route["gateway"], route["dev"]) == (other.underlay[family], "e0")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("letter", "ab")
def test_masquerade_is_seen_from_outside(cluster: Cluster, letter: str, family: Family) -> None:
    """The configuration chooses nftables; iptables has no rule."""
    node = cluster.nodes[letter]
    assert source_of(node.pod_ns, cluster.net, OUTSIDE[family]) == node.underlay[family]
    assert "masquerade" in node.ns.run("nft", "list", "table", "ip" if family == 4 else "ip6", f"flannel-ipv{family}")
    assert "FLANNEL" not in node.ns.run("iptables-save" if family == 4 else "ip6tables-save")


def test_the_far_node_leaves_and_returns(cluster: Cluster, far_and_all: tuple[Cluster, FakeFlanneld]) -> None:
    """Both families' routes are removed and restored; traffic between neighbours is not disturbed."""
    _, far = far_and_all
    with cluster.only(*FAR.values()):
        far.leave()
        for letter in "ab":
            cluster.members[letter].wait_for_peers({})
        far.ensure_links()
        far.publish()
        for letter in "ab":
            cluster.members[letter].wait_for_peers({subnet: far.macs[family] for family, subnet in FAR.items()})
        far.follow()
    for family in FAMILIES:
        ping(cluster.nodes["a"].pod_ns, cluster.nodes["c"].pod[family])


def test_a_neighbour_moves_behind_the_router(cluster: Cluster) -> None:
    """If the kernel's route to a peer changes, the overlay route follows: into the tunnel, and out of it again."""
    a, b = cluster.nodes["a"], cluster.nodes["b"]
    subnet = cluster.name_of("b").partition("&")[0].replace("-", "/")
    via = f"{b.underlay[4]}/32 via {a.gateway[4]}"
    far = {subnet: cluster.nodes["c"].macs()[family] for family, subnet in FAR.items()}
    a.ns.ip(f"route add {via}")
    cluster.members["a"].wait_for_peers(far | {subnet: b.macs()[4]})
    a.ns.ip(f"route del {via}")
    cluster.members["a"].wait_for_peers(far)
    ping(a.pod_ns, b.pod[4])
