"""The closing table, from evidence made of the walk-through's own packets."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from tests.walkthrough import extended_walk, hop, seen, walk
from vxland.lab.demo.checks import judge, removed
from vxland.lab.demo.evidence import DaemonFacts, DemoEvidence, Hop
from vxland.lab.demo.report import Report, as_json
from vxland.lab.etcd import StoredLease, lease_key, lease_value, reservation
from vxland.lab.namespaces import Lab
from vxland.lab.topology import BRIDGE, NODES, OVERLAY, UNDERLAY
from vxland.lab.traffic import parse_ping
from vxland.lab.vtep import config_of


@pytest.fixture
def evidence() -> DemoEvidence:
    """A walk-through without a fault."""
    return walk()


@pytest.fixture
def extended() -> DemoEvidence:
    """The same over etcd, with pods attached by CNI plugins."""
    return extended_walk()


def failed(evidence: DemoEvidence) -> set[str]:
    """Return the names of the checks that do not pass."""
    return {check.name for check in judge(evidence) if not check.passed}


def test_every_check_passes(evidence: DemoEvidence) -> None:
    """Each has a detail and a unique name."""
    checks = judge(evidence) + removed({"node 1": 0}, [])
    assert [check for check in checks if not check.passed] == []
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.detail for check in checks)


def test_a_wrong_mtu_fails(evidence: DemoEvidence) -> None:
    """Only the check of that device fails."""
    wrong = replace(evidence.devices[1], mtu=1500)
    assert failed(replace(evidence, devices=(wrong,))) == {"node 1: flannel.1"}


def test_a_packet_on_flannel_fails_the_first_experiment(evidence: DemoEvidence) -> None:
    """Traffic between pods of one node must not reach flannel.1."""
    stray = replace(evidence.same, overlay=hop("node 1", OVERLAY, (64, 64)))
    assert failed(replace(evidence, same=stray)) == {"one node: none reaches flannel.1"}


def test_a_hop_that_saw_nothing_fails(evidence: DemoEvidence) -> None:
    """The packet must be found at every hop."""
    hops = (*evidence.across.hops[:2], Hop("node 1", UNDERLAY, ()), *evidence.across.hops[3:])
    across = replace(evidence.across, hops=hops)
    assert failed(replace(evidence, across=across)) == {"two nodes: the same packet at every hop"}


@pytest.mark.parametrize(
    ("at", "octet", "name"),
    [
        (22, 63, "request: outer TTL 64, DF clear"),
        (20, 0x40, "request: outer TTL 64, DF clear"),
        (37, 0x19, "two nodes: the same packet at every hop"),  # port 8473 is not VXLAN: the packet is not found
        (33, 0x80, "request: outer addresses and port"),
        (41, 0x00, "request: outer UDP checksum"),
        (42, 0x88, "request: VXLAN header"),
        (45, 0x01, "request: VXLAN header"),
        (48, 0x02, "request: VXLAN header"),
        (55, 0xFF, "request: inner MACs are the VTEPs'"),
    ],
)
def test_a_wrong_byte_on_the_wire_fails(evidence: DemoEvidence, at: int, octet: int, name: str) -> None:
    """Each field of the outer headers is checked."""
    request, reply = evidence.across.hops[2].seen
    frame = request.frame[:at] + bytes((octet,)) + request.frame[at + 1 :]
    hops = list(evidence.across.hops)
    hops[2] = replace(hops[2], seen=(seen(frame), reply))
    assert name in failed(replace(evidence, across=replace(evidence.across, hops=tuple(hops))))


def test_a_lost_ping_fails_with_all_that_ping_printed(evidence: DemoEvidence) -> None:
    """The one that is lost, and what a router said about it, can be read there."""
    lossy = parse_ping("ping", "64 bytes: icmp_seq=1 ttl=62\n3 packets transmitted, 1 received\nrtt = 1/1/1 ms")
    full = replace(evidence.full, ping=lossy)
    across = replace(evidence.across, ping=lossy)
    found = [check for check in judge(replace(evidence, full=full, across=across)) if not check.passed]
    assert {check.name for check in found} == {"two nodes: pod A pings pod C", "full size: 1450 bytes with DF"}
    assert all(check.detail == lossy.output for check in found)


def test_a_daemon_that_ended_fails(evidence: DemoEvidence) -> None:
    """It must run until it is asked to end, and then exit with 0."""
    dead = DaemonFacts("node 1", 4711, 1, "no /dev/net/tun")
    assert failed(replace(evidence, daemons=(dead,))) == {"node 1: vxland runs to the end"}
    assert [check.passed for check in removed({"node 1": -9}, ["/run/netns/vxdemo-1-node1"])] == [False, False]


def test_every_check_passes_over_etcd_and_with_cni(extended: DemoEvidence) -> None:
    """There are more checks, each with a unique name."""
    checks = judge(extended)
    assert [check for check in checks if not check.passed] == []
    assert len({check.name for check in checks}) == len(checks) == len(judge(replace(extended, leases=None))) + 3


@pytest.mark.parametrize(
    ("at", "lease", "names"),
    [
        (1, None, {"etcd: the lease of node 1"}),
        (
            1,
            StoredLease(lease_key(NODES[0].subnet), reservation(NODES[0].underlay, NODES[0].vtep_mac), 0),
            {"etcd: the lease of node 1"},
        ),
        (
            1,
            StoredLease(lease_key(NODES[0].subnet), lease_value(NODES[0].underlay, NODES[0].vtep_mac), 1),
            {"etcd: the lease of node 1"},
        ),
        (0, StoredLease("/coreos.com/network/subnets/10.244.7.0-24", "{}", 0), {"etcd: no other lease"}),
    ],
    ids=["missing", "only reserved", "no longer reserved", "another"],
)
def test_a_wrong_lease_fails(extended: DemoEvidence, at: int, lease: StoredLease | None, names: set[str]) -> None:
    """Each lease has flannel's form, a reservation stays one, and there is no other lease."""
    assert extended.leases is not None
    others = extended.leases[:at] + extended.leases[at + 1 :]
    assert failed(replace(extended, leases=(*others, *([lease] if lease else [])))) == names


