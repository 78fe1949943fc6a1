"""Watches of a real etcd: restarts, compaction, restores, and entries of all kinds."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from ipaddress import IPv4Network
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.registry.cluster import Cluster, name, quickly, text, vtep
from tests.registry.following import Follower, Reading, until
from vxland.model.lease import Delta, Lease, Snapshot

pytestmark = pytest.mark.packages  # etcd

MANY = 5000


def lease(number: int, mac: int = 0) -> Lease:
    """Return the lease of node `number`."""
    return Lease(IPv4Network(f"10.244.{number}.0/24"), vtep(number, mac))


def put(cluster: Cluster, held: Lease, etcd_lease: str = "0", **more: object) -> None:
    """Write another node's entry."""
    cluster.put(f"subnets/{name(held)}", text(held, **more), etcd_lease)


async def test_a_restart_of_the_server_loses_nothing(own_cluster: Cluster) -> None:
    """Meanwhile the known leases stay, with the reason in health; then the changes arrive."""
    put(own_cluster, lease(1))
    registry = own_cluster.registry(sleep=quickly)
    async with Reading(registry) as reader:
        own_cluster.server.stop()
        await until(lambda: bool(registry.health.error))
        assert own_cluster.server.url in registry.health.error
        assert reader.knows(lease(1))
        own_cluster.server.start()
        put(own_cluster, lease(2))
        await reader.until(lease(1), lease(2))
        assert registry.health.error == ""


async def test_compaction_while_disconnected_lists_again(own_cluster: Cluster) -> None:
    """A comparison finds the changes in the compacted history; flannel loses them (PR #1247)."""
    for number in (1, 2, 3):
        put(own_cluster, lease(number))
    forgotten = asyncio.Event()

    async def sleep(_delay: float) -> None:
        await forgotten.wait()
        await asyncio.sleep(0.01)

    registry = own_cluster.registry(sleep=sleep)
    with capture_logs() as logged:
        async with aclosing(registry.watch()) as events:
            follower = Follower(events)
            await follower.next()
            own_cluster.server.stop()
            await until(lambda: bool(registry.health.error))
            own_cluster.server.start()
            own_cluster.delete(f"subnets/{name(lease(1))}")
            put(own_cluster, lease(2, mac=99))
            put(own_cluster, lease(4))
            revision = json.loads(own_cluster.server.ctl("get", "x", "--write-out=json"))["header"]["revision"]
            own_cluster.server.ctl("compact", str(revision))
            forgotten.set()
            await follower.until(lease(2, mac=99), lease(3), lease(4))
    assert any("has forgotten what was before" in entry.get("reason", "") for entry in logged)


async def test_a_store_set_back_to_an_older_state_is_listed_again(own_cluster: Cluster) -> None:
    """After a restore from a backup the revision is lower, and a watch from a later one would stay silent."""
    for number in (1, 2, 3):
        put(own_cluster, lease(number))
    registry = own_cluster.registry(sleep=quickly)
    async with Reading(registry) as reader:
        own_cluster.server.stop()
        own_cluster.server.wipe()
        own_cluster.server.start()
        put(own_cluster, lease(7))
        await reader.until(lease(7))


