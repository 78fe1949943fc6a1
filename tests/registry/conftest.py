"""The stores that the suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final

import pytest

from tests.registry import realkube
from tests.registry.stores import Store, kube, static

STORES: Final[dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Store]]]] = {
    "static": static.opened,
    "fake-kube": kube.opened_fake,
    "real-kube": kube.opened_real,
}


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
