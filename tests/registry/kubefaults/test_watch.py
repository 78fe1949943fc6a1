"""Watches that break, end, lose their position or send invalid events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.registry.fakekube import FakeKube
from tests.registry.kubeapi import Admin, flannel_annotations, registry
from tests.registry.kubecase import (
    V4,
    FakeSleep,
    async_of,
    eventually,
    following,
    join,
    peer,
    watching,
)
from tests.registry.kubefaults.asked import asked, retries
from vxland.model.lease import Delta
from vxland.registry import retry
from vxland.registry.kube import client
from vxland.registry.kube.registry import KubeRegistry


@pytest.mark.parametrize("by_status", [False, True])
async def test_a_lost_position_means_a_new_list(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, by_status: bool
) -> None:
    """410, as an event of the watch or as the answer to a new one: Nodes deleted in the gap are removed."""
    fake.gone_by_status = by_status
    async with following(kube) as follower:
        await fake.watched()
        fake.delete_unseen("node1")
        if by_status:
            fake.cut()
        else:
            fake.compact()
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
        await admin.annotate("node2", flannel_annotations(peer(2, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(2, mac=9)}))
    assert len(asked(fake, "list")) == 2


async def test_a_new_list_of_the_same_makes_no_event(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """A lost position alone causes no event."""
    async with following(kube) as follower:
        await fake.watched()
        fake.compact()
        await fake.watched(2)
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))


async def test_a_cut_watch_continues_from_its_position(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """Nothing is listed again: changes made meanwhile are in the history."""
    async with following(kube) as follower:
        await fake.watched()
        await admin.annotate("node1", flannel_annotations(peer(1, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(1, mac=9)}))
        fake.cut()
        await admin.delete("node2")
        assert await follower.next() == Delta(removed=frozenset({peer(2).subnet}))
        await eventually(async_of(lambda: kube.health.error), "")
    assert len(asked(fake, "list")) == 1
    first, second = asked(fake, "watch")
    assert int(second["resourceVersion"][0]) > int(first["resourceVersion"][0])


async def test_a_bookmark_moves_the_position(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """Nodes may not change while the history grows: the position of the last change would become too old."""
    async with following(kube) as follower:
        await fake.watched()
        fake.pass_time(5000)
        fake.bookmark()
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
        fake.pass_time(5000)
        fake.bookmark()
        fake.end()
        await fake.watched(2)
    first, second = asked(fake, "watch")
    assert int(second["resourceVersion"][0]) >= int(first["resourceVersion"][0]) + 10_000
    assert {first["allowWatchBookmarks"][0], second["allowWatchBookmarks"][0]} == {"true"}


async def test_a_watch_that_ended_in_time_is_no_error(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, sleeps: FakeSleep
) -> None:
    """The server ends each watch after the requested time; the next one follows without a pause."""
    async with following(kube) as follower:
        await fake.watched()
        await admin.annotate("node1", flannel_annotations(peer(1, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(1, mac=9)}))
        fake.end()
        await fake.watched(2)
        assert kube.health.error == ""
    assert retries(sleeps) == []
    assert all(300 <= int(query["timeoutSeconds"][0]) < 600 for query in asked(fake, "watch"))


async def test_a_watch_that_ends_at_once_causes_no_busy_loop(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, sleeps: FakeSleep
) -> None:
    """A proxy may close every watch at once: the pauses grow then too."""
    assert admin.server is fake
    async with following(kube):
        for count in range(1, 5):
            await fake.watched(count)
            fake.end()
            await sleeps.until(lambda count=count: len(retries(sleeps)) == count)  # type: ignore[misc]  # a lambda has no types
    assert retries(sleeps)[:4] == [0.1, 0.2, 0.4, 0.8]


async def test_a_position_lost_again_and_again_causes_no_busy_loop(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, sleeps: FakeSleep
) -> None:
    """Flannel once filled disks with the log of such a loop."""
    assert admin.server is fake
    fake.after_list = fake.lose_place
    async with watching(kube):
        await sleeps.until(lambda: len(retries(sleeps)) >= 9)
    assert retries(sleeps)[:3] == [0.1, 0.2, 0.4]
    assert max(retries(sleeps)) == 5.0


async def test_an_expired_list_is_read_again(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction between two pages makes the rest unreadable; half a list causes no event."""
    assert admin.server is fake
    monkeypatch.setattr(client, "PAGE", 1)
    fake.refusals = [("list", 504, {})]  # pages come only without the cache
    lost: list[bool] = []

    def lose_once() -> None:
        if not lost:
            lost.append(True)
            fake.lose_place()

    fake.after_list = lose_once
    async with following(kube) as follower:
        assert set(follower.leases.values()) == {peer(1), peer(2)}
    assert [("continue" in query) for query in asked(fake, "list")] == [False, False, True, False, True]


