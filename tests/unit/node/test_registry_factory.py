"""The registry of each kind: its source, its lease cache, and its answer to a reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vxland.config import settings_of
from vxland.model.lease import Snapshot
from vxland.node.registry_factory import make_registry
from vxland.registry.lease_cache import LeaseCache

PEER = {"subnet": "10.244.1.0/24", "vtep": "192.0.2.2", "mac": "02:00:00:00:00:02"}
OVERLAY = {"network": "10.244.0.0/16", "subnet": "10.244.0.0/24"}
ETCD = {"endpoints": ["http://192.0.2.9:2379", "http://192.0.2.8:2379"], "prefix": "/net"}


@pytest.mark.parametrize(
    ("sections", "source"),
    [
        ({"kind": "etcd", "etcd": ETCD}, "etcd /net at http://192.0.2.8:2379, http://192.0.2.9:2379"),
        (
            {"kind": "kube", "kube": {"api_url": "https://192.0.2.7"}},
            "kube flannel.alpha.coreos.com at https://192.0.2.7",
        ),
    ],
)
@pytest.mark.parametrize("memory", ["", "leases.json"])
async def test_a_store(sections: dict[str, Any], source: str, memory: str, tmp_path: Path) -> None:
    """A cache file names its store, and an upgrade must not change that name: the file would be refused."""
    others = {name: section for name, section in sections.items() if name != "kind"}
    path = str(tmp_path / memory) if memory else ""
    settings = settings_of({"registry": {"kind": sections["kind"], "memory": path}, **others})
    registry = make_registry(settings, tmp_path / "subnet.env")
    try:
        assert isinstance(registry, LeaseCache) == bool(memory)
        assert registry.source == source
        assert registry.reload(settings) is None
        assert not isinstance(make_registry(settings, tmp_path / "subnet.env", cached=False), LeaseCache)
    finally:
        await registry.close()


async def test_a_file(tmp_path: Path) -> None:
    """A file needs no cache, and a reload returns its new peers."""
    registry = make_registry(settings_of({"overlay": OVERLAY}), tmp_path / "subnet.env")
    assert not isinstance(registry, LeaseCache)
    assert registry.source == "the configuration file"
    settings = settings_of({"overlay": OVERLAY, "registry": {"peers": [PEER]}})
    assert registry.reload(settings) == Snapshot(settings.peers)
