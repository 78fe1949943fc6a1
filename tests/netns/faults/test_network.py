"""Faults of the network, and changes that other programs make to node a's kernel.

   pod of a - cni0 - flannel.1 (vxland) - e0 ---- br0, etcd ---- e0 - flannel.1 (kernel vxlan) - cni0 - pod of c

Each test demands recovery, and no loss where none is necessary. The fault report has the further loss and its duration.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.cluster.fake_flanneld import FakeFlanneld
from tests.netns.cluster.lab import GATEWAY, Cluster
from tests.netns.cluster.node import Member
from tests.netns.interop.ns import wait_until

from .fault import OFF, faulted
from .fault_report import FaultReport

pytestmark = pytest.mark.netns

FAULT_S = 2.0
NEW_ADDRESS = "192.168.111.228"
FULL, LESS = 1500, 1400
NEW_MAC = "0e:00:00:00:00:77"


@pytest.fixture
def roaming(a: Member, c: FakeFlanneld) -> Iterator[Member]:
    """Node a, whose underlay address may change; restored at the end, and known to all nodes."""
    address = a.node.underlay[4]
    yield a
    if a.node.underlay[4] != address:
        a.stop()
        move(a, address)
        a.start()
        c.follow()


def give(a: Member, address: str) -> None:
    """Give node a's e0 an address, and restore the default route that the kernel removed with the previous one."""
    a.ns.batch(f"addr add {address}/24 dev e0", f"route add default via {GATEWAY[4]}")


def move(a: Member, address: str) -> None:
    """Replace the address of node a's e0."""
    a.ns.ip(f"addr del {a.node.underlay[4]}/24 dev e0")
    a.node.underlay[4] = address
    give(a, address)


def set_mtu(cluster: Cluster, mtu: int) -> None:
    """Change the whole underlay's MTU: both ends of each node's link."""
    for node in cluster.nodes.values():
        node.ns.ip(f"link set e0 mtu {mtu}")
        cluster.net.ip(f"link set e-{node.letter} mtu {mtu}")


def device_mtu(a: Member) -> int:
    """Return the MTU of node a's flannel.1."""
    return int(a.ns.ip_json("link show flannel.1")[0]["mtu"])


