"""Nothing is imported while an event loop runs: with etcd that held it for 130 ms at each start."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import asyncio, json, sys
from pathlib import Path
from vxland.config import settings_of
from vxland.node import daemon
from vxland.node.api.http import open_metrics
from vxland.node.registry_factory import make_registry
from vxland.forwarding.io.fdstore import Inherited
from vxland.kernel.memory import loaded
from vxland.ops.loop_hold import LoopHold

settings = settings_of(json.loads(sys.argv[1]))
daemon.preload(settings)
before = set(sys.modules)

async def start():
    node = daemon.Node(None, settings, Path("subnet.env"), None, LoopHold(), Inherited([]), loaded())
    if (listen := settings.metrics.listen) is not None:
        open_metrics(str(listen.address), 0, node._state.sample).close()
    await node._state.registry.close()

asyncio.run(start())
print(json.dumps([sorted(set(sys.modules) - before), "aiohttp" in before, "prometheus_client" in before]))
"""


@pytest.mark.parametrize(
    ("registry", "has_http"),
    [
        ({"registry": {"kind": "static"}, "overlay": {"network": "10.244.0.0/16", "subnet": "10.244.0.0/24"}}, False),
        ({"registry": {"kind": "etcd"}, "etcd": {"endpoints": ["http://192.0.2.9:2379"]}}, True),
        ({"registry": {"kind": "kube"}, "kube": {"api_url": "https://192.0.2.7", "node_name": "a"}}, True),
    ],
)
@pytest.mark.parametrize("listen", ["", "127.0.0.1:9472"])
def test_everything_is_imported_before(registry: dict[str, Any], has_http: bool, listen: str) -> None:
    """And nothing more: a static node loads no HTTP client, and one without metrics no Prometheus client."""
    settings = registry | {"metrics": {"listen": listen}}
    done = subprocess.run(
        (sys.executable, "-P", "-c", SCRIPT, json.dumps(settings)), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], has_http, bool(listen)]