@pytest.mark.parametrize(
    "change", [{"mtu": 1500}, {"addresses": ("10.244.0.99/24",)}, {"gateway": ""}, {"hairpin": False}]
)
def test_a_wrongly_attached_pod_fails(extended: DemoEvidence, change: dict[str, Any]) -> None:
    """Each setting of the plugins is checked from inside the pod."""
    assert extended.network is not None
    first, *others = extended.network.pods
    network = replace(extended.network, pods=(replace(first, **change), *others))
    assert failed(replace(extended, network=network)) == {"pod A: attached by CNI"}


def test_a_pod_that_stays_attached_fails(extended: DemoEvidence) -> None:
    """CNI DEL must remove the veth pair and release the address."""
    assert failed(replace(extended, detached={"pod A": "veth0, 10.244.0.19"})) == {"pod A: detached by CNI"}


def test_json_has_the_promised_shape(evidence: DemoEvidence) -> None:
    """DESIGN.md, `vxland demo --json`."""
    found = as_json(evidence, judge(evidence))
    assert found["passed"] is True
    assert found["iperf"] == 1.5
    captures = found["captures"]
    assert isinstance(captures, list)
    assert [capture["device"] for capture in captures] == [BRIDGE, OVERLAY, UNDERLAY]
    assert [capture["packets"] for capture in captures] == [2, 2, 2]
    assert captures[2]["packet"]["vxlan"]["vni"] == 1
    assert (found["registry"], found["leases"], found["cni"]) == ("static", [], False)


def test_json_has_etcd_and_cni(extended: DemoEvidence) -> None:
    """The leases, without the network's configuration, and the pods with their addresses."""
    found = as_json(extended, judge(extended))
    assert (found["registry"], found["cni"]) == ("etcd", True)
    leases, pods = found["leases"], found["pods"]
    assert isinstance(leases, list)
    assert isinstance(pods, list)
    assert [lease["key"] for lease in leases] == [lease_key(node.subnet) for node in NODES]
    assert [pod["address"] for pod in pods] == ["10.244.0.19", "10.244.0.18", "10.244.1.13", "10.244.1.14"]


def test_the_report_is_complete(extended: DemoEvidence) -> None:
    """Every step prints its result in 80 columns."""
    report = Report(Console(width=80, record=True, file=io.StringIO()), Lab())
    evidence = extended
    assert evidence.network is not None
    report.topology(evidence.kinds)
    report.network(evidence.network)
    report.devices(evidence.devices)
    report.same_node(evidence.same)
    report.across(evidence.across)
    report.throughput(evidence.full, evidence.there, evidence.back)
    report.checks(judge(evidence))
    text = report.console.export_text()
    for words in ("pod A", "TAP held by vxland", "kernel vxlan device", "nothing at all", "VNI 1", "1.50 Gbit/s"):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 80
    report.leases(evidence.leases or ())
    assert lease_value(NODES[0].underlay, NODES[0].vtep_mac) in report.console.export_text()  # can be copied


def test_the_configuration_names_the_walk_throughs_values() -> None:
    """The configuration for `vxland run`: this node's own values, and the other node as its one peer."""
    text = config_of(Lab(), NODES[0])
    assert 'mac: "ce:5f:f6:73:cf:b9"' in text
    assert '{subnet: 10.244.1.0/24, vtep: 192.168.111.129, mac: "3a:87:cf:81:6a:ce"}' in text
