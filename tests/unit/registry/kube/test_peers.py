"""Leases of peers from Node objects, one by one and in a View."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.model.lease import Lease, Mac, Snapshot, Vtep
from vxland.registry.entries import Reading
from vxland.registry.kube.annotations import Names, name_of
from vxland.registry.kube.peers import read
from vxland.registry.net_conf import NetConf
from vxland.registry.view import View

A = "flannel.alpha.coreos.com/"
NAMES = Names.under("flannel.alpha.coreos.com")
DUAL = NetConf((ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")))
V4 = NetConf(DUAL.networks[:1])


def lease(number: int, version: int = 4, mac: int = 0) -> Lease:
    """Return the lease of node `number`."""
    subnet = ip_network(f"10.244.{number}.0/24" if version == 4 else f"fd00:10:244:{number:x}::/64")
    address = ip_address(f"192.168.0.{number}" if version == 4 else f"fd00:192:168::{number:x}")
    return Lease(subnet, Vtep(address, Mac(0x0A0000000000 + (mac or number))))


def node(number: int, mac: int = 0, **annotations: str | None) -> dict[str, Any]:
    """Return the Node of a dual-stack peer; annotations have _ for - and no prefix, None omits one."""
    texts: dict[str, str | None] = {"kube-subnet-manager": "true", "backend-type": "vxlan"}
    for version, v in ((4, ""), (6, "v6")):
        vtep = lease(number, version, mac).vtep
        texts[f"public-ip{v}"] = str(vtep.address)
        texts[f"backend-{v + '-' if v else ''}data"] = f'{{"VNI":1,"VtepMAC":"{vtep.mac}"}}'
    texts |= {key.replace("_", "-"): text for key, text in annotations.items()}
    subnets = [str(lease(number, version).subnet) for version in (4, 6)]
    return {
        "metadata": {
            "name": f"node{number}",
            "annotations": {A + key: text for key, text in texts.items() if text is not None},
        },
        "spec": {"podCIDR": subnets[0], "podCIDRs": subnets},
    }


def test_a_peer_has_a_lease_in_each_family() -> None:
    """In a cluster of one family, the other one's annotations are ignored."""
    assert read(node(1), NAMES, DUAL) == Reading({4: lease(1), 6: lease(1, 6)})
    assert read(node(1), NAMES, V4) == Reading({4: lease(1)})
    assert {each.node for each in read(node(1), NAMES, DUAL).leases.values()} == {"node1"}
    assert read(node(1, public_ipv6="nonsense"), NAMES, V4) == Reading({4: lease(1)})


def test_an_overwritten_address_comes_with_the_nodes_own() -> None:
    """Datagrams go to the published address, and may come from any address in the Node's status."""
    status = [
        {"type": "Hostname", "address": "10.0.0.8"},
        {"type": "InternalIP", "address": "10.0.0.9"},
        {"type": "InternalIP", "address": "fd00::9"},
        {"type": "ExternalIP", "address": "198.51.100.9"},
        {"type": "InternalIP", "address": "nonsense"},
        {"type": "InternalIP"},
        "nonsense",
    ]
    plain = node(1) | {"status": {"addresses": status}}
    assert read(plain, NAMES, DUAL) == Reading({4: lease(1), 6: lease(1, 6)})
    behind_nat = node(1, public_ip_overwrite="192.168.0.1") | {"status": {"addresses": status}}
    sources = (ip_network("10.0.0.9"), ip_network("198.51.100.9"))
    assert read(behind_nat, NAMES, DUAL) == Reading({4: replace(lease(1), sources=sources), 6: lease(1, 6)})
    many = [{"type": "InternalIP", "address": f"10.0.0.{number}"} for number in range(1, 30)]
    found = read(behind_nat | {"status": {"addresses": many}}, NAMES, DUAL).leases[4].sources
    assert found == tuple(ip_network(f"10.0.0.{number}") for number in range(1, 9))
    things: list[object] = [None, [], "nonsense", {"addresses": {}}]
    for broken in things:
        assert read(behind_nat | {"status": broken}, NAMES, DUAL).leases[4] == lease(1)