async def test_a_lease_that_runs_out_is_gone(cluster: Cluster) -> None:
    """A dead node stops renewing; etcd deletes its entry."""
    etcd_lease = cluster.grant(600)
    put(cluster, lease(1), etcd_lease)
    put(cluster, lease(2), cluster.grant(1))
    put(cluster, lease(3))
    async with Reading(cluster.registry()) as reader:
        await reader.until(lease(1), lease(3))
        cluster.revoke(etcd_lease)
        await reader.until(lease(3))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{oops", "JSON"),
        ("", "JSON"),
        ("[]", "value"),
        ('{"PublicIP":7}', "PublicIP: 7"),
        ('{"PublicIP":"10.0.0.300"}', "not an IP address"),
        ('{"PublicIP":"224.0.0.1","BackendType":"vxlan"}', "not the IPv4 address of one node"),
        ('{"PublicIP":"192.168.0.2","BackendType":"vxlan","BackendData":"x"}', "not an object"),
        ('{"PublicIP":"192.168.0.2","BackendType":"vxlan"}', "BackendData.VtepMAC: None"),
        (
            '{"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"3a:87:cf:81:00:01"}}',
            "PublicIP: None",
        ),
        (
            '{"PublicIP":"192.168.0.2","BackendType":"vxlan","BackendData":{"VtepMAC":"ff:ff:ff:ff:ff:ff"}}',
            "one device",
        ),
    ],
)
async def test_an_entry_that_is_garbled_stays_as_it_was(cluster: Cluster, value: str, reason: str) -> None:
    """It is logged once with its reason, and removes no lease; flannel drops every peer (PR #2539)."""
    put(cluster, lease(1))
    put(cluster, lease(2))
    registry = cluster.registry()
    with capture_logs() as logged:
        async with Reading(registry) as reader:
            cluster.put(f"subnets/{name(lease(1))}", value)
            cluster.put(f"subnets/{name(lease(1))}", value)
            put(cluster, lease(3))
            await reader.until(lease(1), lease(2), lease(3))
            assert list(registry.health.quarantined) == [name(lease(1))]
            assert reason in registry.health.quarantined[name(lease(1))]
            put(cluster, lease(1, mac=99))
            await reader.until(lease(1, mac=99), lease(2), lease(3))
            assert not registry.health.quarantined
            cluster.put(f"subnets/{name(lease(1))}", value)
            cluster.delete(f"subnets/{name(lease(1))}")
            await reader.until(lease(2), lease(3))
            assert not registry.health.quarantined
    events = [entry["event"] for entry in logged if entry["event"] == "lease_quarantined"]
    assert 1 <= len(events) <= 2


async def test_invalid_keys_are_named_and_harmless(cluster: Cluster) -> None:
    """The first list has such keys, one of them not even text; each has its reason."""
    put(cluster, lease(1))
    strays = {
        "hello": "not of the form",
        "10.244.9.0-33": "prefix length",
        "10.244.9.1-24": "not a subnet",
        "10.9.9.0-24": "outside the network 10.244.0.0/16",
        "0.0.0.0-1": "outside the network",
        "10.244.9.0-24&fd00::1-64": "not a subnet",
    }
    for stray in strays:
        cluster.put(f"subnets/{stray}", text(lease(9)))
    cluster.put(f"subnets/{'x' * 1000}", text(lease(9)))
    strays["x" * 117 + "..."] = "not of the form"
    registry = cluster.registry()
    async with aclosing(registry.watch()) as events:
        assert await anext(events) == Snapshot(frozenset({lease(1)}))
        assert registry.health.quarantined.keys() == strays.keys()
        for stray, reason in strays.items():
            assert reason in registry.health.quarantined[stray]


async def test_a_windows_node_gets_its_mac_later(cluster: Cluster) -> None:
    """It publishes an empty MAC first, and the real one seconds later; if it is empty again, the lease stays."""
    empty: dict[str, Any] = {"BackendData": {"VNI": 1, "VtepMAC": ""}}
    put(cluster, lease(1), **empty)
    registry = cluster.registry()
    async with Reading(registry) as reader:
        assert reader.knows()
        assert not registry.health.quarantined
        put(cluster, lease(1))
        await reader.until(lease(1))
        put(cluster, lease(1), **empty)
        put(cluster, lease(2))
        await reader.until(lease(1), lease(2))
        assert not registry.health.quarantined


async def test_a_node_of_another_backend_is_no_peer(cluster: Cluster) -> None:
    """It is logged once as unreachable; if it was a peer before, its lease is removed."""
    put(cluster, lease(1), BackendType="host-gw", BackendData=None)
    put(cluster, lease(2))
    registry = cluster.registry()
    with capture_logs() as logged:
        async with Reading(registry) as reader:
            assert reader.knows(lease(2))
            put(cluster, lease(2), BackendType="wireguard", BackendData="a key")
            await reader.until()
            assert not registry.health.quarantined
    reasons = [entry["reason"] for entry in logged if entry["event"] == "lease_odd"]
    assert [reason.partition(":")[0] for reason in reasons] == [
        "its backend is 'host-gw'",
        "its backend is 'wireguard'",
    ]


async def test_a_reservation_is_no_peer_and_ends_none(cluster: Cluster) -> None:
    """A reservation has no data of its node; if it replaces an entry, the peer's lease stays."""
    cluster.put("subnets/10.244.1.0-24", '{"PublicIP":"192.168.0.2"}')
    put(cluster, lease(2))
    registry = cluster.registry()
    async with Reading(registry) as reader:
        assert reader.knows(lease(2))
        cluster.put("subnets/10.244.2.0-24", '{"PublicIP":"192.168.0.3"}')
        put(cluster, lease(3))
        await reader.until(lease(2), lease(3))
        assert not registry.health.quarantined


