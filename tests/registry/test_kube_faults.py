"""An API server that misbehaves, on demand: what a real one does seldom, and never when a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest

from tests.registry.fakekube import FLANNELS, FakeKube
from tests.registry.kubeapi import OWN, Admin, registry, told
from tests.registry.kubecase import DUAL, OWN_TOLD, V4, VTEPS, Paces, async_of, following, join, peer, soon, watching
from vxland.model.lease import Delta
from vxland.registry import watches
from vxland.registry.kube import client
from vxland.registry.kube import registry as kube_registry
from vxland.registry.kube.registry import KubeRegistry


@pytest.fixture
async def fake() -> AsyncIterator[FakeKube]:
    """A server that serves."""
    server = FakeKube()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def admin(fake: FakeKube) -> AsyncIterator[Admin]:
    """Its administrator, who made node1 and node2."""
    async with Admin(fake) as admin:
        await join(admin, 1, peer(1))
        await join(admin, 2, peer(2))
        yield admin


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> Paces:
    """The registry's sleeps; those that are no retries can be told by their length."""
    monkeypatch.setattr(watches, "SETTLE_S", 5.5)
    monkeypatch.setattr(kube_registry, "REPAIR_S", 1.5)
    return Paces()


@pytest.fixture
async def kube(fake: FakeKube, tmp_path: Path, paces: Paces) -> AsyncIterator[KubeRegistry]:
    """The node's registry."""
    kube = registry(fake, tmp_path, V4, sleep=paces.sleep)
    yield kube
    await kube.close()


def asked(fake: FakeKube, verb: str) -> list[dict[str, list[str]]]:
    """The queries of flannel's requests of one verb."""
    return [parse_qs(query) for done, _, query in fake.asked if done == verb]


def retries(paces: Paces) -> list[float]:
    """The pauses before new tries; without those of the other tasks."""
    return [seconds for seconds in paces.slept if seconds not in {watches.SETTLE_S, kube_registry.REPAIR_S}]


@pytest.mark.parametrize("by_status", [False, True])
async def test_a_lost_place_means_a_new_list(fake: FakeKube, admin: Admin, kube: KubeRegistry, by_status: bool) -> None:
    """410, as an event of the watch or as the answer to a new one: what vanished in the gap is gone."""
    fake.gone_by_status = by_status
    async with following(kube) as follower:
        await fake.watched()
        fake.delete_unseen("node1")
        if by_status:
            fake.cut()
        else:
            fake.compact()
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
        await admin.annotate("node2", told(peer(2, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(2, mac=9)}))
    assert len(asked(fake, "list")) == 2


async def test_a_new_list_of_the_same_makes_no_event(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """A lost place disturbs nobody by itself."""
    async with following(kube) as follower:
        await fake.watched()
        fake.compact()
        await fake.watched(2)
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))


