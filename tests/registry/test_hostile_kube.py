"""An API server becomes hostile, as in test_hostile.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.hostilestore.faults import FAULTS
from tests.hostilestore.store import HostileStore
from tests.hostilestore.wire import ESCAPES
from tests.registry.cluster import quickly
from tests.registry.following import Follower, until
from tests.registry.kubeapi import OWN, PREFIX, flannel_annotations, net_conf
from tests.registry.kubecase import peer
from tests.views import claimed_leases
from vxland.config.flannel import KubeSettings
from vxland.model.lease import Lease
from vxland.registry.kube import client
from vxland.registry.kube.registry import KubeRegistry

QUIET = {"watch: the first byte never", "watch: events of nothing", "watch: positions"}
"""Faults that a registry cannot detect as errors."""


def node(name: str, lease: Lease) -> dict[str, Any]:
    """A Node with a lease."""
    annotations = {PREFIX + key: text for key, text in flannel_annotations(lease).items()}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": {"podCIDR": str(lease.subnet)}}


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostileStore]:
    """A store with a Node, and without a fault at first."""
    monkeypatch.setattr(client, "_HEAD_S", 1.0)  # one of the faults takes all of it
    store = HostileStore(nodes=[node("node1", peer(1))])
    async with store.serving():
        yield store


@pytest.fixture
async def registry(store: HostileStore, tmp_path: Path) -> AsyncIterator[KubeRegistry]:
    """The node's registry."""
    conf = net_conf(tmp_path / "net-conf.json", "10.244.0.0/16")
    settings = KubeSettings.model_validate({"api_url": store.url, "node_name": OWN, "net_conf": str(conf)})
    registry = KubeRegistry(settings, environ={}, sleep=quickly)
    yield registry
    await registry.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_that_an_api_server_says_ends_the_node(
    store: HostileStore, registry: KubeRegistry, fault: str
) -> None:
    """The known peers stay, the error is one line, and new peers arrive once the fault is over."""
    async with aclosing(registry.watch()) as events:
        follower = Follower(events)
        await follower.until(peer(1))
        with capture_logs() as logged:
            store.switch(fault)
            await until(lambda: store.faulty > 1 or (fault in QUIET and store.faulty))
            assert registry.health.error.isprintable()
            assert len(registry.health.error) < 2000
            assert {peer(1)} == {lease for view in registry._watches._views for lease in claimed_leases(view)}
            store.nodes += [
                node("node2", peer(2)),
                node(f"node3{ESCAPES}", peer(3)),
                {"metadata": {"name": "x" * 9999}},
            ]
            store.switch("watch: infinity")  # whose first line is no event: it lists again
            await until(lambda: store.faulty)
            store.switch("")
            await follower.until(peer(1), peer(2), peer(3))
    assert sum(len(str(entry)) for entry in logged) < 100_000
    assert all(value.isprintable() for entry in logged for value in entry.values() if isinstance(value, str))
