"""Watches of peers in Kubernetes, fake and real, in addition to the suite of all registries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

import pytest

from tests.registry.kubeapi import PREFIX, Admin, flannel_annotations, registry
from tests.registry.kubecase import DUAL, V4, following, join, peer
from tests.registry.realkube import RealKube
from vxland.model.lease import Delta, Lease, Mac, Snapshot, Vtep
from vxland.registry.bounded_json import Bounds
from vxland.registry.kube import client
from vxland.registry.kube.registry import KubeRegistry

A: Final = PREFIX


async def test_each_family_of_a_peer_changes_for_itself(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The MAC or address of one family changes, which flannel misses; the other family's lease stays."""
    name = await join(admin, 1, peer(1), peer(1, 6))
    async with following(make(*DUAL)) as follower:
        assert set(follower.leases.values()) == {peer(1), peer(1, 6)}
        for lease in (peer(1, 6, mac=66), peer(1, mac=44), peer(1, 6, mac=66, address=67), peer(1, mac=44, address=45)):
            await admin.annotate(name, flannel_annotations(lease))
            assert await follower.next() == Delta(frozenset({lease}))


async def test_a_peer_of_one_family_is_kept_and_named(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Flannel drops such a peer in a dual-stack cluster."""
    name = await join(admin, 1, peer(1))
    kube = make(*DUAL)
    async with following(kube) as follower:
        assert set(follower.leases.values()) == {peer(1)}
        assert kube.health.quarantined == {name: f"{A}public-ipv6: None: it is missing"}
        await admin.annotate(name, flannel_annotations(peer(1, 6)))
        assert await follower.next() == Delta(frozenset({peer(1, 6)}))
        assert kube.health.quarantined == {}


async def test_an_unreadable_peer_keeps_its_last_good_lease(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Health names it, and no other peer is affected; once it is corrected, its changes arrive again."""
    name = await join(admin, 1, peer(1))
    kube = make(V4)
    async with following(kube) as follower:
        await admin.annotate(name, {"backend-data": '{"VNI":1', "public-ip": "here"})
        await join(admin, 2, peer(2))
        assert await follower.next() == Delta(frozenset({peer(2)}))
        assert list(kube.health.quarantined) == [name]
        await admin.annotate(name, flannel_annotations(peer(1, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(1, mac=9)}))
        assert kube.health.quarantined == {}
        await admin.annotate(name, {"public-ip": None})
        await admin.delete(name)
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))


