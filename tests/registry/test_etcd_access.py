"""Access to a real etcd: users, unreachable members, older gateways, no configuration yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.etcd import EtcdServer, free_port, running
from tests.registry.cluster import Cluster, name, quickly, text, vtep
from tests.registry.following import Follower, until
from vxland.model.errors import ConfigError
from vxland.model.lease import Lease, Snapshot

pytestmark = pytest.mark.packages  # etcd

LOGIN = {"username": "flannel", "password": "swordfish"}
PEER = Lease(IPv4Network("10.244.1.0/24"), vtep(1))
LATER = Lease(IPv4Network("10.244.200.0/24"), vtep(2))


def put(cluster: Cluster, held: Lease, *flags: str) -> None:
    """Write another node's entry."""
    cluster.server.ctl("put", f"{cluster.prefix}/subnets/{name(held)}", text(held), *flags)


@pytest.fixture
def guarded(own_cluster: Cluster) -> Iterator[Cluster]:
    """A server with authentication: root, and flannel, who may use the prefix."""
    ctl = own_cluster.server.ctl
    ctl("user", "add", "root:secret")
    ctl("user", "add", "flannel:swordfish")
    ctl("role", "add", "flannel")
    ctl("role", "grant-permission", "flannel", "readwrite", own_cluster.prefix, "--prefix=true")
    ctl("user", "grant-role", "flannel", "flannel")
    ctl("user", "grant-role", "root", "root")
    ctl("auth", "enable")
    put(own_cluster, PEER, "--user=root:secret")
    yield own_cluster
    ctl("auth", "disable", "--user=root:secret")


@pytest.mark.parametrize("restart", [False, True])
async def test_a_user_logs_in_and_again_when_the_token_has_ended(guarded: Cluster, restart: bool) -> None:
    """A call with an expired token is repeated with a new one, and so is a watch that connects again."""
    registry = guarded.registry(LOGIN, sleep=quickly)
    held = await registry.publish({4: vtep(0)})
    async with aclosing(registry.watch()) as events:
        follower = Follower(events)
        await follower.until(PEER)
        token = registry._gateway._token
        guarded.server.ctl("auth", "disable", "--user=root:secret")
        guarded.server.ctl("auth", "enable")
        if restart:
            guarded.server.stop()
            guarded.server.start()
            put(guarded, LATER, "--user=root:secret")
            await follower.until(PEER, LATER)
        else:
            assert await registry.publish({4: vtep(0)}) == held
        assert registry._gateway._token != token


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        ({"username": "flannel", "password": "wrong"}, "invalid user ID or password"),
        ({}, "user name is empty"),
    ],
)
async def test_a_login_that_is_refused_stops_the_start(guarded: Cluster, login: dict[str, str], reason: str) -> None:
    """A retry would not help: the error names the setting, and not the password."""
    with pytest.raises(ConfigError, match=f"etcd.username and etcd.password.*{reason}") as refused:
        await guarded.registry(login).publish({4: vtep(0)})
    assert refused.value.key == "etcd.username"
    assert "wrong" not in str(refused.value)


async def test_a_user_where_none_is_wanted_does_no_harm(cluster: Cluster) -> None:
    """Authentication is off, so no token is needed, as with flannel."""
    held = await cluster.registry(LOGIN).publish({4: vtep(0)})
    assert len(held) == 1


async def test_a_lack_of_permission_is_reported_and_retried(guarded: Cluster) -> None:
    """A role may not write yet: health reports it, and the grant ends the wait."""
    guarded.server.ctl("--user=root:secret", "role", "revoke-permission", "flannel", guarded.prefix, "--prefix=true")
    registry = guarded.registry(LOGIN, sleep=quickly)
    publishing = asyncio.create_task(registry.publish({4: vtep(0)}))
    await until(lambda: "permission denied" in registry.health.error)
    grant = ("grant-permission", "flannel", "readwrite", guarded.prefix, "--prefix=true")
    guarded.server.ctl("--user=root:secret", "role", *grant)
    assert len(await publishing) == 1
    assert registry.health.error == ""


async def test_a_dead_first_endpoint_is_skipped(cluster: Cluster) -> None:
    """The next endpoint answers every request, and health reports no error."""
    put(cluster, PEER)
    registry = cluster.registry(endpoints=[f"http://127.0.0.1:{free_port()}", cluster.server.url])
    assert len(await registry.publish({4: vtep(0)})) == 1
    async with aclosing(registry.watch()) as events:
        follower = Follower(events)
        await follower.until(PEER)
        put(cluster, LATER)
        await follower.until(PEER, LATER)
    assert registry.health.error == ""


