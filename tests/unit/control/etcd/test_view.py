"""What a watch knows, and what it tells its reader, over any history of entries."""

from __future__ import annotations

import time
from functools import partial
from ipaddress import IPv4Address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from vxland.control.etcd.formats import build_value, read
from vxland.control.etcd.view import Hidden, View
from vxland.control.registry import followed
from vxland.model import Delta, Lease, Mac, Snapshot, Vtep

NETWORKS = {4: ip_network("10.244.0.0/16")}


def view() -> View:
    """An empty one, as before the first listing."""
    return View(partial(read, networks=NETWORKS), lambda key: key.decode(), 1, time.monotonic)


def lease(number: int, mac: int = 1) -> Lease:
    """The lease of node `number`."""
    return Lease(ip_network(f"10.244.{number}.0/24"), Vtep(IPv4Address("192.168.0.0") + number, Mac(mac << 8)))


def value(number: int, mac: int = 1) -> bytes:
    """The value of its entry."""
    return build_value({4: lease(number, mac).vtep}, 1)


def key(number: int) -> bytes:
    """The key of its entry."""
    return f"10.244.{number}.0-24".encode()


_GARBAGE = [b"", b"{", b'{"PublicIP":"192.168.0.1"}', b'{"BackendType":"vxlan"}']
_changes = st.lists(
    st.tuples(st.integers(1, 4), st.none() | st.integers(1, 2) | st.sampled_from(_GARBAGE), st.booleans()), max_size=30
)


@given(_changes, _changes)
def test_a_reader_ends_with_what_was_last_understood(
    before: list[tuple[int, int | bytes | None, bool]], after: list[tuple[int, int | bytes | None, bool]]
) -> None:
    """Whatever is put, garbled and deleted, and however often it reads: nobody is lost but by deletion."""
    seen = view()
    model: dict[int, Lease] = {}
    known: frozenset[Lease] = frozenset()

    def play(changes: list[tuple[int, int | bytes | None, bool]]) -> None:
        nonlocal known
        for number, change, reads in changes:
            if change is None:
                seen.delete(key(number))
                model.pop(number, None)
            elif isinstance(change, int):
                seen.put(key(number), value(number, change))
                model[number] = lease(number, change)
            else:
                seen.put(key(number), change)
            if reads and (event := seen.take()) is not None:
                known = followed(known, event)

    play(before)
    assert known == frozenset()  # nothing is told before all is listed
    seen.listed(set(seen._known), 5, 1)
    first = seen.take()
    assert first == Snapshot(frozenset(model.values()))
    known = followed(known, first)
    play(after)
    if (event := seen.take()) is not None:
        assert isinstance(event, Delta)
        known = followed(known, event)
    assert known == frozenset(model.values())
    assert seen.take() is None


def test_a_listing_ends_what_it_does_not_have() -> None:
    """What was deleted while nobody looked; the rest is not told again."""
    seen = view()
    for number in (1, 2):
        seen.put(key(number), value(number))
    seen.listed({key(1), key(2)}, 5, 1)
    seen.take()
    seen.put(key(2), value(2))
    seen.listed({key(2)}, 9, 1)
    assert seen.take() == Delta(removed=frozenset({lease(1).subnet}))


def test_two_claims_on_a_subnet_are_told_together() -> None:
    """In a Delta what is added replaces what was known of the subnet, so each time all of them are."""
    seen = view()
    seen.listed(set(), 5, 1)
    seen.take()
    seen.put(key(1), value(1))
    seen.put(key(1) + b"&fd00::-64", build_value({4: lease(1, 2).vtep}, 1))
    assert seen.take() == Delta(frozenset({lease(1), lease(1, 2)}))
    seen.delete(key(1))
    assert seen.take() == Delta(frozenset({lease(1, 2)}))


def test_what_is_ours_appears_once_it_is_not() -> None:
    """A key we tried to take is another node's after all."""
    seen = view()
    seen.listed(set(), 5, 1)
    seen.take()
    seen.hide(Hidden(frozenset({key(1)})))
    seen.put(key(1), value(1))
    assert seen.take() is None
    seen.hide(Hidden())
    assert seen.take() == Delta(frozenset({lease(1)}))


def test_the_log_is_not_filled_by_strangers() -> None:
    """20 lines a minute at most; health names all."""
    seen = view()
    with capture_logs() as logged:
        for number in range(100):
            seen.put(b"stray" * 100 + str(number).encode(), b"")
            seen.put(f"stray {number}".encode(), b"")
    assert len(logged) == 20
    assert len(seen.quarantined) == 101
    assert max(map(len, seen.quarantined)) == 120


def test_another_vni_is_told() -> None:
    """The peer is kept, as flannel does, but nothing will arrive."""
    seen = view()
    with capture_logs() as logged:
        seen.put(key(1), build_value({4: lease(1).vtep}, 7))
    assert [entry["reason"] for entry in logged] == ["its VNI is 7 and ours 1: neither takes the other's frames"]
    assert seen.all_leases() == {lease(1)}
