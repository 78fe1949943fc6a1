"""What Node objects say of peers: judged one by one, and kept together."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.control.kube.annotations import Names
from vxland.control.kube.peers import Reading, Rules, View, read
from vxland.control.registry import followed
from vxland.model import Delta, Lease, Mac, Snapshot, Subnet, Vtep

A = "flannel.alpha.coreos.com/"
NAMES = Names.under("flannel.alpha.coreos.com")
NETWORKS: dict[int, Subnet] = {4: ip_network("10.244.0.0/16"), 6: ip_network("fd00:10:244::/56")}
V4 = Rules(NAMES, {4: NETWORKS[4]}, 1, frozenset({ip_network("10.244.0.0/24")}))
DUAL = Rules(NAMES, NETWORKS, 1, frozenset({ip_network("10.244.0.0/24"), ip_network("fd00:10:244::/64")}))


def lease(number: int, version: int = 4, mac: int = 0) -> Lease:
    """The lease of node `number`."""
    subnet = ip_network(f"10.244.{number}.0/24" if version == 4 else f"fd00:10:244:{number:x}::/64")
    address = ip_address(f"192.168.0.{number}" if version == 4 else f"fd00:192:168::{number:x}")
    return Lease(subnet, Vtep(address, Mac(0x0A0000000000 + (mac or number))))


def node(number: int, mac: int = 0, **annotations: str | None) -> dict[str, Any]:
    """The Node of a dual-stack peer; annotations are given with _ for - and without the prefix, None leaves one out."""
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
    """In a cluster of one family the other one's annotations do not matter."""
    assert read(node(1), DUAL) == Reading({4: lease(1), 6: lease(1, 6)})
    assert read(node(1), V4) == Reading({4: lease(1)})
    assert read(node(1, public_ipv6="nonsense"), V4) == Reading({4: lease(1)})


def test_a_node_without_flannel_is_no_peer() -> None:
    """Nor one whose annotation says otherwise; whatever else it has."""
    assert read(node(1, kube_subnet_manager=None), DUAL) == Reading()
    assert read(node(1, kube_subnet_manager="false"), DUAL) == Reading()


def test_a_node_of_another_backend_is_no_peer() -> None:
    """It is named, with what it runs."""
    assert read(node(1, backend_type="host-gw"), DUAL) == Reading(foreign="'host-gw'")


def test_a_peer_that_lacks_ipv6_keeps_ipv4() -> None:
    """What flannel drops whole: here what is missing is named, and the other family's lease stands."""
    reading = read(node(1, backend_v6_data=None), DUAL)
    assert reading == Reading({4: lease(1)}, frozenset({6}), f"{A}backend-v6-data: missing")
    assert set(read(node(1, public_ip=None), DUAL).leases) == {6}


def test_an_empty_mac_is_waited_for_without_complaint() -> None:
    """Windows nodes learn theirs after they have published."""
    assert read(node(1, backend_data='{"VNI":1,"VtepMAC":""}'), V4) == Reading(unread=frozenset({4}))


def test_another_vni_is_named_and_the_lease_stands() -> None:
    """As flannel never looks at it; but the peer takes no frames of ours."""
    reading = read(node(1, backend_data='{"VNI":7,"VtepMAC":"0a:00:00:00:00:01"}'), V4)
    assert reading.leases == {4: lease(1)}
    assert "VNI 7 is not the network's 1" in reading.problem


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("10.245.1.0/24", "lies outside the network 10.244.0.0/16"),
        ("10.0.0.0/8", "lies outside the network 10.244.0.0/16"),
        ("0.0.0.0/0", "lies outside the network 10.244.0.0/16"),
        ("10.244.0.128/25", "overlaps this node's 10.244.0.0/24"),
        ("10.244.0.0/20", "overlaps this node's 10.244.0.0/24"),
        ("fd00:10:244:1::/64", "it has no IPv4 podCIDR"),
    ],
)
def test_a_subnet_that_would_draw_other_traffic_is_refused(subnet: str, reason: str) -> None:
    """A peer's route may take neither the node's own pods nor what lies beyond the overlay."""
    peer = node(1)
    peer["spec"]["podCIDRs"] = [subnet]
    reading = read(peer, V4)
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


@given(JSON | NODES)
def test_no_json_is_too_strange_for_a_node(thing: object) -> None:
    """Whatever stands in for a Node adds nobody, removes nobody, and is no error."""
    view = View("me")
    view.put(node(1), DUAL)
    view.complete({"node1"})
    assert view.take() == Snapshot(frozenset({lease(1), lease(1, 6)}))
    view.put(thing, DUAL)
    assert view.take() is None


@given(JSON, KEYS)
def test_a_broken_annotation_keeps_the_lease(value: object, key: str) -> None:
    """A peer that was healthy stays, unless it says that it is no peer any more."""
    view = View("me")
    view.put(node(1), DUAL)
    view.complete({"node1"})
    view.take()
    broken = node(1)
    broken["metadata"]["annotations"][key] = value
    view.put(broken, DUAL)
    says_so = key.endswith("kube-subnet-manager") or (key.endswith("backend-type") and isinstance(value, str) and value)
    assert (view.take() is None) != bool(says_so)


