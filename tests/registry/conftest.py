"""The stores that the suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final

import pytest

from tests.etcd import EtcdServer, running
from tests.registry.stores import Store, etcd, static

STORES: Final[dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Store]]]] = {
    "static": static.opened,
    "etcd": etcd.opened,
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
