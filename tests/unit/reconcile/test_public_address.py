"""The published address, if it is not the bound one, with a fake kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

from structlog.testing import capture_logs

from vxland.model.errors import StartError
from vxland.model.lease import Address
from vxland.netlink.rtnl import KernelRefusedError
from vxland.reconcile.public_address import PublicAddress

BOUND, PUBLIC, OTHER = ip_address("192.0.2.1"), ip_address("203.0.113.5"), ip_address("203.0.113.6")


class Node:
    """The published address, this node's addresses, and the open sockets besides the bound one."""

    def __init__(self) -> None:
        self.published: Address = BOUND
        self.has: set[Address] = {BOUND}
        self.open: Address | None = None
        self.opened = 0
        self.held = False
        self.unreadable = False
        self.changes: list[list[Address]] = []
        self.public = PublicAddress(
            "flannel.1", BOUND, lambda: self.published, self._serve, self._is_local, self._changed
        )

    def _changed(self) -> None:
        self.changes.append(self.public.further)

    async def _serve(self, address: Address | None) -> None:
        if self.held:
            raise StartError("UDP port 8472 is held by dnsmasq (pid 7)", "stop it")
        self.open = address
        self.opened += 1

    async def _is_local(self, address: Address) -> bool:
        if self.unreadable:
            raise KernelRefusedError("RTM_GETROUTE", 105)
        return address in self.has


def played(scenario: Callable[[Node], Coroutine[Any, Any, None]]) -> list[str]:
    """Return the events that a scenario logs."""
    with capture_logs() as logs:
        asyncio.run(scenario(Node()))
    return [event["event"] for event in logs]


def test_the_bound_address_needs_nothing() -> None:
    """Nor does one of the other family, which has its own plane."""

    async def scenario(node: Node) -> None:
        await node.public.check()
        node.published = ip_address("2001:db8::1")
        await node.public.check()
        assert (node.opened, node.public.served) == (0, [BOUND])

    assert played(scenario) == []


def test_it_is_followed() -> None:
    """The address may come and go, and the store may publish another one, or none."""

    async def scenario(node: Node) -> None:
        node.published = PUBLIC
        await node.public.check()
        assert (node.open, node.public.served) == (PUBLIC, [BOUND])
        node.has.add(PUBLIC)
        await node.public.check()
        assert node.public.served == [BOUND, PUBLIC]
        node.unreadable = True
        await node.public.check()
        assert node.public.served == [BOUND, PUBLIC]
        node.unreadable, node.published = False, OTHER
        await node.public.check()
        assert (node.open, node.public.served, node.opened) == (OTHER, [BOUND], 2)
        node.has.add(OTHER)
        await node.public.check()
        assert node.public.served == [BOUND, OTHER]
        node.published = BOUND
        await node.public.check()
        assert (node.open, node.public.served) == (None, [BOUND])
        assert node.changes == [[PUBLIC], [], [OTHER], []]

    assert played(scenario) == ["public_address_here", "public_address_away"] * 2


def test_it_is_held_by_another() -> None:
    """It is logged once, retried, and served as soon as it is free."""

    async def scenario(node: Node) -> None:
        node.published, node.held = PUBLIC, True
        node.has.add(PUBLIC)
        for _ in range(3):
            await node.public.check()
        assert node.public.problem == "UDP port 8472 is held by dnsmasq (pid 7)"
        assert node.public.served == [BOUND]
        node.held = False
        await node.public.check()
        assert node.public.problem == ""
        assert node.public.served == [BOUND, PUBLIC]

    assert played(scenario) == ["public_address_unserved", "public_address_here"]