def listed(*nodes: dict[str, Any]) -> View:
    """A view of these Nodes, whose Snapshot has been taken."""
    view = View("me")
    for each in nodes:
        view.put(each, DUAL)
    view.complete({each["metadata"]["name"] for each in nodes})
    assert isinstance(view.take(), Snapshot)
    return view


def test_nothing_is_told_before_all_is_listed() -> None:
    """Half a list is not the cluster; an empty one is."""
    view = View("me")
    view.put(node(1), DUAL)
    assert view.take() is None
    empty = View("me")
    empty.complete(frozenset())
    assert empty.take() == Snapshot(frozenset())
    assert empty.take() is None


def test_each_family_changes_for_itself() -> None:
    """One half is enough, where flannel waits for both."""
    view = listed(node(1))
    view.put(node(1, public_ipv6="fd00::99"), DUAL)
    changed = Lease(lease(1, 6).subnet, Vtep(ip_address("fd00::99"), lease(1).vtep.mac))
    assert view.take() == Delta(frozenset({changed}))
    view.put(node(1, public_ipv6="fd00::99", public_ip="192.168.0.99"), DUAL)
    other = Lease(lease(1).subnet, Vtep(ip_address("192.168.0.99"), lease(1).vtep.mac))
    assert view.take() == Delta(frozenset({other}))


def test_equal_content_is_no_news() -> None:
    """A kubelet updates its Node every few minutes; a new list repeats everything."""
    view = listed(node(1), node(2))
    view.put(node(1), DUAL)
    assert view.take() is None
    view.put(node(2), DUAL)
    view.complete({"node1", "node2"})
    assert view.take() is None


def test_a_new_list_drops_who_is_not_in_it() -> None:
    """What was deleted while nobody looked is gone, in a Snapshot."""
    view = listed(node(1), node(2, public_ip="bad"))
    assert view.problems
    view.put(node(1), DUAL)
    view.complete({"node1"})
    assert view.take() == Snapshot(frozenset({lease(1), lease(1, 6)}))
    assert view.problems == {}


def test_problems_last_as_long_as_they_do() -> None:
    """Named while they are there, and forgotten with the Node or the mistake."""
    view = listed(node(1), node(2))
    view.put(node(1, public_ip="here"), DUAL)
    view.put(node(2, backend_type="udp"), DUAL)
    assert list(view.problems) == ["node1"]
    assert list(view.foreign) == ["node2"]
    view.put(node(1), DUAL)
    view.remove("node2")
    assert view.problems == {}
    assert view.foreign == {}


def test_two_claims_on_one_subnet_are_settled_alike_everywhere() -> None:
    """Whatever came first; and when one of them goes, the other one has it."""
    twin = node(1, mac=99)
    twin["metadata"]["name"] = "twin"
    one, other = listed(node(1), twin), listed(twin, node(1))
    for view in (one, other):
        assert lease(1, mac=99) in view.leases
        view.remove("node1")
        assert view.take() == Delta(frozenset({lease(1, mac=99), lease(1, 6, mac=99)}))
        view.remove("twin")
        assert view.take() == Delta(removed=frozenset({lease(1).subnet, lease(1, 6).subnet}))


def test_a_deleted_node_takes_its_last_good_lease_along() -> None:
    """What was kept for an unreadable peer goes with the peer."""
    view = listed(node(1))
    view.put(node(1, backend_data="{"), DUAL)
    assert view.take() is None
    view.remove("node1")
    assert view.take() == Delta(removed=frozenset({lease(1).subnet, lease(1, 6).subnet}))


STEPS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sampled_from(["put", "remove", "no-v6", "list"]),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=30,
)


@given(STEPS)
def test_followed_events_are_what_the_nodes_say(steps: list[tuple[int, str, int, bool]]) -> None:
    """Against a dictionary of Nodes that is read anew each time, whenever the reader comes."""
    view, known = View("me"), frozenset[Lease]()
    nodes: dict[str, dict[str, Any]] = {}
    leases: dict[str, dict[int, Lease]] = {}
    view.complete(frozenset())
    for number, what, mac, taken in steps:
        name = f"node{number}"
        if what == "remove":
            nodes.pop(name, None)
            leases.pop(name, None)
            view.remove(name)
        elif what == "list":
            for each in nodes.values():
                view.put(each, DUAL)
            view.complete(nodes.keys())
        else:
            nodes[name] = node(number, mac * 10, **({"public_ipv6": None} if what == "no-v6" else {}))
            leases.setdefault(name, {})[4] = lease(number, 4, mac * 10)
            if what == "put":
                leases[name][6] = lease(number, 6, mac * 10)
            view.put(nodes[name], DUAL)
        if taken and (event := view.take()) is not None:
            known = followed(known, event)
    if (event := view.take()) is not None:
        known = followed(known, event)
    assert known == {each for found in leases.values() for each in found.values()}