async def test_a_watch_moves_on_when_its_endpoint_dies(cluster: Cluster) -> None:
    """The next endpoint continues from the last revision; a call at the same time uses it too."""
    async with old_gateway(cluster.server.url) as url:
        registry = cluster.registry(endpoints=[url, cluster.server.url], sleep=quickly)
        events = registry.watch()
        follower = Follower(events)
        await follower.next()
    async with aclosing(events):
        put(cluster, LATER)
        held, _ = await asyncio.gather(registry.publish({4: vtep(0)}), follower.until(LATER))
        assert len(held) == 1
        await until(lambda: not registry.health.error)


async def test_no_endpoint_at_all_is_retried_and_logged_once(own_cluster: Cluster) -> None:
    """The order of two dead endpoints must not cause new log lines; when one is back, the watch continues."""
    own_cluster.server.stop()
    dead = f"http://127.0.0.1:{free_port()}"
    registry = own_cluster.registry(endpoints=[dead, own_cluster.server.url], sleep=quickly)
    with capture_logs() as logged:
        publishing = asyncio.create_task(registry.publish({4: vtep(0)}))
        await until(lambda: dead in registry.health.error)
        assert own_cluster.server.url in registry.health.error
        own_cluster.server.start()
        assert len(await publishing) == 1
    assert len([entry for entry in logged if entry["event"] == "registry_trouble"]) == 1
    assert registry.health.error == ""


async def test_a_missing_configuration_is_retried(cluster: Cluster) -> None:
    """Nodes may start before the network is configured; the log names the key once."""
    cluster.delete("config")
    registry = cluster.registry(sleep=quickly)
    with capture_logs() as logged:
        waiting = asyncio.create_task(registry.net_conf())
        await until(lambda: f"{cluster.prefix}/config" in registry.health.error)
        cluster.define(Backend={"Type": "vxlan", "VNI": 7})
        assert (await waiting).vni == 7
    assert len([entry for entry in logged if entry["event"] == "registry_trouble"]) == 1


async def test_a_wrong_configuration_is_fatal(cluster: Cluster) -> None:
    """A retry would not help; the error names the key in etcd."""
    cluster.define(Backend={"Type": "udp"})
    with pytest.raises(ConfigError, match="vxlan") as refused:
        await cluster.registry().net_conf()
    assert f"{cluster.prefix}/config in etcd" in refused.value.key


async def test_the_gateway_of_etcd_3_3(cluster: Cluster) -> None:
    """It has /v3beta and not yet /v3; calls and watches detect it."""
    put(cluster, PEER)
    async with old_gateway(cluster.server.url) as url:
        registry = cluster.registry(endpoints=[url])
        assert len(await registry.publish({4: vtep(0)})) == 1
        async with aclosing(registry.watch()) as events:
            assert await anext(events) == Snapshot(frozenset({PEER}))


async def test_a_server_that_is_not_etcd_is_reported(cluster: Cluster) -> None:
    """The port is another program's: its page is an error, and no crash."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>It works!</html>")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    async with serving(app) as url:
        registry = cluster.registry(endpoints=[url], sleep=quickly)
        waiting = asyncio.create_task(registry.net_conf())
        await until(lambda: registry.health.error)
        assert "does not answer as etcd's client port does" in registry.health.error
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_gateway_that_is_off_is_named_with_the_remedy(own_cluster: Cluster, tmp_path: Path) -> None:
    """Debian's etcd with --config-file has none; a node waited forever, and its log had only HTTP 404.

    Once the gateway is on, the node continues, with either path.
    """
    config = tmp_path / "etcd.yml"
    server = EtcdServer(tmp_path / "filed", config=config)
    with running(server):
        own_cluster.server.stop()
        registry = own_cluster.registry(endpoints=[server.url], sleep=quickly)
        waiting = asyncio.create_task(registry.net_conf())
        await until(lambda: "enable-grpc-gateway: true" in registry.health.error)
        server.stop()
        server.start("enable-grpc-gateway: true\n")
        await until(lambda: "is missing" in registry.health.error)
        server.ctl("put", f"{own_cluster.prefix}/config", '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}')
        assert (await waiting).vni == 1


async def test_a_url_in_capitals_is_the_same(cluster: Cluster) -> None:
    """HTTPS://... was used without the settings' authority: schemes have no case."""
    registry = cluster.registry(endpoints=[cluster.server.url.upper()])
    assert (await registry.net_conf()).vni == 1


@asynccontextmanager
async def old_gateway(url: str) -> AsyncIterator[str]:
    """A proxy before a real server that has no /v3, and forwards /v3beta."""

    async def forward(request: web.Request) -> web.StreamResponse:
        async with session.post(url + request.path, data=await request.read()) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    app = web.Application()
    app.router.add_post("/v3beta/{path:.*}", forward)
    async with aiohttp.ClientSession() as session, serving(app) as front:
        yield front


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """A web server on loopback."""
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