def test_the_cable_is_pulled(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """The underlay loses its carrier and gets it back."""
    with faulted(cluster, report, 1, f"underlay without carrier for {FAULT_S:.0f} s") as fault:
        cluster.net.ip("link set e-a down")
        fault.lasts(FAULT_S)
        cluster.net.ip("link set e-a up")
    a.wait_ready()


def test_the_interface_is_set_down_and_up(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """Its routes are gone, and the default route is restored, as a network manager does."""
    with faulted(cluster, report, 2, f"underlay interface down for {FAULT_S:.0f} s") as fault:
        a.ns.ip("link set e0 down")
        fault.lasts(FAULT_S)
        a.ns.batch("link set e0 up", f"route add default via {GATEWAY[4]}")
    a.wait_ready()


def test_the_peer_comes_back_with_another_mac(
    cluster: Cluster, report: FaultReport, a: Member, c: FakeFlanneld
) -> None:
    """Node c reboots: it makes a new device, and flanneld publishes a new MAC."""
    with faulted(cluster, report, 3, "peer reboots, with a new MAC") as fault:
        c.ensure_links(NEW_MAC)
        c.publish()
        c.follow()
        fault.lasts(0)
    assert a.node.peers() == {next(iter(c.subnets.values())): NEW_MAC}


def test_the_device_is_deleted(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """`ip link delete flannel.1`: the same process makes it again, with its MAC and routes."""
    pid, mac, known = a.pid, a.node.macs()[4], a.node.peers()
    with faulted(cluster, report, 4, "`ip link delete flannel.1`") as fault:
        a.ns.ip("link delete flannel.1")
        fault.lasts(0)
        a.wait_for("device_recreated")
    a.wait_ready()
    assert (a.pid, a.node.macs()[4], a.node.peers()) == (pid, mac, known)


@pytest.mark.parametrize(
    ("place", "command"),
    [
        (5, "ip route flush dev flannel.1"),
        (6, "ip neigh flush dev flannel.1 nud permanent"),
        (7, "ip link set flannel.1 down"),
        (8, "ip link set flannel.1 address 0e:00:00:00:00:99"),
    ],
)
def test_other_programs_change_the_kernels_state(
    cluster: Cluster, report: FaultReport, a: Member, place: int, command: str
) -> None:
    """The state is restored at once, and the repair is logged."""
    before = a.node.peers(), a.node.macs()
    seen = len(a.events("drift_repaired"))
    with faulted(cluster, report, place, f"`{command}`") as fault:
        a.ns.run(*command.split())
        fault.lasts(0)
        wait_until(lambda: len(a.events("drift_repaired")) > seen, "drift_repaired", a.said)
        wait_until(lambda: (a.node.peers(), a.node.macs()) == before, "all as before", a.said)


@pytest.mark.usefixtures("daemon_only")
def test_the_firewall_refuses_our_datagrams(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """An nftables rule in the output hook makes sendmsg fail with EPERM: counted, and logged with the errno."""
    rule = "add table ip refusal; add chain ip refusal out { type filter hook output priority 0; };"
    before = a.drops()["send_failed"]
    with faulted(
        cluster, report, 9, f"nftables refuses what the node sends (EPERM) for {FAULT_S:.0f} s; {OFF}"
    ) as fault:
        a.ns.run("nft", f"{rule} add rule ip refusal out udp dport 8472 drop")
        fault.lasts(FAULT_S)
        a.ns.run("nft", "delete table ip refusal")
        wait_until(lambda: a.drops()["send_failed"] > before, "send_failed", a.said)
        wait_until(lambda: "not permitted" in str(a.events("frames_dropped")), "the kernel's word", a.said)


@pytest.mark.usefixtures("daemon_only")
def test_the_underlay_is_too_slow(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """A pod sends far more than the underlay carries: frames of others are late or lost, and the log reports it."""
    pod, target = a.node.pod_ns, (cluster.nodes["c"].pod[4], 9)
    with faulted(cluster, report, 10, f"underlay of 1 Mbit/s, a pod sends as fast as it can; {OFF}") as fault:
        a.ns.run("tc", "qdisc", "add", "dev", "e0", "root", "tbf", "rate", "1mbit", "burst", "15k", "limit", "15k")
        with pod.socket(a.node.pod[4]) as sender:
            for _ in range(20_000):
                sender.sendto(bytes(1200), target)
        fault.lasts(0)
        a.ns.run("tc", "qdisc", "del", "dev", "e0", "root")
        wait_until(lambda: "underlay_queue_full" in str(a.events("frames_dropped")), "the log reports it", a.said)
    a.wait_ready()
    assert fault.lost


def test_the_store_is_unavailable(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """Nothing is lost: frames follow the last known leases."""
    with faulted(cluster, report, 11, f"etcd killed, and back after {FAULT_S:.0f} s") as fault:
        cluster.etcd.stop()
        fault.lasts(FAULT_S)
        cluster.etcd.start()
        a.wait_for("registry_recovered")
    assert not fault.lost


@pytest.mark.usefixtures("daemon_only")
def test_the_underlays_address_is_removed_and_restored(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """A DHCP client may do this: the same process recovers by itself, and reports what is missing until then."""
    pid, address = a.pid, a.node.underlay[4]
    with faulted(cluster, report, 12, f"underlay address removed for {FAULT_S:.0f} s and back; {OFF}") as fault:
        a.ns.ip(f"addr del {address}/24 dev e0")
        fault.lasts(FAULT_S)
        reason = f"the underlay address {address} is gone from e0\n"
        wait_until(lambda: a.readiness() == (503, reason), "the reason", a.said)
        fault.lasts(0)
        give(a, address)
        a.wait_for("underlay_address_back")
    a.wait_ready()
    assert a.pid == pid
    assert fault.lost


def test_the_underlays_address_is_replaced(
    cluster: Cluster, report: FaultReport, roaming: Member, c: FakeFlanneld
) -> None:
    """The node ends with one line; the next start keeps subnet, pods and MAC, and publishes the new address."""
    a = roaming
    name, mac, old = cluster.name_of("a"), a.node.macs(), a.node.underlay[4]
    with faulted(
        cluster, report, 13, "underlay address replaced by another one, and the service manager starts the next"
    ) as fault:
        move(a, NEW_ADDRESS)
        fault.lasts(0)
        assert a.wait() == 1
        assert f"the underlay address {old} is gone from e0, and {NEW_ADDRESS} of e0 is there" in a.said()
        a.start()
        c.follow()
    assert (cluster.name_of("a"), a.node.macs()) == (name, mac)


def test_the_underlay_gets_narrower_for_a_while(cluster: Cluster, report: FaultReport, a: Member) -> None:
    """For packets that fill the tunnel: device and subnet.env follow, and the pod gets the new size."""
    seen = len(a.events("underlay_mtu_changed"))
    name = f"underlay MTU lowered from {FULL} to {LESS} for {FAULT_S:.0f} s; packets of {FULL - 50} bytes"
    with faulted(cluster, report, 14, name, FULL - 50 - 28) as fault:
        set_mtu(cluster, LESS)
        wait_until(lambda: device_mtu(a) == LESS - 50, "the device's MTU", a.said)
        wait_until(lambda: f"FLANNEL_MTU={LESS - 50}\n" in a.subnet_env(), "subnet.env", a.said)
        fault.lasts(FAULT_S)
        set_mtu(cluster, FULL)
        wait_until(lambda: device_mtu(a) == FULL - 50, "the device's MTU", a.said)
        wait_until(lambda: f"FLANNEL_MTU={FULL - 50}\n" in a.subnet_env(), "subnet.env", a.said)
    a.wait_ready()
    assert [event["mtu"] for event in a.events("underlay_mtu_changed")[seen:]] == [LESS - 50, FULL - 50]