async def test_a_windows_peer_is_taken_once_it_has_a_mac(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """An empty VtepMAC is no error, and one that becomes empty again keeps its lease."""
    await join(admin, 1, peer(1))
    await admin.annotate("node1", {"backend-data": '{"VNI":1,"VtepMAC":""}'})
    kube = make(V4)
    async with following(kube) as follower:
        assert follower.leases == {}
        assert kube.health.quarantined == {}
        await admin.annotate("node1", flannel_annotations(peer(1)))
        assert await follower.next() == Delta(frozenset({peer(1)}))
        await admin.annotate("node1", {"backend-data": '{"VNI":1,"VtepMAC":""}'})
        await join(admin, 2, peer(2))
        assert await follower.next() == Delta(frozenset({peer(2)}))


async def test_a_node_that_stops_flannel_is_removed(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Without the annotation, or with another backend, it is no peer, and not quarantined either."""
    for number in (1, 2, 3):
        await join(admin, number, peer(number))
    kube = make(V4)
    async with following(kube) as follower:
        await admin.annotate("node1", {"kube-subnet-manager": None})
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
        await admin.annotate("node2", {"backend-type": "host-gw", "backend-data": "null"})
        assert await follower.next() == Delta(removed=frozenset({peer(2).subnet}))
        assert kube.health.quarantined == {}
        await admin.annotate("node1", {"kube-subnet-manager": "true"})
        assert await follower.next() == Delta(frozenset({peer(1)}))


async def test_a_recreated_peer_has_its_new_subnet(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The old podCIDR is removed and the new one added; flannel never reads podCIDR again."""
    await join(admin, 1, peer(1))
    async with following(make(V4)) as follower:
        await admin.delete("node1")
        moved = Lease(ip_network("10.244.9.0/24"), peer(1).vtep)
        await admin.add(
            "node1", "10.244.9.0/24", annotations={A + key: text for key, text in flannel_annotations(moved).items()}
        )
        await follower.until(moved)


async def test_equal_content_makes_no_event(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Heartbeats and other programs' annotations cause no event."""
    name = await join(admin, 1, peer(1))
    async with following(make(V4)) as follower:
        for beat in range(5):
            await admin.change(name, {"metadata": {"labels": {"beat": str(beat)}}})
        await join(admin, 2, peer(2))
        assert await follower.next() == Delta(frozenset({peer(2)}))


async def test_changes_are_joined_while_the_reader_is_busy(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Peers that come and go meanwhile cause no event."""
    kube = make(V4)
    async with following(kube) as follower:
        await join(admin, 1, peer(1))
        assert await follower.next() == Delta(frozenset({peer(1)}))
        for mac in range(10, 20):
            await admin.annotate("node1", flannel_annotations(peer(1, mac=mac)))
        await join(admin, 2, peer(2))
        await admin.delete("node2")
        await join(admin, 3, peer(3))
        async with following(kube) as other:  # which has seen all of it, in what it was sent after us
            await other.until(peer(1, mac=19), peer(3))
        assert await follower.next() == Delta(frozenset({peer(1, mac=19), peer(3)}))


async def test_five_hundred_nodes_come_in_one_snapshot(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """From one answer, or from several pages."""

    async def add(number: int) -> Lease:
        lease = Lease(
            ip_network(f"10.{number // 256}.{number % 256}.0/24"), Vtep(ip_address("192.168.0.1") + number, Mac(number))
        )
        texts = {A + key: text for key, text in flannel_annotations(lease).items()}
        await admin.add(f"peer{number}", str(lease.subnet), annotations=texts)
        return lease

    expected: set[Lease] = set()
    for start in range(1, 501, 50):
        expected |= set(await asyncio.gather(*(add(number) for number in range(start, start + 50))))
    kube = make("10.0.0.0/8")
    async with aclosing(kube.watch()) as events:
        assert await anext(events) == Snapshot(frozenset(expected))
    async with aclosing(kube._client.list_nodes("")) as parts:
        assert sum([len(nodes) async for nodes, _ in parts]) == 500


async def test_a_delete_that_no_watch_reports_is_seen(real_kube: RealKube, tmp_path: Path) -> None:
    """A Node is deleted while the API server is down: the position is too old then, and the new list lacks it."""
    kube = registry(real_kube, tmp_path, V4)
    async with Admin(real_kube) as admin:
        await admin.clear()
        await join(admin, 1, peer(1))
        await join(admin, 2, peer(2))
        async with following(kube) as follower, asyncio.timeout(90):
            await real_kube.down()
            await real_kube.forget("node1")
            await real_kube.up()
            assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
            await join(admin, 3, peer(3))
            assert await follower.next() == Delta(frozenset({peer(3)}))
            assert kube.health.error == ""
    await kube.close()


async def test_an_answer_of_any_length_is_read(
    admin: Admin, make: Callable[..., KubeRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of an API server sends all Nodes at once: only one Node has to fit the limit of an answer."""
    monkeypatch.setattr(client, "BOUNDS", Bounds(40_000, 20_000))
    for number in range(1, 13):
        await join(admin, number, peer(number))
        await admin.change(f"node{number}", {"metadata": {"annotations": {"other": "x" * 6000}}})
    async with aclosing(make(V4).watch()) as events:
        assert await anext(events) == Snapshot(frozenset(peer(number) for number in range(1, 13)))


async def test_nodes_are_listed_from_the_cache(real_kube: RealKube, tmp_path: Path) -> None:
    """A start and a lost position cost the etcd behind the API server nothing."""
    kube = registry(real_kube, tmp_path, V4)
    async with Admin(real_kube) as admin:
        await admin.clear()
        await join(admin, 1, peer(1))
        before = await real_kube.lists()
        async with following(kube) as follower:
            assert set(follower.leases.values()) == {peer(1)}
            (view,) = kube._watches._views
            assert view.size == 1
        assert await real_kube.lists() == before
        async with aclosing(kube._client.list_nodes("")) as parts:
            assert [part async for part in parts]
        assert await real_kube.lists() == before + 1
        position = (await admin.node("node1"))["metadata"]["resourceVersion"]
        async with aclosing(kube._client.list_nodes(position)) as parts:
            assert [len(nodes) async for nodes, _ in parts if nodes] == [1]
        assert await real_kube.lists() == before + 1
    await kube.close()
