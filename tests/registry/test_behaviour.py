"""What every registry does, told by one suite: static now; etcd and kube join the list of stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from ipaddress import ip_address, ip_network
from typing import Protocol

import pytest
import yaml

from vxland.config import Settings, parse
from vxland.control.registry import Registry
from vxland.control.static import StaticRegistry
from vxland.model import Delta, Lease, Mac, Snapshot, Subnet, Vtep

NETWORKS = ["10.244.0.0/16", "fd00:10:244::/56"]
OWN_SUBNETS = ["10.244.0.0/24", "fd00:10:244::/64"]
OWN = Vtep(ip_address("192.168.111.128"), Mac.parse("ce:5f:f6:73:cf:b9"))


class Store(Protocol):
    """What stands behind a registry, changed as other nodes or an administrator would."""

    registry: Registry

    def put(self, lease: Lease) -> None:
        """Another node takes `lease`, or changes it."""

    def remove(self, subnet: Subnet) -> None:
        """The lease on `subnet` ends."""


class StaticStore:
    """A configuration file, reloaded after each change."""

    def __init__(self) -> None:
        self._leases: dict[Subnet, Vtep] = {}
        self._registry = StaticRegistry(self._settings())
        self.registry: Registry = self._registry

    def put(self, lease: Lease) -> None:
        """Another node takes `lease`, or changes it."""
        self._leases[lease.subnet] = lease.vtep
        self._registry.reload(self._settings())

    def remove(self, subnet: Subnet) -> None:
        """The lease on `subnet` ends."""
        del self._leases[subnet]
        self._registry.reload(self._settings())

    def _settings(self) -> Settings:
        subnets_of: dict[Vtep, list[str]] = {}
        for subnet, vtep in self._leases.items():
            subnets_of.setdefault(vtep, []).append(str(subnet))
        peers = [
            {"subnet": subnets, "vtep": str(vtep.address), "mac": str(vtep.mac)} for vtep, subnets in subnets_of.items()
        ]
        return parse(
            yaml.safe_dump(
                {
                    "overlay": {"network": NETWORKS, "subnet": OWN_SUBNETS, "mac": str(OWN.mac)},
                    "underlay": {"address": str(OWN.address)},
                    "registry": {"kind": "static", "peers": peers},
                }
            )
        )


class Follower:
    """Keeps what a watch says, as the daemon would."""

    def __init__(self, events: AsyncGenerator[Snapshot | Delta]) -> None:
        self._events = events
        self.leases: dict[Subnet, Lease] = {}
        self.ever_seen: set[Subnet] = set()

    async def next(self) -> Snapshot | Delta:
        """The next event, already taken into `leases`."""
        event = await anext(self._events)
        if isinstance(event, Snapshot):
            self.leases = {lease.subnet: lease for lease in event.leases}
        else:
            self.leases = {subnet: lease for subnet, lease in self.leases.items() if subnet not in event.removed}
            self.leases |= {lease.subnet: lease for lease in event.added}
        self.ever_seen |= self.leases.keys()
        return event

    async def until(self, *leases: Lease) -> None:
        """Follow until exactly `leases` are known."""
        async with asyncio.timeout(10):
            while set(self.leases.values()) != set(leases):
                await self.next()


@pytest.fixture(params=[StaticStore])
async def store(request: pytest.FixtureRequest) -> Store:
    """An empty store, with this node's registry over it."""
    make: Callable[[], Store] = request.param
    return make()


def lease(number: int, *, mac: int = 0, prefix: str = "10.244.{}.0/24") -> Lease:
    """The lease of node `number`."""
    vtep = Vtep(ip_address(f"192.168.111.{128 + number}"), Mac(0x3A87CF816A00 + (mac or number)))
    return Lease(ip_network(prefix.format(number)), vtep)


async def test_the_first_event_is_a_snapshot_of_all_that_was_there(store: Store) -> None:
    """A watch begins with every lease at once, so that its reader can drop what is stale."""
    store.put(lease(1))
    store.put(lease(2))
    async with aclosing(store.registry.watch()) as events:
        assert await anext(events) == Snapshot(frozenset({lease(1), lease(2)}))


async def test_an_empty_store_gives_an_empty_snapshot_at_once(store: Store) -> None:
    """Nobody there is an answer too, and the daemon waits for one."""
    async with aclosing(store.registry.watch()) as events, asyncio.timeout(10):
        assert await anext(events) == Snapshot(frozenset())


