"""Conflicts between leases, as sentences."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from vxland.model.lease import Lease, Mac, Vtep
from vxland.model.steps import at_once
from vxland.registry.lease_conflicts import LeaseConflicts


def lease(subnet: str, address: str, mac: int) -> Lease:
    """Return a lease."""
    return Lease(ip_network(subnet), Vtep(ip_address(address), Mac(mac)))


def news(conflicts: LeaseConflicts) -> dict[str, str]:
    """Return the sentences by address and MAC."""
    return {str(claimed): sentence for (_, claimed), sentence in at_once(conflicts.news()).items()}


def test_a_correct_cluster_has_no_conflict() -> None:
    """A dual-stack node has one VTEP for two subnets, or one for each; sizes may differ."""
    conflicts = LeaseConflicts()
    conflicts.add(
        lease(subnet, address, mac)
        for subnet, address, mac in (
            ("10.244.1.0/24", "192.168.0.1", 1),
            ("fd00:1::/64", "192.168.0.1", 1),
            ("10.244.2.0/25", "192.168.0.2", 2),
            ("fd00:2::/64", "fd00::2", 3),
        )
    )
    assert not conflicts.changed
    assert news(conflicts) == {}


def test_shared_addresses_and_macs_are_reported_with_the_subnets() -> None:
    """Vagrant gives every node 10.0.2.15, and cloned machines share their MAC."""
    conflicts = LeaseConflicts()
    leases = [lease(f"10.244.{number}.0/24", "10.0.2.15", 7) for number in range(5, 0, -1)]
    conflicts.add(leases)
    named = "10.244.1.0/24, 10.244.2.0/24, 10.244.3.0/24 and 2 more: every node needs its own"
    assert conflicts.changed
    assert news(conflicts) == {
        "10.0.2.15": f"the VTEP address 10.0.2.15 is that of the nodes of {named}",
        "00:00:00:00:00:07": f"the MAC 00:00:00:00:00:07 is that of the nodes of {named}",
    }
    conflicts.add([lease("10.244.9.0/24", "10.0.2.99", 99)])
    assert news(conflicts) == {}  # it concerns no other node
    conflicts.remove(leases[1:])
    assert news(conflicts) == {"10.0.2.15": "", "00:00:00:00:00:07": ""}


def test_two_entries_of_one_node_are_no_conflict() -> None:
    """The store contains the own lease of this node as well."""
    conflicts = LeaseConflicts()
    own = lease("10.244.1.0/24", "192.168.0.1", 1)
    conflicts.add([own])
    conflicts.add([own])
    assert set(news(conflicts).values()) <= {""}
    conflicts.remove([own])
    conflicts.add([lease("10.244.2.0/24", "192.168.0.2", 1)])
    assert [what for what, text in news(conflicts).items() if text] == ["00:00:00:00:00:01"]


LEASES = st.builds(
    lambda subnet, address, mac: lease(f"10.244.{subnet}.0/24", f"192.168.0.{address}", mac),
    *[st.integers(1, 3)] * 3,
)


@given(st.lists(st.tuples(LEASES, st.booleans()), max_size=25))
def test_any_history_ends_with_the_conflicts_of_a_fresh_start(steps: list[tuple[Lease, bool]]) -> None:
    """Whatever was added, reported and removed before, the last sentences are those of the leases there are."""
    conflicts, left, reported = LeaseConflicts(), list[Lease](), dict[str, str]()
    for each, reads in steps:
        if each in left:
            left.remove(each)
            conflicts.remove([each])
        else:
            left.append(each)
            conflicts.add([each])
        if reads:
            reported |= news(conflicts)
    reported |= news(conflicts)
    fresh = LeaseConflicts()
    fresh.add(left)
    assert {what: text for what, text in reported.items() if text} == {
        what: text for what, text in news(fresh).items() if text
    }
