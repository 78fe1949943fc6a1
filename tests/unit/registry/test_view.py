"""What a watch knows, and what it tells its reader, over any history of entries."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from vxland.model.lease import Delta, Lease, Mac, Snapshot, Vtep
from vxland.registry.entries import Own, Reading
from vxland.registry.errors import OverfullError
from vxland.registry.protocol import followed
from vxland.registry.view import View


def lease(number: int, version: int = 4, mac: int = 1) -> Lease:
    """The lease of node `number`."""
    subnet = ip_network(f"10.244.{number}.0/24" if version == 4 else f"fd00:10:244:{number:x}::/64")
    address = ip_address(f"192.168.0.{number}" if version == 4 else f"fd00:192:168::{number:x}")
    return Lease(subnet, Vtep(address, Mac(mac << 8)))


def told(*leases: Lease, problem: str = "") -> Reading:
    """A dual-stack entry of which only these leases can be read."""
    read: dict[int, Lease] = {lease.subnet.version: lease for lease in leases}
    return Reading(read, frozenset({4, 6} - read.keys()), problem)


def listed(*leases: Lease) -> View:
    """A view of entries of one IPv4 lease each, by the texts of their subnets, whose Snapshot has been taken."""
    view = View()
    for each in leases:
        view.put(str(each.subnet), told(each))
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
    """One change of the entry of node `number`, to a view and to a model of it."""
    both = {version: lease(number, version, mac) for version in (4, 6)}
    match what:
        case "put":
            view.put(str(number), Reading(both))
            model[number] = both
        case "half":
            view.put(str(number), told(both[4], problem="no IPv6"))
            model[number] = model.get(number, {}) | {4: both[4]}
        case "unread":
            view.put(str(number), told(problem="nothing"))
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
    """Whatever is put, garbled and deleted, and however often it reads: nobody is lost but by deletion."""
    view = View()
    model: dict[int, dict[int, Lease]] = {}
    for what, number, mac, _ in before:
        if what != "list":
            step(view, model, what, number, mac)
            assert view.take() is None  # nothing is told before all is listed
    step(view, model, "list", 0, 0)
    event = view.take()
    assert isinstance(event, Snapshot)
    known = event.leases
    for what, number, mac, reads in after:
        step(view, model, what, number, mac)
        if reads and (event := view.take()) is not None:
            assert isinstance(event, Delta)
            known = followed(known, event)
    if (event := view.take()) is not None:
        known = followed(known, event)
    assert known == view.leases == {each for leases in model.values() for each in leases.values()}
    assert view.take() is None


def test_a_listing_ends_what_it_does_not_have() -> None:
    """What was deleted while nobody looked, with what was wrong with it; the rest is not told again."""
    view = listed(lease(1), lease(2))
    view.put(str(lease(1).subnet), told(problem="nothing"))
    view.put(str(lease(2).subnet), told(lease(2)))
    view.complete({str(lease(2).subnet)})
    assert view.take() == Delta(removed=frozenset({lease(1).subnet}))
    assert view.quarantined == {}


def test_an_entry_that_moves_is_told_with_both_its_subnets() -> None:
    """A Node made again may have another podCIDR."""
    view = listed(lease(1))
    view.put(str(lease(1).subnet), told(lease(2)))
    assert view.take() == Delta(frozenset({lease(2)}), frozenset({lease(1).subnet}))


def test_equal_content_is_no_news() -> None:
    """Heartbeats, and a new listing."""
    view = listed(lease(1))
    view.changed.clear()
    view.put(str(lease(1).subnet), told(lease(1)))
    assert not view.changed.is_set()
    assert view.take() is None


def test_what_is_ours_appears_once_it_is_not() -> None:
    """A key we tried to take is another node's after all."""
    view = listed()
    view.hide(Own(frozenset({"own"})))
    view.put("own", told(lease(1)))
    assert view.take() is None
    view.hide(Own())
    assert view.take() == Delta(frozenset({lease(1)}))


def test_a_claim_on_our_own_is_not_told() -> None:
    """Neither part of our subnets nor our address: both would lead our own pods' traffic away."""
    view = listed(lease(20))
    inner = Lease(ip_network("10.244.1.128/25"), lease(3).vtep)
    outer = Lease(ip_network("10.244.0.0/22"), lease(4).vtep)
    address = Lease(lease(5).subnet, Vtep(lease(1).vtep.address, Mac(7)))
    for number, each in enumerate((inner, outer, address)):
        view.put(str(number), told(each))
    view.hide(Own(frozenset({"own"}), frozenset({lease(1)})))
    assert view.take() is None
    assert view.leases == {lease(1), lease(20), inner, outer, address}
    assert view.quarantined.keys() == {"0", "1", "2"}
    view.hide(Own())
    assert view.take() == Delta(frozenset({inner, address}))  # of two that overlap, the first
    assert view.quarantined.keys() == {"1"}


def test_problems_last_as_long_as_they_do() -> None:
    """Named while they are there, and forgotten with the entry or the mistake; who runs something else is sound."""
    view = listed(lease(1))
    with capture_logs() as logged:
        for _ in range(2):
            view.put("a", told(problem="garbled"))
            view.put("b", Reading(unreachable="another backend"))
    assert view.quarantined == {"a": "garbled"}
    assert [(entry["event"], entry["entry"], entry["reason"]) for entry in logged] == [
        ("lease_quarantined", "a", "garbled"),
        ("lease_odd", "b", "another backend"),
    ]
    view.put("a", told(lease(2)))
    assert view.quarantined == {}


def test_the_log_is_not_filled_by_strangers() -> None:
    """20 lines a minute at most, and one that says so; health names all."""
    view = View()
    with capture_logs() as logged:
        for number in range(100):
            view.put(f"stray {number}", told(problem="garbled"))
    assert len(logged) == 21
    assert logged[-1]["event"] == "log_lines_left_out"
    assert len(view.quarantined) == 100


def test_a_store_that_has_too_many_entries_is_an_error() -> None:
    """Known ones may change and go, quarantined ones count, and what is refused changes nothing."""
    view = View(2)
    view.put("node1", told(lease(1)))
    view.put("stray", told(problem="garbled"))
    with pytest.raises(OverfullError):
        view.put("one too many", told(problem="garbled"))
    assert view.quarantined == {"stray": "garbled"}
    view.put("stray", told(problem="garbled again"))
    view.remove("stray")
    view.put("another", told(problem="garbled"))
    assert view.quarantined == {"another": "garbled"}
