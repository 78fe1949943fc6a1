"""A fake API server with two nodes, and this node's registry over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.registry.fakekube import FakeKube
from tests.registry.kubeapi import Admin, registry
from tests.registry.kubecase import (
    V4,
    FakeSleep,
    join,
    peer,
)
from vxland.registry import watches
from vxland.registry.kube import registry as kube_registry
from vxland.registry.kube.registry import KubeRegistry


@pytest.fixture
async def fake() -> AsyncIterator[FakeKube]:
    """A running server."""
    server = FakeKube()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def admin(fake: FakeKube) -> AsyncIterator[Admin]:
    """Its administrator, who has added node1 and node2."""
    async with Admin(fake) as admin:
        await join(admin, 1, peer(1))
        await join(admin, 2, peer(2))
        yield admin


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> FakeSleep:
    """The registry's sleeps; the length identifies those that are no retries."""
    monkeypatch.setattr(watches, "SETTLE_S", 5.5)
    monkeypatch.setattr(kube_registry, "REPAIR_S", 1.5)
    return FakeSleep()


@pytest.fixture
async def kube(fake: FakeKube, tmp_path: Path, sleeps: FakeSleep) -> AsyncIterator[KubeRegistry]:
    """The node's registry."""
    kube = registry(fake, tmp_path, V4, sleep=sleeps.sleep)
    yield kube
    await kube.close()
