"""One network in a real etcd, with keys of other nodes and administrators, and registries over it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from random import SystemRandom

from tests.etcd import EtcdServer
from tests.registry.stores.etcd import key, value
from vxland.config.flannel import EtcdSettings
from vxland.model.lease import Lease, Mac, Vtep
from vxland.reconcile.subnet_env import read
from vxland.registry.etcd.registry import EtcdRegistry

NETWORK = "10.244.0.0/16"

_BELOW = SystemRandom().randrange


class Cluster:
    """The keys under `prefix`. Registries made here are closed with it."""

    def __init__(self, server: EtcdServer, prefix: str, folder: Path) -> None:
        self.server = server
        self.prefix = prefix
        self.folder = folder
        self._registries: list[EtcdRegistry] = []

    def define(self, **more: object) -> None:
        """Put the network's configuration. Tests write other nodes' leases above SubnetMax, which nobody takes."""
        known = {"Network": NETWORK, "SubnetMax": "10.244.127.0", "Backend": {"Type": "vxlan"}}
        self.put("config", json.dumps(known | more))

    def put(self, name: str, text: str, lease: str = "0") -> None:
        """Put PREFIX/NAME, with an etcd lease if one is given."""
        self.server.ctl("put", f"{self.prefix}/{name}", text, f"--lease={lease}")

    def delete(self, name: str) -> None:
        """Delete PREFIX/NAME."""
        assert self.server.ctl("del", f"{self.prefix}/{name}").strip() == "1"

    def grant(self, seconds: int) -> str:
        """Return the id of a new etcd lease."""
        return self.server.ctl("lease", "grant", str(seconds)).split()[1]

    def revoke(self, lease: str) -> None:
        """Revoke an etcd lease, as if it had expired."""
        self.server.ctl("lease", "revoke", lease)

    def entries(self) -> dict[str, str]:
        """Return the values under `subnets` by name."""
        found = self.server.ctl("get", f"{self.prefix}/subnets/", "--prefix").splitlines()
        return {key.rpartition("/")[2]: text for key, text in zip(found[::2], found[1::2], strict=True)}

    def lease_of(self, name: str) -> int | None:
        """Return an entry's etcd lease; 0: none; None: there is no such entry."""
        found = json.loads(self.server.ctl("get", f"{self.prefix}/subnets/{name}", "--write-out=json"))
        return int(found["kvs"][0].get("lease", 0)) if "kvs" in found else None

    def registry(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        endpoints: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        below: Callable[[int], int] = _BELOW,
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> EtcdRegistry:
        """Return a node's registry, with these `settings` besides endpoints and prefix."""
        known = {"endpoints": list(endpoints) or [self.server.url], "prefix": self.prefix}
        given = EtcdSettings.model_validate({**known, **(settings or {})})
        previous = partial(read, self.folder / "subnet.env")
        registry = EtcdRegistry(given, previous, clock=clock, sleep=sleep, below=below, jitter=jitter)
        self._registries.append(registry)
        return registry

    async def close(self) -> None:
        """Close every registry."""
        for registry in self._registries:
            await registry.close()


def vtep(number: int, mac: int = 0) -> Vtep:
    """Return the VTEP of node `number`."""
    return Vtep(IPv4Address("192.168.0.1") + number, Mac(0x3A87CF810000 + (mac or number)))


def name(lease: Lease) -> str:
    """Return the last part of the key of an IPv4 lease."""
    return key({4: lease})


def text(lease: Lease, **more: object) -> str:
    """Return the value of another node's entry."""
    return json.dumps(json.loads(value({4: lease})) | more)


async def quickly(_delay: float) -> None:
    """Sleep briefly, whatever the seconds."""
    await asyncio.sleep(0.01)
