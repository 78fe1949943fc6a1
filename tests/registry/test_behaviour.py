"""The behaviour of every registry: one suite over all stores."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from tests.patience import PATIENCE_S
from tests.registry.following import Follower
from tests.registry.stores import Store, lease, own_leases, own_vteps
from vxland.model.lease import Mac, Snapshot

OTHER_MAC = Mac.parse("ce:5f:f6:00:00:01")


async def test_the_first_event_is_a_snapshot_of_all_that_was_there(store: Store) -> None:
    """A watch begins with every lease at once, so that its reader can drop stale ones."""
    await store.put(lease(1))
    await store.put(lease(2))
    async with aclosing(store.registry.watch()) as events:
        assert await anext(events) == Snapshot(frozenset({lease(1), lease(2)}))


async def test_an_empty_store_gives_an_empty_snapshot_at_once(store: Store) -> None:
    """An empty store also causes an event, for which the daemon waits."""
    async with aclosing(store.registry.watch()) as events, asyncio.timeout(PATIENCE_S):
        assert await anext(events) == Snapshot(frozenset())


async def test_a_node_that_joins_is_seen(store: Store) -> None:
    """A lease put after the snapshot arrives without a new watch."""
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.next()
        await store.put(lease(1))
        await follower.until(lease(1))


async def test_a_node_that_leaves_is_seen(store: Store) -> None:
    """The reader drops a lease that ends, and keeps the others."""
    await store.put(lease(1))
    await store.put(lease(2))
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.until(lease(1), lease(2))
        await store.remove(lease(1).subnet)
        await follower.until(lease(2))


async def test_a_new_mac_replaces_the_old_one(store: Store) -> None:
    """A peer with a new MAC on its subnet has one lease; flannel's reset misses this (PR #1247)."""
    await store.put(lease(1))
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.until(lease(1))
        await store.put(lease(1, mac=99))
        await follower.until(lease(1, mac=99))


async def test_changes_while_the_reader_works_are_not_lost(store: Store) -> None:
    """Any changes may happen between two reads, in any order; the reader ends with the store's state."""
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.next()
        for number in range(1, 9):
            await store.put(lease(number))
        await store.remove(lease(3).subnet)
        await store.put(lease(4, mac=99))
        expected = [lease(number) for number in (1, 2, 5, 6, 7, 8)]
        await follower.until(lease(4, mac=99), *expected)
        await store.put(lease(3))
        await follower.until(lease(3), lease(4, mac=99), *expected)


async def test_both_subnets_of_a_dual_stack_node_arrive(store: Store) -> None:
    """One VTEP may hold an IPv4 and an IPv6 subnet: two leases."""
    v6 = lease(1, version=6, outer=store.outer[6])
    await store.put(lease(1))
    await store.put(v6)
    async with aclosing(store.registry.watch()) as events:
        await Follower(events).until(lease(1), v6)


async def test_a_late_watch_starts_from_the_present(store: Store) -> None:
    """History is not replayed: a second reader gets a snapshot of the current state."""
    await store.put(lease(1))
    async with aclosing(store.registry.watch()) as first:
        follower = Follower(first)
        await follower.until(lease(1))
        await store.remove(lease(1).subnet)
        await store.put(lease(2))
        async with aclosing(store.registry.watch()) as second:
            late = Follower(second)
            assert isinstance(await late.next(), Snapshot)
            await late.until(lease(2))
            assert late.ever_seen == {lease(2).subnet}
        await follower.until(lease(2))


async def test_a_watch_can_be_cancelled_while_it_waits(store: Store) -> None:
    """A cancelled reader does not harm the registry, and the next watch works."""
    async with aclosing(store.registry.watch()) as events:
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await store.put(lease(1))
    async with aclosing(store.registry.watch()) as events:
        await Follower(events).until(lease(1))


async def test_publish_claims_this_nodes_subnets(store: Store) -> None:
    """publish() and then `published` return each own subnet with the given VTEP."""
    assert store.registry.published == frozenset()
    held = await store.registry.publish(own_vteps(store))
    assert held == own_leases(store)
    await store.put(lease(1))
    assert store.registry.published == held


async def test_publish_again_replaces_what_was_published(store: Store) -> None:
    """A device with a new MAC keeps its subnets, and the old claim is gone."""
    assert await store.registry.publish(own_vteps(store)) == own_leases(store)
    assert await store.registry.publish(own_vteps(store, OTHER_MAC)) == own_leases(store, OTHER_MAC)
    assert store.registry.published == own_leases(store, OTHER_MAC)


async def test_a_node_never_watches_itself(store: Store) -> None:
    """The node's own lease is in no event: a route to itself would draw its pods' traffic away."""
    held = await store.registry.publish(own_vteps(store))
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.next()
        await store.put(lease(1))
        await follower.until(lease(1))
        await store.registry.publish(own_vteps(store, OTHER_MAC))
        await store.put(lease(2))
        await follower.until(lease(1), lease(2))
    assert not {own.subnet for own in held} & follower.ever_seen