async def test_a_node_that_joins_is_seen(store: Store) -> None:
    """A lease put after the snapshot arrives without a new watch."""
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.next()
        store.put(lease(1))
        await follower.until(lease(1))


async def test_a_node_that_leaves_is_seen(store: Store) -> None:
    """A lease that ends is gone from what a reader keeps, and its neighbour stays."""
    store.put(lease(1))
    store.put(lease(2))
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.until(lease(1), lease(2))
        store.remove(lease(1).subnet)
        await follower.until(lease(2))


async def test_a_new_mac_replaces_the_old_one(store: Store) -> None:
    """A peer that came back with another MAC on its subnet is one lease; flannel's reset misses this (PR #1247)."""
    store.put(lease(1))
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.until(lease(1))
        store.put(lease(1, mac=99))
        await follower.until(lease(1, mac=99))


async def test_changes_while_the_reader_works_are_not_lost(store: Store) -> None:
    """Between two reads anything may happen, in any order; the reader ends with what is true."""
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.next()
        for number in range(1, 9):
            store.put(lease(number))
        store.remove(lease(3).subnet)
        store.put(lease(4, mac=99))
        expected = [lease(number) for number in (1, 2, 5, 6, 7, 8)]
        await follower.until(lease(4, mac=99), *expected)
        store.put(lease(3))
        await follower.until(lease(3), lease(4, mac=99), *expected)


async def test_both_subnets_of_a_dual_stack_node_arrive(store: Store) -> None:
    """One VTEP may hold an IPv4 and an IPv6 subnet: two leases."""
    v6 = lease(1, prefix="fd00:10:244:{}::/64")
    store.put(lease(1))
    store.put(v6)
    async with aclosing(store.registry.watch()) as events:
        await Follower(events).until(lease(1), v6)


async def test_a_late_watch_starts_from_the_present(store: Store) -> None:
    """History is not replayed: a second reader sees what holds now, in a snapshot of its own."""
    store.put(lease(1))
    async with aclosing(store.registry.watch()) as first:
        follower = Follower(first)
        await follower.until(lease(1))
        store.remove(lease(1).subnet)
        store.put(lease(2))
        async with aclosing(store.registry.watch()) as second:
            late = Follower(second)
            assert isinstance(await late.next(), Snapshot)
            await late.until(lease(2))
            assert late.ever_seen == {lease(2).subnet}
        await follower.until(lease(2))


async def test_a_watch_can_be_given_up_while_it_waits(store: Store) -> None:
    """Cancelling a reader leaves the registry whole, and the next watch works."""
    async with aclosing(store.registry.watch()) as events:
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    store.put(lease(1))
    async with aclosing(store.registry.watch()) as events:
        await Follower(events).until(lease(1))


async def test_publish_claims_this_nodes_subnets_and_is_remembered(store: Store) -> None:
    """What publish returns is what `published` tells from then on: each own subnet with the VTEP given."""
    assert store.registry.published == frozenset()
    held = await store.registry.publish({4: OWN, 6: OWN})
    assert held == {Lease(ip_network(subnet), OWN) for subnet in OWN_SUBNETS}
    store.put(lease(1))
    assert store.registry.published == held


async def test_publish_again_replaces_what_was_published(store: Store) -> None:
    """A device with a new MAC keeps its subnets, and the old claim is gone."""
    before = await store.registry.publish({4: OWN, 6: OWN})
    changed = Vtep(OWN.address, Mac.parse("ce:5f:f6:00:00:01"))
    after = await store.registry.publish({4: changed, 6: changed})
    assert {held.subnet for held in after} == {held.subnet for held in before}
    assert {held.vtep for held in store.registry.published} == {changed}


async def test_a_node_never_watches_itself(store: Store) -> None:
    """The own lease is neither in the first snapshot nor in what follows: a route to oneself would swallow the pods."""
    held = await store.registry.publish({4: OWN, 6: OWN})
    async with aclosing(store.registry.watch()) as events:
        follower = Follower(events)
        await follower.next()
        store.put(lease(1))
        await follower.until(lease(1))
        changed = Vtep(OWN.address, Mac.parse("ce:5f:f6:00:00:01"))
        await store.registry.publish({4: changed, 6: changed})
        store.put(lease(2))
        await follower.until(lease(1), lease(2))
    assert not {own.subnet for own in held} & follower.ever_seen
