"""Peers, readers, and a fake sleep for the tests of the Kubernetes registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Final, TypeVar

import pytest

from tests.patience import PATIENCE_S
from tests.registry.following import Follower
from tests.registry.kubeapi import PREFIX, Admin, flannel_annotations
from vxland.model.lease import Lease, Mac, Subnet, Vtep
from vxland.registry.kube.registry import KubeRegistry

T = TypeVar("T")
V4: Final = "10.244.0.0/16"
DUAL: Final = (V4, "fd00:10:244::/56")
MAC: Final = Mac.parse("ce:5f:f6:73:cf:b9")
VTEPS: Final = {4: Vtep(ip_address("192.168.111.128"), MAC), 6: Vtep(ip_address("fd00:192:168::80"), MAC)}
OWN_ANNOTATIONS: Final = flannel_annotations(
    *(Lease(ip_network(subnet), VTEPS[v]) for v, subnet in ((4, "10.244.0.0/24"), (6, "fd00:10:244::/64")))
)
"""The annotations that this node publishes, without the prefix."""


class FakeSleep:
    """A sleep of 10 ms for registries, with a record of the seconds asked for."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._changed = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Record the seconds, and sleep 10 ms."""
        self.slept.append(seconds)
        self._changed.set()
        await asyncio.sleep(0.01)

    async def until(self, true: Callable[[], bool]) -> None:
        """Return when a condition holds, checked after each sleep of the registry."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def following(kube: KubeRegistry) -> AsyncIterator[Follower]:
    """Yield a reader of the registry after its Snapshot."""
    async with aclosing(kube.watch()) as events:
        follower = Follower(events)
        async with asyncio.timeout(PATIENCE_S):
            await follower.next()
        yield follower


@asynccontextmanager
async def watching(kube: KubeRegistry) -> AsyncIterator[asyncio.Task[None]]:
    """Read the registry in the background."""

    async def read() -> None:
        async with aclosing(kube.watch()) as events:
            async for _ in events:
                pass

    task = asyncio.create_task(read())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(ask: Callable[[], Awaitable[object]], expected: object) -> None:
    """Return when `ask` returns the expected value; there is no event for the state of a server."""
    said: object = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (said := await ask()) != expected:  # noqa: ASYNC110  (the state is a server's)
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{said} is not {expected}")


def peer(number: int, version: int = 4, *, mac: int = 0, address: int = 0) -> Lease:
    """Return the lease of node `number`."""
    subnet: Subnet = ip_network(f"10.244.{number}.0/24" if version == 4 else f"fd00:10:244:{number:x}::/64")
    last = address or number
    outer = ip_address(f"192.168.111.{last}" if version == 4 else f"fd00:192:168::{last:x}")
    return Lease(subnet, Vtep(outer, Mac(0x3A87CF816A00 + (mac or number))))


async def join(admin: Admin, number: int, *leases: Lease) -> str:
    """Add node `number` with these leases and podCIDRs of both families, and return its name."""
    name, prefixes = f"node{number}", {PREFIX + key: text for key, text in flannel_annotations(*leases).items()}
    await admin.add(name, str(peer(number).subnet), str(peer(number, 6).subnet), annotations=prefixes)
    return name


def async_of(call: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    """Return `call` as an async function."""

    async def asked() -> T:
        return call()

    return asked


async def conditions(admin: Admin) -> dict[str, dict[str, str]]:
    """Return the conditions of our Node, by type."""
    return {found["type"]: found for found in (await admin.node())["status"].get("conditions", [])}
