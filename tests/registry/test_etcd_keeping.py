"""A held entry in a real etcd: renewed, restored, and lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from ipaddress import IPv4Network

import pytest

from tests.patience import PATIENCE_S
from tests.registry.cluster import Cluster, name, quickly, text, vtep
from tests.registry.following import Follower, Reading, until
from vxland.model.errors import LeaseLostError
from vxland.model.lease import Lease, Mac, Snapshot, Vtep
from vxland.registry.etcd.own_lease import TTL_S

pytestmark = pytest.mark.packages  # etcd

OWN = vtep(0)


class Clock:
    """A clock that the test advances; a sleep ends after the loop's other work."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._moved = asyncio.Event()

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self._moved.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep until the next advance()."""
        self.slept.append(seconds)
        await self._moved.wait()
        self._moved.clear()


async def until_entry(cluster: Cluster, key: str, lease_not: int | None) -> int:
    """Return an entry's etcd lease, once it is another than `lease_not`."""
    await until(lambda: cluster.lease_of(key) not in {lease_not, None})
    lease = cluster.lease_of(key)
    assert lease is not None
    return lease


async def test_the_lease_is_renewed_in_time_without_an_event(cluster: Cluster) -> None:
    """An hour before it expires the entry gets a new etcd lease; a peer sees no change."""
    clock = Clock()
    registry, peer = cluster.registry(clock=clock, sleep=clock.sleep), cluster.registry()
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    first = cluster.lease_of(key)
    async with aclosing(registry.watch()) as events, aclosing(peer.watch()) as seen:
        follower = Follower(seen)
        await follower.until(own)
        await anext(events)
        running = asyncio.ensure_future(anext(events))
        looks = len(clock.slept)
        clock.advance(TTL_S - 3601)
        await until(lambda: len(clock.slept) > looks)
        assert cluster.lease_of(key) == first
        clock.advance(1)
        second = await until_entry(cluster, key, first)
        assert second > 0
        cluster.put("subnets/10.244.200.0-24", text(Lease(IPv4Network("10.244.200.0/24"), vtep(1))))
        event = await follower.next()
        assert not isinstance(event, Snapshot)
        assert {lease.vtep for lease in event.added} == {vtep(1)}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert min(clock.slept) >= 0


@pytest.mark.parametrize(("margin_min", "before_s"), [(60, 5400), (1439, 1439.25 * 60)])
async def test_nodes_that_started_together_renew_apart(cluster: Cluster, margin_min: int, before_s: float) -> None:
    """The margin is up to twice as long, at random, and shorter than the lease."""
    clock = Clock()
    registry = cluster.registry({"renew_margin_min": margin_min}, clock=clock, sleep=clock.sleep, jitter=lambda: 0.5)
    (own,) = await registry.publish({4: OWN})
    first = cluster.lease_of(name(own))
    async with Reading(registry):
        looks = len(clock.slept)
        clock.advance(TTL_S - before_s - 1)
        await until(lambda: len(clock.slept) > looks)
        assert cluster.lease_of(name(own)) == first
        clock.advance(1)
        assert await until_entry(cluster, name(own), first) > 0


async def test_a_deleted_own_entry_is_restored(cluster: Cluster) -> None:
    """Flanneld exits; vxland takes the subnet again if it is free, with a TTL."""
    registry, peer = cluster.registry(), cluster.registry()
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    async with aclosing(peer.watch()) as seen, Reading(registry):
        follower = Follower(seen)
        await follower.until(own)
        before = cluster.lease_of(key)
        cluster.delete(f"subnets/{key}")
        assert await until_entry(cluster, key, before) > 0
        cluster.put("subnets/10.244.200.0-24", text(Lease(IPv4Network("10.244.200.0/24"), vtep(1))))
        await follower.until(own, Lease(IPv4Network("10.244.200.0/24"), vtep(1)))


async def test_a_garbled_own_entry_is_restored(cluster: Cluster) -> None:
    """An administrator's mistake costs neither the node its subnet nor the peers their route."""
    registry, peer = cluster.registry(), cluster.registry()
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    right = cluster.entries()[key]
    async with aclosing(peer.watch()) as seen, Reading(registry):
        follower = Follower(seen)
        await follower.until(own)
        cluster.put(f"subnets/{key}", "{oops")
        await until_entry(cluster, key, 0)
        cluster.put("subnets/10.244.200.0-24", text(Lease(IPv4Network("10.244.200.0/24"), vtep(1))))
        await follower.until(own, Lease(IPv4Network("10.244.200.0/24"), vtep(1)))
    assert cluster.entries()[key] == right


async def test_an_entry_put_again_without_a_ttl_becomes_a_reservation(cluster: Cluster) -> None:
    """Flannel's documented reservation: the same value, put without a lease. Renewal must not undo it."""
    clock = Clock()
    registry = cluster.registry(clock=clock, sleep=clock.sleep)
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    async with Reading(registry):
        cluster.put(f"subnets/{key}", cluster.entries()[key])
        await until(lambda: registry._holder.held is not None and registry._holder.held.record.permanent)
        looks = len(clock.slept)
        clock.advance(TTL_S)
        await until(lambda: len(clock.slept) > looks)
    assert cluster.lease_of(key) == 0


@pytest.mark.parametrize(
    ("thief", "reason"),
    [
        (vtep(1), r"the lease on .* is that of the node at 192\.168\.0\.2 now"),
        (
            Vtep(OWN.address, Mac(0x3A87CF81FFFF)),
            r"taken by another daemon that publishes 192\.168\.0\.1: .*one daemon",
        ),
    ],
)
async def test_an_own_entry_that_another_node_took_is_lost(cluster: Cluster, thief: Vtep, reason: str) -> None:
    """Two nodes on one subnet would draw each other's traffic away: this one stops with the reason."""
    registry = cluster.registry()
    (own,) = await registry.publish({4: OWN})
    async with aclosing(registry.watch()) as events:
        await anext(events)
        cluster.put(f"subnets/{name(own)}", text(Lease(own.subnet, thief)))
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(LeaseLostError, match=reason):
                await anext(events)


async def test_a_subnet_taken_while_the_entry_was_gone_is_lost(cluster: Cluster) -> None:
    """The new claim has another key: otherwise pods of two nodes would get the same address."""
    registry = cluster.registry(sleep=quickly)
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    wider = IPv4Network(own.subnet).supernet(1)
    changes = (
        f"\ndel {cluster.prefix}/subnets/{key}\nput {cluster.prefix}/subnets/{str(wider).replace('/', '-')} {{}}\n\n\n"
    )
    async with aclosing(registry.watch()) as events:
        await anext(events)
        await asyncio.to_thread(cluster.server.ctl, "txn", stdin=changes)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(LeaseLostError, match="was deleted, and another node has the subnet"):
                await anext(events)
    assert list(cluster.entries()) == [str(wider).replace("/", "-")]
