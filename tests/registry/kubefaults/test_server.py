"""A server that is unreachable, slow, overloaded or refuses requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.patience import PATIENCE_S
from tests.registry.fakekube import FLANNELS, FakeKube
from tests.registry.kubeapi import OWN, Admin, registry
from tests.registry.kubecase import (
    V4,
    VTEPS,
    FakeSleep,
    async_of,
    eventually,
    following,
    peer,
    watching,
)
from tests.registry.kubefaults.asked import asked, retries
from vxland.model.lease import Delta
from vxland.registry.kube import client
from vxland.registry.kube.registry import KubeRegistry


async def test_an_unreachable_server_is_retried(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, sleeps: FakeSleep
) -> None:
    """The pauses grow to 5 s; health shows since when and why; the known leases stay in force."""
    async with following(kube) as follower:
        await fake.watched()
        assert (kube.health.error, kube.health.since) == ("", 0.0)
        await fake.stop()
        await sleeps.until(lambda: 5.0 in sleeps.slept[-1:] and len(retries(sleeps)) > 6)
        assert "Cannot connect to host" in kube.health.error
        since = kube.health.since
        assert since > 0
        await sleeps.until(lambda: len(retries(sleeps)) > 9)
        assert kube.health.since == since
        await fake.start()
        await admin.delete("node1")
        assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))
        assert kube.health.error == ""
    waits = retries(sleeps)
    assert waits[waits.index(0.2) :][:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert len(asked(fake, "list")) == 1


async def test_too_many_requests_are_retried_later(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, sleeps: FakeSleep
) -> None:
    """HTTP 429: no retry before the time that the server names, and then from the same position."""
    assert admin.server is fake
    fake.refusals = [("list", 429, {"Retry-After": "7"}), ("watch", 429, {"Retry-After": "soon"})]
    async with following(kube) as follower:
        assert set(follower.leases.values()) == {peer(1), peer(2)}
        await fake.watched()
    assert retries(sleeps)[:2] == [7.0, 0.2]
    assert len(asked(fake, "list")) == 2


@pytest.mark.parametrize("verb", ["list", "watch"])
@pytest.mark.parametrize("status", [302, 400, 404, 500, 503, 504])
async def test_a_refusal_is_no_empty_cluster(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, verb: str, status: int
) -> None:
    """Only a list can end a lease, and no answer ends the watch."""
    async with following(kube) as follower:
        await fake.watched()
        fake.refusals = [(verb, status, {}), (verb, status, {})]
        fake.compact() if verb == "list" else fake.cut()
        await fake.watched(2)
        assert fake.refusals == []
        await admin.delete("node1")
        event = await follower.next()
        assert follower.leases.keys() == {peer(2).subnet}, event


async def test_a_token_replaced_before_it_fails_is_read_in_time(
    fake: FakeKube, admin: Admin, tmp_path: Path, sleeps: FakeSleep
) -> None:
    """The file is checked before each request; while it is missing, the last token stays in use."""
    token = tmp_path / "token"
    token.write_text("flannel-token")
    kube = registry(fake, tmp_path, V4, user={"tokenFile": str(token)}, sleep=sleeps.sleep)
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
    """From start to stop, only requests of flannel's role are made, and nearly all of them."""
    await admin.add(OWN, "10.244.0.0/24")
    await kube.recall({})
    await kube.publish(VTEPS)
    await kube.announce()
    async with following(kube):
        await fake.watched()
    assert {(verb, resource) for verb, resource, _ in fake.asked} == FLANNELS - {("get", "pods")}


async def test_slow_answers_do_not_hold_up_a_reader(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """While a patch of our own Node hangs, peers' changes still arrive."""
    await admin.add(OWN, "10.244.0.0/24")
    await kube.publish(VTEPS)
    async with following(kube) as follower:
        await fake.watched()
        fake.delay_s = 30
        await admin.annotate(OWN, {"public-ip": None})
        await eventually(async_of(lambda: fake.asked[-1][0]), "patch")
        await admin.delete("node1")
        async with asyncio.timeout(PATIENCE_S):
            assert await follower.next() == Delta(removed=frozenset({peer(1).subnet}))


async def test_an_answer_that_never_comes_is_given_up(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, sleeps: FakeSleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request has a timeout, which health reports."""
    assert admin.server is fake
    monkeypatch.setattr(client, "_REQUEST", aiohttp.ClientTimeout(total=0.1))
    fake.delay_s = 30
    async with watching(kube):
        await sleeps.until(lambda: kube.health.error == "peers: list nodes: no answer in time")
        fake.delay_s = 0
        await eventually(async_of(lambda: kube.health.error), "")
