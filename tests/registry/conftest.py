"""The stores that the suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final

import pytest

from tests.etcd import EtcdServer, running
from tests.registry import realkube
from tests.registry.stores import Store, etcd, kube, static

STORES: Final[dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Store]]]] = {
    "static": static.opened,
    "etcd": etcd.opened,
    "fake-kube": kube.opened_fake,
    "real-kube": kube.opened_real,
}


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One server for all tests that neither stop it nor change who may do what; each takes a prefix of its own."""
    with running(EtcdServer(tmp_path_factory.mktemp("etcd"))) as server:
        yield server


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store, with this node's registry over it."""
    async with STORES[request.param](request) as opened:
        yield opened
        await opened.registry.close()


@pytest.fixture(scope="session")
def real_kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realkube.RealKube]:
    """The one real API server of all tests; each begins by deleting every Node."""
    with realkube.running(tmp_path_factory.mktemp("kube")) as server:
        yield server