async def test_lists_come_from_the_cache(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """The first is of any age, a later one as new as what is known. If the server cannot, the next comes from etcd."""
    async with following(kube) as follower:
        await fake.watched()
        await admin.annotate("node2", flannel_annotations(peer(2, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(2, mac=9)}))
        known = (await admin.node("node2"))["metadata"]["resourceVersion"]
        fake.compact()
        await fake.watched(2)
        fake.refusals = [("list", 504, {}), ("list", 429, {}), ("list", 504, {})]
        fake.compact()
        await fake.watched(3)
    marks = [
        (*query.get("resourceVersion", []), *query.get("resourceVersionMatch", [])) for query in asked(fake, "list")
    ]
    assert marks == [("0",), (known, "NotOlderThan"), (known, "NotOlderThan"), (), (), ()]


@pytest.mark.parametrize("refused", [429, 503])
async def test_a_busy_server_is_asked_for_its_cache_again(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, refused: int
) -> None:
    """That is when the cache matters."""
    assert admin.server is fake
    fake.refusals = [("list", refused, {})]
    async with following(kube):
        pass
    assert [query["resourceVersion"] for query in asked(fake, "list")] == [["0"], ["0"]]


async def test_nodes_return_one_after_the_other(
    fake: FakeKube, admin: Admin, tmp_path: Path, sleeps: FakeSleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a cut, and after a lost position: 5,000 nodes take 10 seconds."""
    assert admin.server is fake
    monkeypatch.setattr(retry, "ARRIVALS", 0.5)  # two nodes take four seconds
    kube = registry(fake, tmp_path, V4, sleep=sleeps.sleep, jitter=lambda: 0.5)
    async with watching(kube):
        await fake.watched()
        fake.cut()
        await fake.watched(2)
        assert retries(sleeps) == [2.0]
        fake.compact()
        await fake.watched(3)
        assert set(retries(sleeps)) == {2.0}
        assert len(retries(sleeps)) >= 2
    await kube.close()


@pytest.mark.parametrize(
    "event",
    [
        {"type": "ERROR", "object": {"code": 500, "message": "etcd is sad"}},
        {"type": "ERROR", "object": {}},
        {"type": "ERROR", "object": {"code": "x" * 10_000}},
        {"type": 7},
        {"object": {}},
        [],
        "text",
    ],
)
async def test_an_invalid_event_means_a_new_list(
    fake: FakeKube,
    admin: Admin,
    kube: KubeRegistry,
    event: Any,  # noqa: ANN401  (what JSON can be)
) -> None:
    """An invalid event may have been a change."""
    async with following(kube) as follower:
        await fake.watched()
        fake.say(event)
        await eventually(async_of(lambda: len(asked(fake, "list"))), 2)
        await admin.delete("node1")
        await follower.until(peer(2))


@pytest.mark.parametrize(
    "event",
    [
        {"type": "MODIFIED", "object": {}},
        {"type": "MODIFIED", "object": {"metadata": {"name": "node1", "annotations": {"x": []}, "resourceVersion": 7}}},
        {"type": "DELETED", "object": {"metadata": {"name": {}}}},
        {"type": "BOOKMARK", "object": {"metadata": []}},
        {"type": "NEWS", "object": {"metadata": {"name": "node2"}}},
    ],
)
async def test_an_invalid_node_affects_no_other(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, event: dict[str, Any]
) -> None:
    """The watch continues, and node2 keeps its lease."""
    async with following(kube) as follower:
        await fake.watched()
        fake.say(event)
        await join(admin, 3, peer(3))
        while peer(3) not in follower.leases.values():
            await follower.next()
        assert peer(2) in follower.leases.values()
    assert len(asked(fake, "list")) == 1


async def test_a_node_longer_than_a_line_is_read(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """A Node lists its images; with aiohttp a line ends at 128 KiB."""
    async with following(kube) as follower:
        await fake.watched()
        await admin.annotate("node1", flannel_annotations(peer(1, mac=9)) | {"padding": "x" * 400_000})
        assert await follower.next() == Delta(frozenset({peer(1, mac=9)}))


async def test_a_silent_watch_is_opened_again(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection may be dead without any other sign; a new watch is no error."""
    monkeypatch.setattr(client, "_WATCH", aiohttp.ClientTimeout(sock_connect=5, sock_read=0.05))
    async with following(kube) as follower:
        await eventually(async_of(lambda: len(asked(fake, "watch")) > 2), expected=True)
        assert kube.health.error == ""
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
    assert len(asked(fake, "list")) == 1


async def test_a_cancelled_watch_leaves_nothing_behind(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """No task and no connection is left, whether the reader was waiting, sleeping or reading."""
    assert admin.server is fake
    before = asyncio.all_tasks()
    for situation in ("waiting", "failing"):
        if situation == "failing":
            fake.refusals = [("list", 500, {})] * 1000
        reading = asyncio.ensure_future(drain(kube))
        await eventually(async_of(lambda: bool(fake.asked)), expected=True)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        fake.asked.clear()
    await kube.close()
    await fake.left()
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]  # a running task has its coroutine
    assert not {name for name in names if name.startswith(("NodeFollower.", "KubeRegistry.", "log_conflicts"))}


async def drain(kube: KubeRegistry) -> None:
    """Read until cancelled."""
    async with aclosing(kube.watch()) as events:
        async for _ in events:
            pass
