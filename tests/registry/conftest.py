"""The stores that the suite runs over."""

from __future__ import annotations

import gc
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.etcd import EtcdServer, running
from tests.registry import realkube
from tests.registry.cluster import Cluster
from tests.registry.fakekube import FakeKube
from tests.registry.kubeapi import Admin, registry
from tests.registry.stores import Store, etcd, kube, static
from vxland.registry.kube.registry import KubeRegistry

_numbers = itertools.count(1)

STORES: Final[dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Store]]]] = {
    "static": static.opened,
    "etcd": etcd.opened,
    "etcd-cached": etcd.opened_cached,
    "fake-kube": kube.opened_fake,
    "real-kube": kube.opened_real,
}


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One server for all tests that neither stop it nor change its users; each uses its own prefix."""
    with running(EtcdServer(tmp_path_factory.mktemp("etcd"))) as server:
        yield server


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.packages if name in {"etcd", "etcd-cached"} else ()) for name in STORES
    ]
)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store, with this node's registry over it."""
    async with STORES[request.param](request) as opened:
        yield opened
        await opened.registry.close()
        gc.collect()  # a connection left open fails the test that left it


@pytest.fixture(scope="session")
def real_kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realkube.RealKube]:
    """One real API server for all tests; each test first deletes every Node."""
    with realkube.running(tmp_path_factory.mktemp("kube")) as server:
        yield server


@pytest.fixture(params=["fake", "real"])
async def admin(request: pytest.FixtureRequest) -> AsyncIterator[Admin]:
    """The administrator of an API server without Nodes."""
    if request.param == "real":
        server: realkube.RealKube = request.getfixturevalue("real_kube")
        async with Admin(server) as admin:
            await admin.clear()
            yield admin
    else:
        fake = FakeKube()
        await fake.start()
        try:
            async with Admin(fake) as admin:
                yield admin
        finally:
            await fake.stop()


@pytest.fixture
async def make(admin: Admin, tmp_path: Path) -> AsyncIterator[Callable[..., KubeRegistry]]:
    """Makes registries of the node OWN, and closes them at the end."""
    made = []

    def make_one(*networks: str, **settings: Any) -> KubeRegistry:  # noqa: ANN401  (as registry() takes them)
        made.append(registry(admin.server, tmp_path, *networks, **settings))
        return made[-1]

    yield make_one
    for each in made:
        await each.close()


@pytest.fixture
async def cluster(etcd_server: EtcdServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A separate IPv4 network on the shared server."""
    cluster = Cluster(etcd_server, f"/test/{next(_numbers)}", tmp_path)
    cluster.define()
    yield cluster
    await cluster.close()


@pytest.fixture
async def own_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """As `cluster`, on a server that the test may stop; parametrize it with options of etcd."""
    with running(EtcdServer(tmp_path / "etcd", *getattr(request, "param", ()))) as server:
        cluster = Cluster(server, "/test", tmp_path)
        cluster.define()
        yield cluster
        await cluster.close()
