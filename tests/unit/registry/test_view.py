"""A View and the events for its reader, over any history of entries."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.views import claimed_leases
from vxland.model.lease import Delta, Lease, Mac, Snapshot, Vtep
from vxland.registry.entries import Own, Reading
from vxland.registry.errors import OverfullError
from vxland.registry.held_leases import HeldLeases
from vxland.registry.view import View


def lease(number: int, version: int = 4, mac: int = 1) -> Lease:
    """Return the lease of node `number`."""
    subnet = ip_network(f"10.244.{number}.0/24" if version == 4 else f"fd00:10:244:{number:x}::/64")
    address = ip_address(f"192.168.0.{number}" if version == 4 else f"fd00:192:168::{number:x}")
    return Lease(subnet, Vtep(address, Mac(mac << 8)))


def entry(*leases: Lease, problem: str = "") -> Reading:
    """Return a dual-stack entry of which only these leases are valid."""
    read: dict[int, Lease] = {lease.subnet.version: lease for lease in leases}
    return Reading(read, frozenset({4, 6} - read.keys()), problem)


def listed(*leases: Lease) -> View:
    """Return a view of entries with one IPv4 lease each, by their subnets, after its Snapshot."""
    view = View()
    for each in leases:
        view.put(str(each.subnet), entry(each))
    view.complete({str(each.subnet) for each in leases})
    assert view.take() == Snapshot(frozenset(leases))
    return view


_steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "half", "unread", "foreign", "remove", "list"]),
        st.integers(1, 4),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=30,
)


def step(view: View, model: dict[int, dict[int, Lease]], what: str, number: int, mac: int) -> None:
    """Apply one change of the entry of node `number` to a view and to a model of it."""
    both = {version: lease(number, version, mac) for version in (4, 6)}
    match what:
        case "put":
            view.put(str(number), Reading(both))
            model[number] = both
        case "half":
            view.put(str(number), entry(both[4], problem="no IPv6"))
            model[number] = model.get(number, {}) | {4: both[4]}
        case "unread":
            view.put(str(number), entry(problem="nothing"))
        case "foreign":
            view.put(str(number), Reading(unreachable="another backend"))
            model.pop(number, None)
        case "remove":
            view.remove(str(number))
            model.pop(number, None)
        case "list":
            view.complete({str(number) for number in model})


@given(_steps, _steps)
def test_a_reader_ends_with_what_was_last_understood(
    before: list[tuple[str, int, int, bool]], after: list[tuple[str, int, int, bool]]
) -> None:
    """After any puts, garbled values and deletions, with any reads between, only deleted leases are gone."""
    view = View()
    model: dict[int, dict[int, Lease]] = {}
    for what, number, mac, _ in before:
        if what != "list":
            step(view, model, what, number, mac)
            assert view.take() is None  # no event before all is listed
    step(view, model, "list", 0, 0)
    event = view.take()
    assert isinstance(event, Snapshot)
    held = HeldLeases()
    held.apply(event)
    for what, number, mac, reads in after:
        step(view, model, what, number, mac)
        if reads and (event := view.take()) is not None:
            assert isinstance(event, Delta)
            held.apply(event)
    if (event := view.take()) is not None:
        held.apply(event)
    assert set(held) == claimed_leases(view) == {each for leases in model.values() for each in leases.values()}
    assert view.take() is None


def test_a_listing_ends_what_it_does_not_have() -> None:
    """Entries deleted meanwhile go, with their problems; the others cause no event."""
    view = listed(lease(1), lease(2))
    view.put(str(lease(1).subnet), entry(problem="nothing"))
    view.put(str(lease(2).subnet), entry(lease(2)))
    view.complete({str(lease(2).subnet)})
    assert view.take() == Delta(removed=frozenset({lease(1).subnet}))
    assert view.quarantined == {}


def test_an_entry_that_moves_changes_both_its_subnets() -> None:
    """A recreated Node may have another podCIDR."""
    view = listed(lease(1))
    view.put(str(lease(1).subnet), entry(lease(2)))
    assert view.take() == Delta(frozenset({lease(2)}), frozenset({lease(1).subnet}))


def test_equal_content_is_no_news() -> None:
    """Heartbeats, and a new listing."""
    view = listed(lease(1))
    view.changed.clear()
    view.put(str(lease(1).subnet), entry(lease(1)))
    assert not view.changed.is_set()
    assert view.take() is None


def test_what_is_ours_appears_once_it_is_not() -> None:
    """A key that we tried to take is another node's."""
    view = listed()
    view.hide(Own(frozenset({"own"})))
    view.put("own", entry(lease(1)))
    assert view.take() is None
    view.hide(Own())
    assert view.take() == Delta(frozenset({lease(1)}))


def test_a_claim_on_our_own_causes_no_event() -> None:
    """A part of our subnets, or our address, would draw our own pods' traffic away."""
    view = listed(lease(20))
    inner = Lease(ip_network("10.244.1.128/25"), lease(3).vtep)
    outer = Lease(ip_network("10.244.0.0/22"), lease(4).vtep)
    address = Lease(lease(5).subnet, Vtep(lease(1).vtep.address, Mac(7)))
    for number, each in enumerate((inner, outer, address)):
        view.put(str(number), entry(each))
    view.hide(Own(frozenset({"own"}), frozenset({lease(1)})))
    assert view.take() is None
    assert claimed_leases(view) == {lease(1), lease(20), inner, outer, address}
    assert view.quarantined.keys() == {"0", "1", "2"}
    view.hide(Own())
    assert view.take() == Delta(frozenset({inner, address}))  # of two that overlap, the first
    assert view.quarantined.keys() == {"1"}


def test_problems_last_as_long_as_they_do() -> None:
    """They end with the entry or the error; a node of another backend has none."""
    view = listed(lease(1))
    with capture_logs() as logged:
        for _ in range(2):
            view.put("a", entry(problem="garbled"))
            view.put("b", Reading(unreachable="another backend"))
    assert view.quarantined == {"a": "garbled"}
    assert [(entry["event"], entry["entry"], entry["reason"]) for entry in logged] == [
        ("lease_quarantined", "a", "garbled"),
        ("lease_odd", "b", "another backend"),
    ]
    view.put("a", entry(lease(2)))
    assert view.quarantined == {}


def test_the_log_is_not_filled_by_invalid_entries() -> None:
    """The log has 20 lines a minute at most, and one that reports the limit; health names all."""
    view = View()
    with capture_logs() as logged:
        for number in range(100):
            view.put(f"stray {number}", entry(problem="garbled"))
    assert len(logged) == 21
    assert logged[-1]["event"] == "log_lines_left_out"
    assert len(view.quarantined) == 100


def test_a_store_that_has_too_many_entries_is_an_error() -> None:
    """Known entries may change and go, quarantined ones count, and a refused one changes nothing."""
    view = View(2)
    view.put("node1", entry(lease(1)))
    view.put("stray", entry(problem="garbled"))
    with pytest.raises(OverfullError):
        view.put("one too many", entry(problem="garbled"))
    assert view.quarantined == {"stray": "garbled"}
    view.put("stray", entry(problem="garbled again"))
    view.remove("stray")
    view.put("another", entry(problem="garbled"))
    assert view.quarantined == {"another": "garbled"}