def test_a_node_without_flannel_is_no_peer() -> None:
    """Nor is one whose annotation is not true, whatever else it has."""
    assert read(node(1, kube_subnet_manager=None), NAMES, DUAL) == Reading()
    assert read(node(1, kube_subnet_manager="false"), NAMES, DUAL) == Reading()


def test_a_node_of_another_backend_is_no_peer() -> None:
    """The log names it with its backend."""
    assert read(node(1, backend_type="host-gw"), NAMES, DUAL) == Reading(
        unreachable="its backend is 'host-gw': vxland reaches vxlan nodes only"
    )


def test_a_peer_that_lacks_ipv6_keeps_ipv4() -> None:
    """Flannel drops such a peer; vxland names the missing part, and keeps the other family's lease."""
    reading = read(node(1, backend_v6_data=None), NAMES, DUAL)
    assert reading == Reading({4: lease(1)}, frozenset({6}), f"{A}backend-v6-data: None: it is missing")
    assert set(read(node(1, public_ip=None), NAMES, DUAL).leases) == {6}


def test_an_empty_mac_is_waited_for_without_complaint() -> None:
    """Windows nodes know theirs only after they have published."""
    assert read(node(1, backend_data='{"VNI":1,"VtepMAC":""}'), NAMES, V4) == Reading(unread=frozenset({4}))


def test_another_vni_is_named_and_the_lease_stands() -> None:
    """Flannel ignores it, but the peer accepts none of our frames."""
    reason = "its VNI is 7 and ours 1: neither takes the other's frames"
    peer = node(1, backend_data='{"VNI":7,"VtepMAC":"0a:00:00:00:00:01"}')
    assert read(peer, NAMES, V4) == Reading({4: lease(1)}, unreachable=reason)


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("10.245.1.0/24", "is outside the network 10.244.0.0/16"),
        ("10.0.0.0/8", "is outside the network 10.244.0.0/16"),
        ("0.0.0.0/0", "is outside the network 10.244.0.0/16"),
        ("fd00:10:244:1::/64", "it has no IPv4 podCIDR"),
    ],
)
def test_a_subnet_that_would_draw_other_traffic_is_refused(subnet: str, reason: str) -> None:
    """A peer's route must not cover addresses outside the overlay."""
    peer = node(1)
    peer["spec"]["podCIDRs"] = [subnet]
    reading = read(peer, NAMES, V4)
    assert reading.leases == {}
    assert reading.unread == {4}
    assert reason in reading.problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TEXTS = st.sampled_from(
    [
        "true",
        "vxlan",
        "",
        "null",
        "10.0.0.1",
        "::1",
        '{"VtepMAC":7}',
        '{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}',
        "[" * 9999,
    ]
)
KEYS = st.sampled_from([key for key in node(1)["metadata"]["annotations"]])  # noqa: C416  (a list, to be sampled)
NODES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": JSON
        | st.fixed_dictionaries(
            {}, optional={"name": JSON, "annotations": JSON | st.dictionaries(KEYS, TEXTS | JSON, max_size=8)}
        ),
        "spec": JSON
        | st.fixed_dictionaries({}, optional={"podCIDR": JSON, "podCIDRs": JSON | st.lists(JSON, max_size=3)}),
    },
)


def view_of_one() -> View:
    """Return a view of node1 after its Snapshot."""
    view = View()
    view.put("node1", read(node(1), NAMES, DUAL))
    view.complete({"node1"})
    assert view.take() == Snapshot(frozenset({lease(1), lease(1, 6)}))
    return view


@given(JSON | NODES)
def test_any_json_is_accepted_as_a_node(thing: object) -> None:
    """Any JSON in place of a Node adds no lease, removes none, and raises nothing."""
    view = view_of_one()
    view.put(name_of(thing), read(thing, NAMES, DUAL))
    assert view.take() is None


@given(JSON, KEYS)
def test_a_broken_annotation_keeps_the_lease(value: object, key: str) -> None:
    """A valid peer stays, unless its annotations show that it is no peer any more."""
    view = view_of_one()
    broken = node(1)
    broken["metadata"]["annotations"][key] = value
    view.put("node1", read(broken, NAMES, DUAL))
    says_so = key.endswith("kube-subnet-manager") or (key.endswith("backend-type") and isinstance(value, str) and value)
    assert (view.take() is None) != bool(says_so)