async def test_conflicts_are_logged_once(cluster: Cluster) -> None:
    """Nodes with the same VTEP address or MAC keep their leases. A subnet inside an earlier one is quarantined."""
    inner = Lease(IPv4Network("10.244.1.128/25"), vtep(5))
    twin = Lease(lease(2).subnet, vtep(1, mac=2))
    registry = cluster.registry(sleep=quickly)
    with capture_logs() as logged:
        async with Reading(registry) as reader:
            for held in (lease(1), twin, inner, Lease(lease(3).subnet, vtep(3, mac=5))):
                put(cluster, held)
            await until(lambda: len([entry for entry in logged if entry["event"] == "lease_conflict"]) == 2)
            put(cluster, lease(4))
            await reader.until(lease(1), twin, Lease(lease(3).subnet, vtep(3, mac=5)), lease(4))
            assert list(registry.health.quarantined) == ["10.244.1.128-25"]
    assert {entry["reason"].rpartition(":")[0] for entry in logged if entry["event"] == "lease_conflict"} == {
        "the VTEP address 192.168.0.2 is that of the nodes of 10.244.1.0/24, 10.244.2.0/24",
        "the MAC 3a:87:cf:81:00:05 is that of the nodes of 10.244.1.128/25, 10.244.3.0/24",
    }


async def test_a_claim_on_our_own_causes_no_event(cluster: Cluster) -> None:
    """A subnet inside ours, or a node with our address, would draw our own pods' traffic away."""
    registry = cluster.registry(below=lambda _count: 0)
    assert await registry.publish({4: vtep(0)}) == {Lease(IPv4Network("10.244.1.0/24"), vtep(0))}
    async with Reading(registry) as reader:
        put(cluster, Lease(IPv4Network("10.244.1.128/25"), vtep(7)))
        put(cluster, Lease(IPv4Network("10.244.8.0/24"), vtep(0, mac=8)))
        put(cluster, lease(2))
        await reader.until(lease(2))
        assert reader.ever_seen == {lease(2).subnet}


async def test_5000_leases_are_listed_and_a_storm_is_joined(cluster: Cluster) -> None:
    """They arrive in one snapshot; changes while the reader works arrive in far fewer events."""
    cluster.define(Network="10.0.0.0/8", SubnetMax="10.255.255.0")
    held = [Lease(IPv4Network((10 << 24 | number << 8, 24)), vtep(number)) for number in range(1, MANY + 1)]
    await asyncio.to_thread(put_all, cluster, held)
    registry = cluster.registry()
    async with aclosing(registry.watch()) as events:
        assert await anext(events) == Snapshot(frozenset(held))
        changed = [Lease(one.subnet, vtep(number + 1, mac=MANY + number)) for number, one in enumerate(held[:500])]
        await asyncio.to_thread(put_all, cluster, changed)  # and nobody reads
        follower = Follower(events)
        follower.leases = {one.subnet: one for one in held}
        count = 0
        while set(follower.leases.values()) != {*changed, *held[500:]}:
            assert isinstance(await follower.next(), Delta)
            count += 1
        assert count < len(changed) / 10


def put_all(cluster: Cluster, leases: list[Lease]) -> None:
    """Write many entries, 100 in a transaction (etcd's limit is 128)."""
    for at in range(0, len(leases), 100):
        puts = [f"put {cluster.prefix}/subnets/{name(held)} {json.dumps(text(held))}" for held in leases[at : at + 100]]
        cluster.server.ctl("txn", stdin="\n" + "\n".join(puts) + "\n\n\n")


async def test_large_values_of_others_shrink_the_pages(cluster: Cluster) -> None:
    """Foreign values of megabytes are below the prefix: the peers are found, and the large values are not read."""
    for number in range(5):
        key = f"{cluster.prefix}/subnets/10.244.{200 + number}.0-24"
        await asyncio.to_thread(cluster.server.ctl, "put", key, stdin="x" * 1_400_000)
    put(cluster, lease(1))
    registry = cluster.registry()
    async with aclosing(registry.watch()) as events:
        assert await anext(events) == Snapshot(frozenset({lease(1)}))
        assert len(registry.health.quarantined) == 5
        assert all("write at most 65536" in reason for reason in registry.health.quarantined.values())
    assert registry.health.error == ""