async def test_a_cut_watch_goes_on_where_it_was(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """Without listing again: changes made meanwhile are in the history."""
    async with following(kube) as follower:
        await fake.watched()
        await admin.annotate("node1", told(peer(1, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(1, mac=9)}))
        fake.cut()
        await admin.delete("node2")
        assert await follower.next() == Delta(removed=frozenset({peer(2).subnet}))
        await soon(async_of(lambda: kube.health.error), "")
    assert len(asked(fake, "list")) == 1
    first, second = asked(fake, "watch")
    assert int(second["resourceVersion"][0]) > int(first["resourceVersion"][0])


async def test_a_bookmark_moves_the_place(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """Nodes may be quiet while the history goes on: the place of the last change would be too old one day."""
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


async def test_a_watch_that_ended_in_time_is_no_trouble(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, paces: Paces
) -> None:
    """The server ends each as we asked it to; the next one follows without pause."""
    async with following(kube) as follower:
        await fake.watched()
        await admin.annotate("node1", told(peer(1, mac=9)))
        assert await follower.next() == Delta(frozenset({peer(1, mac=9)}))
        fake.end()
        await fake.watched(2)
        assert kube.health.error == ""
    assert retries(paces) == []
    assert all(300 <= int(query["timeoutSeconds"][0]) < 600 for query in asked(fake, "watch"))


async def test_a_watch_that_ends_at_once_is_not_spun_on(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, paces: Paces
) -> None:
    """A proxy may close every watch: the pauses grow all the same."""
    assert admin.server is fake
    async with following(kube):
        for count in range(1, 5):
            await fake.watched(count)
            fake.end()
            await paces.until(lambda count=count: len(retries(paces)) == count)  # type: ignore[misc]
    assert retries(paces)[:4] == [0.1, 0.2, 0.4, 0.8]


async def test_a_place_that_is_lost_again_and_again_is_not_spun_on(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, paces: Paces
) -> None:
    """Flannel once filled disks with such a loop."""
    assert admin.server is fake
    fake.after_list = fake.lose_place
    async with watching(kube):
        await paces.until(lambda: len(retries(paces)) >= 9)
    assert retries(paces)[:3] == [0.1, 0.2, 0.4]
    assert max(retries(paces)) == 5.0


async def test_a_server_that_is_away_is_waited_for(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, paces: Paces
) -> None:
    """Longer and longer, 5 s at most; health says since when and why; what is known stays in force."""
    async with following(kube) as follower:
        await fake.watched()
        assert (kube.health.error, kube.health.since) == ("", 0.0)
        await fake.stop()
        await paces.until(lambda: 5.0 in paces.slept[-1:] and len(retries(paces)) > 6)
        assert "Cannot connect to host" in kube.health.error
        since = kube.health.since
        assert since > 0
        await paces.until(lambda: len(retries(paces)) > 9)
        assert kube.health.since == since
        await fake.start()
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
        assert kube.health.error == ""
    waits = retries(paces)
    assert waits[waits.index(0.2) :][:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert len(asked(fake, "list")) == 1


async def test_too_many_requests_are_answered_by_patience(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, paces: Paces
) -> None:
    """429: not before the time that the server names, and from where we were."""
    assert admin.server is fake
    fake.refusals = [("list", 429, {"Retry-After": "7"}), ("watch", 429, {"Retry-After": "soon"})]
    async with following(kube) as follower:
        assert set(follower.leases.values()) == {peer(1), peer(2)}
        await fake.watched()
    assert retries(paces)[:2] == [7.0, 0.2]
    assert len(asked(fake, "list")) == 2


@pytest.mark.parametrize("verb", ["list", "watch"])
@pytest.mark.parametrize("status", [302, 400, 404, 500, 503, 504])
async def test_a_refusal_is_no_empty_cluster(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, verb: str, status: int
) -> None:
    """No answer but a list ends a lease, and no answer ends the watch."""
    async with following(kube) as follower:
        await fake.watched()
        fake.refusals = [(verb, status, {}), (verb, status, {})]
        fake.compact() if verb == "list" else fake.cut()
        await fake.watched(2)
        assert fake.refusals == []
        await admin.delete("node1")
        event = await follower.next()
        assert follower.leases.keys() == {peer(2).subnet}, event


async def test_pages_whose_list_has_expired_are_asked_for_anew(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction between two pages makes the rest unreadable; half a list is not told."""
    assert admin.server is fake
    monkeypatch.setattr(client, "PAGE", 1)
    lost: list[bool] = []

    def lose_once() -> None:
        if not lost:
            lost.append(True)
            fake.lose_place()

    fake.after_list = lose_once
    async with following(kube) as follower:
        assert set(follower.leases.values()) == {peer(1), peer(2)}
    assert [("continue" in query) for query in asked(fake, "list")] == [False, True, False, True]


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
async def test_a_strange_event_means_a_new_list(
    fake: FakeKube,
    admin: Admin,
    kube: KubeRegistry,
    event: Any,  # noqa: ANN401  (what JSON can be)
) -> None:
    """What cannot be understood may have been a change."""
    async with following(kube) as follower:
        await fake.watched()
        fake.say(event)
        await soon(async_of(lambda: len(asked(fake, "list"))), 2)
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
async def test_a_strange_node_disturbs_nobody_else(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, event: dict[str, Any]
) -> None:
    """The watch goes on, and node2 keeps its lease."""
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
        await admin.annotate("node1", told(peer(1, mac=9)) | {"padding": "x" * 400_000})
        assert await follower.next() == Delta(frozenset({peer(1, mac=9)}))


async def test_a_watch_without_a_word_is_asked_for_again(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection may be dead, which nothing else would tell; that is no trouble worth a word."""
    monkeypatch.setattr(client, "_WATCH", aiohttp.ClientTimeout(sock_connect=5, sock_read=0.05))
    async with following(kube) as follower:
        await soon(async_of(lambda: len(asked(fake, "watch")) > 2), expected=True)
        assert kube.health.error == ""
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
    assert len(asked(fake, "list")) == 1


async def test_publish_outlasts_a_server_that_fails(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, paces: Paces
) -> None:
    """Reading or patching: it is tried until it works."""
    await admin.add(OWN, "10.244.0.0/24")
    fake.refusals = [("get", 500, {}), ("patch", 503, {}), ("patch", 409, {})]
    held = await kube.publish(VTEPS)
    assert {lease.subnet.version for lease in held} == {4}
    assert retries(paces) == [0.1, 0.2, 0.4]
    assert (await admin.annotations())["public-ip"] == "192.168.111.128"


async def test_a_condition_that_could_not_be_set_is_set_later(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """announce() does not fail, and a cloud node that keeps its taint would get no pods."""
    await admin.add(OWN, "10.244.0.0/24")
    await kube.publish(VTEPS)
    fake.refusals = [("patch", 500, {}), ("patch", 500, {})]
    await kube.announce()
    assert "conditions" not in (await admin.node())["status"]
    async with watching(kube):
        await soon(lambda: condition_reasons(admin), ["FlannelIsUp"])
    patches = len(asked(fake, "patch"))
    async with following(kube):
        await fake.watched()
    assert len(asked(fake, "patch")) == patches  # once is enough


async def condition_reasons(admin: Admin) -> list[str]:
    """The reasons of our Node's conditions."""
    return [found["reason"] for found in (await admin.node())["status"].get("conditions", [])]


async def test_a_rival_is_not_fought_at_full_speed(fake: FakeKube, admin: Admin, tmp_path: Path, paces: Paces) -> None:
    """Another program that wants our annotations otherwise, at once: each repair is followed by a pause."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    kube = registry(fake, tmp_path, *DUAL, sleep=paces.sleep)
    await kube.publish(VTEPS)
    before = len(asked(fake, "patch"))
    async with watching(kube):
        for rival in range(3):
            await admin.annotate(OWN, {"public-ip": f"10.9.9.{rival}"})
            await soon(admin.annotations, OWN_TOLD)
    await kube.close()
    repairs = len(asked(fake, "patch")) - before
    assert repairs >= 3
    assert paces.slept.count(kube_registry.REPAIR_S) in {repairs - 1, repairs}


async def test_a_token_replaced_before_it_fails_is_read_in_time(
    fake: FakeKube, admin: Admin, tmp_path: Path, paces: Paces
) -> None:
    """The file is looked at before each request; one that vanished for a moment leaves the token we have."""
    token = tmp_path / "token"
    token.write_text("flannel-token")
    kube = registry(fake, tmp_path, V4, user={"tokenFile": str(token)}, sleep=paces.sleep)
    async with following(kube) as follower:
        await fake.watched()
        fake.users["next-token"] = "flannel"
        token.write_text("next-token")
        fake.end()
        await fake.watched(2)
        del fake.users["flannel-token"]
        token.unlink()
        fake.end()
        await fake.watched(3)
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
        assert kube.health.error == ""
    await kube.close()


async def test_no_more_is_asked_for_than_flannels_role_gives(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """From start to stop; and flannel's role is needed for most of it."""
    await admin.add(OWN, "10.244.0.0/24")
    await kube.recall({})
    await kube.publish(VTEPS)
    await kube.announce()
    async with following(kube):
        await fake.watched()
    assert {(verb, resource) for verb, resource, _ in fake.asked} == FLANNELS - {("get", "pods")}


async def test_a_given_up_watch_leaves_nothing_behind(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """Neither a task nor a connection's watch, whether it was waiting, sleeping or reading."""
    assert admin.server is fake
    before = asyncio.all_tasks()
    for situation in ("waiting", "failing"):
        if situation == "failing":
            fake.refusals = [("list", 500, {})] * 1000
        reading = asyncio.ensure_future(drain(kube))
        await soon(async_of(lambda: bool(fake.asked)), expected=True)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        fake.asked.clear()
    await kube.close()
    await fake.left()
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]
    assert not {name for name in names if name.startswith(("NodeFollower.", "KubeRegistry.", "log_conflicts"))}


async def drain(kube: KubeRegistry) -> None:
    """Read for ever."""
    async with aclosing(kube.watch()) as events:
        async for _ in events:
            pass


async def test_slow_answers_do_not_hold_up_a_reader(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """A patch of our own Node that hangs leaves the peers' changes flowing."""
    await admin.add(OWN, "10.244.0.0/24")
    await kube.publish(VTEPS)
    async with following(kube) as follower:
        await fake.watched()
        fake.delay_s = 30
        await admin.annotate(OWN, {"public-ip": None})
        await soon(async_of(lambda: fake.asked[-1][0]), "patch")
        await admin.delete("node1")
        async with asyncio.timeout(10):
            assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))


async def test_an_answer_that_never_comes_is_given_up(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, paces: Paces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request has its time, and then says so."""
    assert admin.server is fake
    monkeypatch.setattr(client, "_REQUEST", aiohttp.ClientTimeout(total=0.1))
    fake.delay_s = 30
    async with watching(kube):
        await paces.until(lambda: kube.health.error == "peers: list nodes: no answer in time")
        fake.delay_s = 0
        await soon(async_of(lambda: kube.health.error), "")
