"""Stores at a loopback port without a listener."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.registry.following import until
from vxland.config.flannel import EtcdSettings, KubeSettings
from vxland.registry.etcd.registry import EtcdRegistry
from vxland.registry.kube.registry import KubeRegistry
from vxland.registry.protocol import Registry


def etcd(url: str, folder: Path) -> Registry:
    """Return a registry over etcd."""
    assert folder.is_dir()
    return EtcdRegistry(EtcdSettings(endpoints=(url,)), dict)


def kube(url: str, folder: Path) -> Registry:
    """Return a registry over Kubernetes, with its net-conf.json in `folder`."""
    net_conf = folder / "net-conf.json"
    net_conf.write_text(json.dumps({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}))
    return KubeRegistry(KubeSettings(api_url=url, node_name="node0", net_conf=net_conf))


async def error_of(registry: Registry) -> str:
    """Return the error in the registry's health while it waits for its store."""
    waiting = asyncio.create_task(follow(registry))
    try:
        await until(lambda: registry.health.error)
        return registry.health.error
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await registry.close()


async def follow(registry: Registry) -> None:
    """Ask for the network and this node, as a daemon does."""
    await registry.net_conf()
    await registry.recall({})


@pytest.mark.parametrize("make", [etcd, kube])
async def test_no_tls_is_named_for_plain_http(make: Callable[[str, Path], Registry], tmp_path: Path) -> None:
    """The error of an http URL read `Cannot connect to host 127.0.0.1:2379 ssl:default [...]`.

    Operators looked for a TLS problem.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await error_of(make(f"http://127.0.0.1:{port}", tmp_path))
    assert f"127.0.0.1:{port}" in error
    assert "refused" in error or "Connect call failed" in error
    assert "ssl" not in error
