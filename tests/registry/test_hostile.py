"""A store becomes hostile: the node keeps its leases, reports the reason, and recovers afterwards.

tests/netns/hostile/test_store.py measures the cost on a whole node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from ipaddress import IPv4Network

import pytest
from structlog.testing import capture_logs

from tests.hostilestore.faults import FAULTS
from tests.hostilestore.store import HostileStore
from tests.registry.cluster import name, quickly, text, vtep
from tests.registry.following import Follower, until
from tests.views import claimed_leases
from vxland.config.flannel import EtcdSettings
from vxland.model.lease import Lease
from vxland.registry.etcd import gateway
from vxland.registry.etcd.registry import EtcdRegistry

PEER = Lease(IPv4Network("10.244.200.0/24"), vtep(1))
LATER = Lease(IPv4Network("10.244.201.0/24"), vtep(2))
QUIET = {
    "watch: blank lines without end",
    "watch: answers of nothing",
    "watch: a flood of changes",
    "watch: the first byte never",
    "watch: events of nothing",
    "watch: positions",
}
"""Faults that a registry cannot detect as errors."""


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostileStore]:
    """A store without a fault at first."""
    monkeypatch.setattr(gateway, "CALL_S", 3.0)  # one of the faults takes all of it
    store = HostileStore()
    store.put(name(PEER), text(PEER).encode())
    async with store.serving():
        yield store


@pytest.fixture
async def registry(store: HostileStore) -> AsyncIterator[EtcdRegistry]:
    """The node's registry, which logs in."""
    settings = EtcdSettings.model_validate({"endpoints": [store.url], "username": "node", "password": "swordfish"})
    registry = EtcdRegistry(settings, dict, sleep=quickly)
    yield registry
    await registry.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_that_a_store_says_ends_the_node(store: HostileStore, registry: EtcdRegistry, fault: str) -> None:
    """A revision of 1e999 ended the node; endless bodies, lines and compressed bytes used all memory.

    The known peers stay, the error is one line, and a new peer arrives once the fault is over.
    """
    await registry.publish({4: vtep(0)})
    async with aclosing(registry.watch()) as events:
        follower = Follower(events)
        await follower.until(PEER)
        with capture_logs() as logged:
            store.switch(fault)
            await until(lambda: store.faulty > 1 or fault in QUIET)
            if fault not in QUIET:
                await until(lambda: registry.health.error)
                assert registry.health.error.isprintable()
                assert len(registry.health.error) < 2000
            assert PEER in {lease for view in registry._watches._views for lease in claimed_leases(view)}
            store.switch("")
            store.put(name(PEER), text(PEER).encode())
            store.put(name(LATER), text(LATER).encode())
            await follower.until(PEER, LATER)
            await until(lambda: not registry.health.error)
    assert sum(len(str(entry)) for entry in logged) < 100_000
    assert all(value.isprintable() for entry in logged for value in entry.values() if isinstance(value, str))


async def test_no_redirect_is_followed(store: HostileStore, registry: EtcdRegistry) -> None:
    """After a 307 the node sent its password, in the body of the login, to another host."""
    elsewhere = HostileStore()
    async with elsewhere.serving():
        store.elsewhere = elsewhere.url
        store.switch("redirects")
        waiting = asyncio.create_task(registry.net_conf())
        await until(lambda: store.faulty > 1)
        assert "no redirect is followed" in registry.health.error
        assert not elsewhere.requests
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("leases without time", "gives a lease of 0 s"), ("transactions never", "20 times that another node was faster")],
)
async def test_a_store_that_gives_nothing_is_asked_with_pauses(
    store: HostileStore, registry: EtcdRegistry, fault: str, reason: str
) -> None:
    """A lease of 0 s was renewed again at once, and a race that is always lost was repeated, with a log line each."""
    store.switch(fault)
    with capture_logs() as logged:
        publishing = asyncio.create_task(registry.publish({4: vtep(0)}))
        await until(lambda: reason in registry.health.error)
        store.switch("")
        assert len(await publishing) == 1
    assert len(logged) < 30


async def test_a_hostile_member_does_not_keep_a_node_from_the_others(
    store: HostileStore, registry: EtcdRegistry
) -> None:
    """A member with too large, compressed or redirected answers is skipped like one that does not answer."""
    del registry
    good = HostileStore()
    good.put(name(PEER), text(PEER).encode())
    async with good.serving():
        for fault in ("body without end", "gzip without end", "redirects", "garbage", "values"):
            store.switch(fault)
            settings = EtcdSettings.model_validate({"endpoints": [store.url, good.url]})
            both = EtcdRegistry(settings, dict, sleep=quickly)
            async with aclosing(both.watch()) as events:
                await Follower(events).until(PEER)
            await both.close()
