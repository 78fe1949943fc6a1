"""Claims on overlapping subnets: the first one holds, whatever happens to the others."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.views import claimed_leases
from vxland.model.lease import Delta, Lease, Mac, Snapshot, Vtep
from vxland.registry.entries import Own, Reading
from vxland.registry.held_leases import HeldLeases
from vxland.registry.view import View


def claim(subnet: str, number: int) -> Lease:
    """Return a lease of node `number`."""
    network = ip_network(subnet)
    address = IPv4Address(f"192.168.0.{number}") if network.version == 4 else IPv6Address(0xFD << 120 | number)
    return Lease(network, Vtep(address, Mac(number)))


def put(view: View, lease: Lease, created: int, name: str = "") -> None:
    """Put an entry with one lease, created at `created`."""
    view.put(name or f"node {lease.vtep.mac.value}", Reading({lease.subnet.version: lease}, created=f"{created:020}"))


def settled(view: View) -> frozenset[Lease]:
    """Return the leases of the first event."""
    view.complete({f"node {lease.vtep.mac.value}" for lease in claimed_leases(view)})
    event = view.take()
    assert isinstance(event, Snapshot)
    return event.leases


@pytest.mark.parametrize(
    ("whole", "part"),
    [("10.244.1.0/24", "10.244.1.8/30"), ("fd00:244:0:1::/64", "fd00:244:0:1::8/126"), ("10.244.1.0/24",) * 2],
)
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_claim_on_a_part_of_another_nodes_subnet_takes_nothing(whole: str, part: str, order: tuple[int, int]) -> None:
    """A lease on 10.244.1.8/30 drew away the traffic of a pod of 10.244.1.0/24, and could send as that pod."""
    view = View()
    leases = [claim(whole, 9), claim(part, 3)]
    for lease, created in zip(leases, order, strict=True):
        put(view, lease, created)
    first, second = sorted(leases, key=lambda lease: order[leases.index(lease)])
    assert settled(view) == {first}
    name = f"node {second.vtep.mac.value}"
    assert view.quarantined == {
        name: f"its subnet {second.subnet} overlaps {first.subnet}, which node {first.vtep.mac.value} had first: "
        "correct or delete one of them"
    }
    put(view, Lease(second.subnet, Vtep(second.vtep.address, Mac(1))), max(order), name)  # whatever it says next
    assert view.take() is None
    view.remove(f"node {first.vtep.mac.value}")
    event = view.take()
    assert isinstance(event, Delta)
    assert {lease.subnet for lease in event.added} == {second.subnet}
    assert event.removed == {first.subnet} - {second.subnet}
    assert view.quarantined == {}


def test_of_two_at_once_the_lower_mac_holds() -> None:
    """Kubernetes has times in seconds; every node must choose the same lease."""
    view = View()
    put(view, claim("10.244.1.0/24", 8), 5)
    put(view, claim("10.244.1.0/25", 7), 5)
    assert settled(view) == {claim("10.244.1.0/25", 7)}


def test_what_yields_to_one_that_yields_holds() -> None:
    """In a chain of claims in which each overlaps the next, the first and the third hold."""
    view = View()
    put(view, claim("10.244.1.0/25", 1), 1)
    put(view, claim("10.244.0.0/16", 2), 2)
    put(view, claim("10.244.2.0/24", 3), 3)
    assert settled(view) == {claim("10.244.1.0/25", 1), claim("10.244.2.0/24", 3)}
    view.remove("node 1")
    assert view.take() == Delta(
        frozenset({claim("10.244.0.0/16", 2)}), frozenset({ip_network("10.244.1.0/25"), ip_network("10.244.2.0/24")})
    )


SUBNETS = [str(ip_network((0x0A_F4_00_00 + (i << 8 - depth), 24 + depth))) for depth in range(4) for i in range(4)]
STEPS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["", "10.244.0.0/22", *SUBNETS]), st.integers(1, 4)), max_size=25
)


def first_come(held: dict[int, tuple[int, Lease]]) -> set[Lease]:
    """Return the claims that hold, by trying all in order."""
    chosen: list[Lease] = []
    for _, number in sorted((created, number) for number, (created, _) in held.items()):
        lease = held[number][1]
        if not any(lease.subnet.overlaps(other.subnet) for other in chosen):
            chosen.append(lease)
    return set(chosen)


@given(STEPS, st.data())
def test_any_history_ends_with_the_first_claim(steps: list[tuple[int, str, int]], data: st.DataObject) -> None:
    """After any changes the reader has the same leases as one that reads everything at the end."""
    view, known = View(), HeldLeases()
    held: dict[int, tuple[int, Lease]] = {}
    view.complete(frozenset())
    known.apply(view.take())  # type: ignore[arg-type]  # the first one is a Snapshot
    for number, subnet, created in steps:
        if subnet:
            held[number] = (created, claim(subnet, number))
            put(view, claim(subnet, number), created)
        else:
            held.pop(number, None)
            view.remove(f"node {number}")
        if data.draw(st.booleans()) and (event := view.take()) is not None:
            known.apply(event)
    if (event := view.take()) is not None:
        known.apply(event)
    assert set(known) == first_come(held)
    assert view.quarantined.keys() == {f"node {n}" for n, (_, lease) in held.items() if lease not in known}


def test_addresses_that_no_other_node_can_have() -> None:
    """Datagrams to our own address, or to the link's broadcast address, were sent as to a peer."""
    view = View()
    own = claim("10.244.9.0/24", 9)
    put(view, claim("10.244.1.0/24", 1), 1)
    for number, address in enumerate(("192.168.0.255", "192.168.0.0", "10.9.9.9", "192.168.0.9", "169.254.1.1"), 2):
        lease = claim(f"10.244.{number}.0/24", number)
        put(view, Lease(lease.subnet, Vtep(ip_address(address), lease.vtep.mac)), 1)
    taken = frozenset(map(ip_address, ("192.168.0.255", "192.168.0.0", "10.9.9.9")))
    view.hide(Own(frozenset(), frozenset({own}), taken))
    assert settled(view) == {claim("10.244.1.0/24", 1)}
    assert len(view.quarantined) == 5
    view.hide(Own(frozenset(), frozenset({own}), taken - {ip_address("10.9.9.9")}))
    event = view.take()
    assert isinstance(event, Delta)
    assert [str(lease.vtep.address) for lease in event.added] == ["10.9.9.9"]


def test_conflicts_do_not_fill_the_log() -> None:
    """The log has 20 lines a minute; health names all."""
    view = View()
    with capture_logs() as logged:
        put(view, claim("10.244.0.0/16", 200), 1)
        for number in range(1, 100):
            put(view, claim(f"10.244.{number}.0/24", number), 2)
        assert settled(view) == {claim("10.244.0.0/16", 200)}
    assert len(logged) == 21  # the last says that more are left out
    assert len(view.quarantined) == 99
