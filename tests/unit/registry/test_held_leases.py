"""The leases that a reader of a registry holds, and the changes that it passes on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.model.lease import Change, Delta, Lease, Mac, Snapshot, Vtep
from vxland.registry.held_leases import HeldLeases


def lease(subnet: int, vtep: int = 1) -> Lease:
    """Return a lease on one subnet, with one VTEP."""
    return Lease(
        IPv4Network((0x0A_F4_00_00 | subnet << 8, 24)), Vtep(IPv4Address(0xC0_A8_00_00 | vtep), Mac(1 << 8 | vtep))
    )


def held(*leases: Lease) -> HeldLeases:
    """Return these leases as held."""
    found = HeldLeases()
    found.apply(Snapshot(frozenset(leases)))
    return found


def test_only_what_differs_is_a_change() -> None:
    """A lease with another VTEP is removed and added; one that is held already is neither."""
    leases = held(lease(1), lease(2), lease(3))
    event = Delta(frozenset({lease(1), lease(2, 9), lease(4)}), frozenset({lease(3).subnet, lease(8).subnet}))
    assert leases.apply(event) == Change(frozenset({lease(2), lease(3)}), frozenset({lease(2, 9), lease(4)}))
    assert set(leases) == {lease(1), lease(2, 9), lease(4)}
    assert not leases.apply(event)


def test_a_snapshot_replaces_all() -> None:
    """A registry that lost its place lists everything again."""
    leases = held(lease(1), lease(2))
    change = leases.apply(Snapshot(frozenset({lease(2), lease(3)})))
    assert change == Change(frozenset({lease(1)}), frozenset({lease(3)}))
    assert set(leases) == {lease(2), lease(3)}


@pytest.mark.parametrize("is_delta", [False, True])
def test_of_two_leases_on_one_subnet_the_lower_mac_is_held(*, is_delta: bool) -> None:
    """A damaged cache file may contain both; every reader must choose the same one."""
    both = frozenset({lease(1, 7), lease(1, 3), lease(1, 5)})
    leases = HeldLeases()
    assert leases.apply(Delta(both) if is_delta else Snapshot(both)) == Change(added=frozenset({lease(1, 3)}))
    assert list(leases) == [lease(1, 3)]


def test_the_name_of_a_node_is_no_change() -> None:
    """The cache file has no names; the store has them, and the API must report them."""
    leases = held(lease(1))
    assert not leases.apply(Snapshot(frozenset({replace(lease(1), node="worker-1")})))
    assert [each.node for each in leases] == ["worker-1"]


EVENTS = st.one_of(
    st.builds(
        lambda found: Snapshot(frozenset(found)), st.lists(st.builds(lease, st.integers(0, 5), st.integers(1, 3)))
    ),
    st.builds(
        lambda added, removed: Delta(frozenset(added), frozenset(lease(number).subnet for number in removed)),
        st.lists(st.builds(lease, st.integers(0, 5), st.integers(1, 3))),
        st.lists(st.integers(0, 5)),
    ),
)


@given(st.lists(EVENTS, max_size=8))
def test_changes_lead_from_nothing_to_what_is_held(events: list[Snapshot | Delta]) -> None:
    """A reader that applies each Change has the leases of a fresh reader, one on each subnet."""
    leases, followed, expected = HeldLeases(), set[Lease](), dict[object, Lease]()
    for event in events:
        change = leases.apply(event)
        assert change.removed <= followed
        assert change.added.isdisjoint(followed)
        followed = (followed - change.removed) | change.added
        if isinstance(event, Snapshot):
            given_, expected = event.leases, {}
        else:
            given_ = event.added
            expected = {subnet: each for subnet, each in expected.items() if subnet not in event.removed}
        for each in sorted(given_, key=lambda each: each.vtep.mac, reverse=True):
            expected[each.subnet] = each
        assert set(leases) == followed == set(expected.values())
        assert len(leases) == len(expected)
