"""flannel's keys in a real etcd, written by etcdctl as flannel writes them; each test has its own prefix."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.etcd import EtcdServer
from tests.registry.stores import NETWORKS, OWN_SUBNETS, Store
from vxland.config.flannel import EtcdSettings
from vxland.model.lease import Lease, Subnet
from vxland.reconcile.subnet_env import read, render
from vxland.registry.etcd.registry import EtcdRegistry
from vxland.registry.lease_cache import LeaseCache
from vxland.registry.protocol import Registry

_numbers = itertools.count(1)


@asynccontextmanager
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Yield a prefix with a dual-stack network, and a subnet.env of the subnets to hold."""
    server: EtcdServer = request.getfixturevalue("etcd_server")
    folder: Path = request.getfixturevalue("tmp_path")
    prefix = f"/suite/{next(_numbers)}"
    subnet_file = folder / "subnet.env"
    subnet_file.write_text(
        render(map(ip_network, NETWORKS), map(ip_network, OWN_SUBNETS), 1450, ip_masq=False), encoding="ascii"
    )
    server.ctl("put", f"{prefix}/config", net_conf())
    yield EtcdStore(server, prefix, subnet_file)


@asynccontextmanager
async def opened_cached(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Yield the same store, with a lease cache in front of the registry."""
    async with opened(request) as store:
        path: Path = request.getfixturevalue("tmp_path") / "leases.json"
        store.registry = LeaseCache(store.registry, path, pools=True)
        yield store


class EtcdStore:
    """A store with one key for each node; each family of subnets has VTEPs of the same family."""

    def __init__(self, server: EtcdServer, prefix: str, subnet_file: Path) -> None:
        self.outer: Mapping[int, int] = {4: 4, 6: 6}
        self.registry: Registry = EtcdRegistry(
            EtcdSettings(endpoints=(server.url,), prefix=prefix), partial(read, subnet_file)
        )
        self._server = server
        self._subnets = f"{prefix}/subnets/"
        self._nodes: dict[int, dict[int, Lease]] = {}  # by number and IP version

    async def put(self, lease: Lease) -> None:
        """Add or change another node's `lease`."""
        leases = self._nodes.setdefault(_number(lease.subnet), {})
        gone = key(leases) if leases else None
        leases[lease.subnet.version] = lease
        changes = [f"put {self._subnets}{key(leases)} {json.dumps(value(leases))}"]
        if gone is not None and gone != key(leases):
            changes.append(f"del {self._subnets}{gone}")
        await self._transact(changes)

    async def remove(self, subnet: Subnet) -> None:
        """End the lease on `subnet`."""
        leases = self._nodes.pop(_number(subnet))
        await self._transact([f"del {self._subnets}{key(leases)}"])

    async def _transact(self, changes: list[str]) -> None:
        """Make the changes in one transaction, in etcdctl's form: no conditions, so the first list applies."""
        text = "\n" + "\n".join(changes) + "\n\n\n"
        await asyncio.to_thread(self._server.ctl, "txn", stdin=text)


def net_conf(**more: object) -> str:
    """Return the dual-stack network of the suite, with the first subnets, which flannel leaves out by default."""
    v4, v6 = NETWORKS
    first = {"SubnetMin": v4.partition("/")[0], "IPv6SubnetMin": v6.partition("/")[0]}
    known = {"Network": v4, "EnableIPv6": True, "IPv6Network": v6, "Backend": {"Type": "vxlan"}}
    return json.dumps(known | first | more)


def key(leases: Mapping[int, Lease]) -> str:
    """Return the last part of flannel's key for a node's leases, by IP version."""
    return "&".join(str(lease.subnet).replace("/", "-") for _, lease in sorted(leases.items()))


def value(leases: Mapping[int, Lease], vni: int = 1) -> str:
    """Return the value that flannel writes there."""
    public = {version: str(lease.vtep.address) for version, lease in leases.items()}
    fields: dict[str, object] = {"PublicIP": public[4], "PublicIPv6": public.get(6), "BackendType": "vxlan"}
    for version, lease in sorted(leases.items()):
        data = {"VNI": vni, "VtepMAC": str(lease.vtep.mac)}
        fields["BackendData" if version == 4 else "BackendV6Data"] = data
    return json.dumps(fields, separators=(",", ":"))


def _number(subnet: Subnet) -> int:
    return subnet.network_address.packed[2 if subnet.version == 4 else 7]
