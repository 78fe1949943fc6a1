"""The stores that the suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import pytest

from tests.registry.stores import Store, static

STORES: Final[dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Store]]]] = {
    "static": static.opened,
}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store, with this node's registry over it."""
    async with STORES[request.param](request) as opened:
        yield opened
        await opened.registry.close()
