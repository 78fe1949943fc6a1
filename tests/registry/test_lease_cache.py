"""A start while the store is unavailable: a real etcd that is stopped, and its cached state."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.patience import PATIENCE_S
from tests.registry.cluster import NETWORK, Cluster, name, text, vtep
from tests.registry.following import Reading, until
from tests.registry.kubecase import peer
from vxland.model.errors import LeaseLostError, StartError
from vxland.model.lease import Lease, Snapshot, Vtep
from vxland.registry import lease_cache
from vxland.registry.cache_file import MAX_LEN
from vxland.registry.lease_cache import LeaseCache

pytestmark = pytest.mark.packages  # etcd

OWN = vtep(0)
PEER = peer(200)
LATER = peer(201)

Make = Callable[..., LeaseCache]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The cache file."""
    return tmp_path / "state" / "leases.json"


@pytest.fixture
async def make(own_cluster: Cluster, path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes registries of one node that wait 0.2 s for the store, and closes them at the end."""
    monkeypatch.setattr(lease_cache, "FIRST_LOOK_S", 0.01)
    made = []

    def make_one(*, patience_s: float = 0.2) -> LeaseCache:
        inner = own_cluster.registry()
        made.append(LeaseCache(inner, path, pools=True, patience_s=patience_s))
        return made[-1]

    yield make_one
    for each in made:
        await each.close()


async def start(registry: LeaseCache, own: Vtep = OWN) -> frozenset[Lease]:
    """Make a daemon's calls before watch(), and return the leases."""
    await registry.net_conf()
    await registry.recall({})
    await registry.recall({4: own.address})
    return await registry.publish({4: own})


async def lived(cluster: Cluster, make: Make, path: Path) -> frozenset[Lease]:
    """Run a node beside PEER until the file is written, and return its leases."""
    cluster.put(f"subnets/{name(PEER)}", text(PEER), cluster.grant(3600))
    registry = make(patience_s=PATIENCE_S)
    own = await start(registry)
    async with Reading(registry) as reading:
        await reading.until(PEER)
        await until(path.exists)
    await registry.close()
    return own


def content(path: Path) -> bytes:
    """Return the bytes of the file."""
    return path.read_bytes()


def changed(path: Path, **fields: Any) -> None:  # noqa: ANN401  (as JSON has it)
    """Change values in the file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


async def test_a_start_without_the_store(own_cluster: Cluster, make: Make, path: Path) -> None:
    """Subnet, MAC, network and peers come from the cache; health shows it, and the store's state replaces it."""
    own = await lived(own_cluster, make, path)
    own_cluster.server.stop()
    registry = make()
    with capture_logs() as logs:
        assert await start(registry) == own == registry.published
    (event,) = (each for each in logs if each["event"] == "leases_remembered")
    assert (event["log_level"], event["leases"], event["path"]) == ("warning", 1, str(path))
    assert (await registry.recall({4: OWN.address})).macs == {4: OWN.mac}
    conf = await registry.net_conf()
    assert conf is not None
    assert [str(network) for network in conf.networks] == [NETWORK]
    await registry.announce()
    async with Reading(registry) as reading:
        assert reading.knows(PEER)
        health = registry.health
        assert health.error
        assert 0 < health.since <= time.monotonic()
        assert health.cached.startswith("leases of 20")
        assert health.cached.endswith(str(path))
        before = content(path)
        own_cluster.server.start()
        own_cluster.put(f"subnets/{name(LATER)}", text(LATER))
        await reading.until(PEER, LATER)
        assert (registry.health.error, registry.health.cached) == ("", "")
        assert registry.published == own
        await until(lambda: content(path) != before)


async def test_the_store_is_there(own_cluster: Cluster, make: Make, path: Path) -> None:
    """Then the file is not used, whatever its content."""
    own = await lived(own_cluster, make, path)
    changed(path, peers=[])
    registry = make(patience_s=PATIENCE_S)
    assert await start(registry) == own
    async with aclosing(registry.watch()) as events, asyncio.timeout(PATIENCE_S):
        assert await anext(events) == Snapshot(frozenset({PEER}))


async def test_a_subnet_lost_meanwhile(own_cluster: Cluster, make: Make, path: Path) -> None:
    """Another node has the subnet when the store is back: the node ends with the reason."""
    (own,) = await lived(own_cluster, make, path)
    own_cluster.delete(f"subnets/{name(own)}")
    other = Lease(own.subnet, vtep(9))
    own_cluster.put(f"subnets/{name(other)}", text(other))
    own_cluster.server.stop()
    registry = make()
    await start(registry)
    async with aclosing(registry.watch()) as events, asyncio.timeout(PATIENCE_S):
        assert await anext(events) == Snapshot(frozenset({PEER}))
        own_cluster.server.start()
        with pytest.raises(
            LeaseLostError, match=f"lease on {own.subnet} ended while the store was unavailable: start again"
        ):
            await anext(events)


async def test_a_network_changed_meanwhile(own_cluster: Cluster, make: Make, path: Path) -> None:
    """The devices are those of another network: the node ends too."""
    await lived(own_cluster, make, path)
    own_cluster.define(Backend={"Type": "vxlan", "VNI": 7})
    own_cluster.server.stop()
    registry = make()
    await start(registry)
    async with aclosing(registry.watch()) as events, asyncio.timeout(PATIENCE_S):
        assert await anext(events) == Snapshot(frozenset({PEER}))
        own_cluster.server.start()
        with pytest.raises(StartError, match="configuration changed while the store was unavailable"):
            await anext(events)


async def test_a_node_with_another_address_waits(own_cluster: Cluster, make: Make, path: Path) -> None:
    """The store identifies the node by its address, which has changed: the subnet may be another node's."""
    await lived(own_cluster, make, path)
    own_cluster.server.stop()
    registry = make()
    with capture_logs() as logs:
        starting = asyncio.create_task(start(registry, vtep(5)))
        await until(lambda: [each for each in logs if each["event"] == "memory_refused"])
    (refused,) = (each for each in logs if each["event"] == "memory_refused")
    assert refused["reason"] == f"it is of a node at {OWN.address}"
    assert not starting.done()
    own_cluster.server.start()
    (own,) = await asyncio.wait_for(starting, PATIENCE_S)
    assert own.vtep == vtep(5)


LEASE = {"subnet": "10.244.9.0/24", "vtep": "192.168.111.9", "mac": "3a:87:cf:81:6a:09"}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "Invalid JSON"),
        (lambda path: path.write_bytes(b""), "Invalid JSON"),
        (lambda path: path.write_bytes(b"\xff" * 99), "Invalid JSON"),
        (lambda path: path.write_text("[" * 100_000), "Invalid JSON"),
        (lambda path: path.write_text("[]"), "should be an object"),
        (lambda path: os.truncate(path, MAX_LEN + 1), "more than 16 MiB"),
        (lambda path: changed(path, version=2), "version: "),
        (lambda path: changed(path, source="another"), "it is of 'another'"),
        (lambda path: changed(path, more=1), "more: "),
        (lambda path: changed(path, said_at=time.time() + 7200), "is the clock right?"),
        (lambda path: changed(path, said_at=1e300), "said_at: "),
        (lambda path: changed(path, good_until=time.time() - 1), "another node may have this one's subnet by now"),
        (lambda path: changed(path, said_at=time.time() - 86401, good_until=4e9), "another node may have"),
        (lambda path: changed(path, network="{}"), "network: "),
        (lambda path: changed(path, own=[]), "not one lease for each network"),
        (lambda path: changed(path, own=[LEASE, LEASE | {"subnet": "10.244.8.0/24"}]), "not one lease"),
        (lambda path: changed(path, peers=[LEASE | {"subnet": "10.9.0.0/24"}]), "lies outside the network"),
        (lambda path: changed(path, peers=[LEASE | {"subnet": "10.244.0.0/8"}]), "peers.0.subnet"),
        (lambda path: changed(path, peers=[LEASE | {"mac": "01:00:00:00:00:00"}]), "peers.0.mac"),
        (lambda path: changed(path, peers=[LEASE | {"vtep": "224.0.0.1"}]), "peers.0.vtep"),
        (lambda path: changed(path, peers="all"), "peers"),
    ],
)
async def test_a_file_that_cannot_be_used(
    own_cluster: Cluster, make: Make, path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    """It is logged with the reason, and ignored: the node waits for the store."""
    await lived(own_cluster, make, path)
    damage(path)
    own_cluster.server.stop()
    registry = make()
    with capture_logs() as logs:
        asking = asyncio.create_task(registry.net_conf())
        await until(lambda: any(each["event"] == "memory_refused" for each in logs))
    (refused,) = (each for each in logs if each["event"] == "memory_refused")
    assert reason in refused["reason"]
    assert "\n" not in refused["reason"]
    assert not asking.done()
    own_cluster.server.start()
    assert await asyncio.wait_for(asking, PATIENCE_S) is not None


async def test_a_peer_that_would_draw_our_traffic(own_cluster: Cluster, make: Make, path: Path) -> None:
    """Claims on this node's subnet or address are left out, as if they came from the store."""
    (own,) = await lived(own_cluster, make, path)
    theirs = [LEASE, LEASE | {"subnet": str(own.subnet)}, LEASE | {"vtep": str(OWN.address)}]
    changed(path, peers=theirs)
    own_cluster.server.stop()
    registry = make()
    await start(registry)
    async with aclosing(registry.watch()) as events:
        first = await anext(events)
    assert isinstance(first, Snapshot)
    assert [str(lease.vtep.address) for lease in first.leases] == ["192.168.111.9"]


async def test_a_file_that_cannot_be_written(own_cluster: Cluster, make: Make, path: Path) -> None:
    """One warning has a remedy; the node continues."""
    path.parent.write_text("a file where the folder should be")
    registry = make(patience_s=PATIENCE_S)
    await start(registry)
    with capture_logs() as logs:
        async with Reading(registry) as reading:
            await until(lambda: any(each["event"] == "memory_not_written" for each in logs))
            own_cluster.put(f"subnets/{name(LATER)}", text(LATER))
            await reading.until(LATER)
        await registry.close()
    warnings = [each for each in logs if each["event"] == "memory_not_written"]
    assert [(each["path"], "registry.memory" in each["remedy"]) for each in warnings] == [(str(path), True)]
