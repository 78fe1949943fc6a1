"""Routes to VTEPs: which are looked up when, with a kernel and a clock of the test; the real kernel: tests/netns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.overlapping import OUTERS, SUBNETS_4, VTEPS
from vxland.datapath.owners import Owners
from vxland.model.errors import VxlandError
from vxland.model.lease import Address, Lease, Mac, Vtep
from vxland.model.steps import at_once
from vxland.node import peer_routes
from vxland.node.peer_routes import PAUSE_S, PERIOD_S, PeerRoutes

BRIDGE = 1
"""An interface with an Ethernet header; others have none."""


class Kernel:
    """The kernel's routes, with the look-ups."""

    def __init__(self) -> None:
        self.routes: dict[Address, int] = {}
        self.asked: list[set[Address]] = []
        self.fails = False

    async def interfaces_to(self, addresses: Iterable[Address]) -> dict[Address, int]:
        """Return the interface to each address that has a route."""
        if self.fails:
            raise VxlandError("no buffer space")
        self.asked.append(set(addresses))
        return {address: self.routes[address] for address in addresses if address in self.routes}


class Node:
    """The routes of a node whose clock the test moves."""

    def __init__(self) -> None:
        self.owners, self.kernel, self.now = Owners(), Kernel(), 1000.0
        netlink: Any = self.kernel
        self.routes = PeerRoutes(netlink, self.owners, lambda: self.now, lambda: 0.5)

    def change(self, removed: Iterable[Lease], added: Iterable[Lease]) -> dict[Address, None]:
        """Change leases."""
        return dict(at_once(self.routes.follow(self.owners.change(removed, added))))

    def look(self) -> set[Address]:
        """Look what is due up; return the addresses."""
        self.kernel.asked.clear()
        if self.routes.are_due:
            at_once(self.routes.take(asyncio.run(self.routes.look_up())))
        return set().union(*self.kernel.asked)


@pytest.fixture(autouse=True)
def _only_the_bridge_has_ethernet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_routes, "is_ethernet", lambda index: index == BRIDGE)


def leases(*numbers: int) -> list[Lease]:
    """Return leases of nodes."""
    return [
        Lease(ip_network(f"10.1.{number}.0/24"), Vtep(ip_network(f"192.0.2.{number}")[0], Mac(number)))
        for number in numbers
    ]


def addresses(*numbers: int) -> set[Address]:
    """Return the addresses of nodes."""
    return {lease.vtep.address for lease in leases(*numbers)}


def test_only_new_vteps_are_looked_up() -> None:
    """A change looked up the routes to all VTEPs."""
    node = Node()
    node.change((), leases(*range(1, 100)))
    assert node.look() == addresses(*range(1, 100))
    assert node.look() == set()
    node.change((), leases(100))
    assert node.look() == addresses(100)
    node.kernel.routes = dict.fromkeys(addresses(*range(1, 101)), BRIDGE)
    node.change(leases(5), [Lease(leases(5)[0].subnet, Vtep(leases(5)[0].vtep.address, Mac(0x99)))])
    assert node.look() == addresses(5)  # it had no route
    node.change([Lease(leases(5)[0].subnet, Vtep(leases(5)[0].vtep.address, Mac(0x99)))], leases(5))
    assert node.look() == set()  # it has one
    assert node.change(leases(5), ()) == dict.fromkeys(addresses(5))
    assert node.look() == set()
    assert node.routes.devices == {}


def test_all_are_looked_up_after_events_and_on_the_timer() -> None:
    """Not all the time, however many events come; and nothing is due in between."""
    node = Node()
    node.change((), leases(1, 2))
    node.look()
    pause = PAUSE_S * 1.002
    for wait_s, is_due in ((0, False), (pause - 0.01, False), (0.02, True), (0.5, False), (pause, True)):
        node.now += wait_s
        node.routes._stale = True
        assert node.look() == (addresses(1, 2) if is_due else set())
    node.routes._stale = False
    node.now += PERIOD_S * 0.9 - 0.01
    assert node.look() == set()
    node.now += 0.02
    assert node.look() == addresses(1, 2)


def test_a_look_that_fails_is_done_again() -> None:
    """Of all VTEPs, if that was due."""
    node = Node()
    node.change((), leases(1, 2))
    node.kernel.fails = True
    with pytest.raises(VxlandError):
        node.look()
    node.kernel.fails = False
    assert node.look() == addresses(1, 2)


class Following(RuleBasedStateMachine):
    """Leases, routes and looks in any order, with an event for each change of a route."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.found: dict[Address, int | None] | None = None

    @rule(removed=st.sets(st.sampled_from(SUBNETS_4)), subnet=st.sampled_from(SUBNETS_4), vtep=st.sampled_from(VTEPS))
    def change(self, removed: set[Any], subnet: Any, vtep: Vtep) -> None:  # noqa: ANN401  (of IPv4)
        """Leases change."""
        owners = self.node.owners
        gone = self.node.change([owners.leases[each] for each in removed & owners.leases.keys()], [Lease(subnet, vtep)])
        assert gone.keys().isdisjoint(vtep.address for vtep in owners.vteps)

    @rule(address=st.sampled_from(OUTERS), index=st.sampled_from([None, BRIDGE, 2]))
    def move(self, address: Address, index: int | None) -> None:
        """A route changes."""
        self.node.kernel.routes.pop(address, None)
        if index is not None:
            self.node.kernel.routes[address] = index
        self.node.routes._stale = True

    @rule()
    def begin(self) -> None:
        """Look up what is due."""
        self.node.now += 10
        if self.found is None and self.node.routes.are_due:
            self.found = dict(asyncio.run(self.node.routes.look_up()))

    @rule()
    def end(self) -> None:
        """Take over what was found."""
        if self.found is not None:
            taken = at_once(self.node.routes.take(self.found))
            assert taken.keys() == self.found.keys() & {vtep.address for vtep in self.node.owners.vteps}
        self.found = None

    @invariant()
    def all_is_known_when_nothing_is_due(self) -> None:
        """As looked up all at once."""
        self.node.now += 10
        if self.found is None and not self.node.routes.are_due:
            here = {vtep.address for vtep in self.node.owners.vteps}
            routes = self.node.kernel.routes
            assert self.node.routes.devices == {each: BRIDGE for each in here if routes.get(each) == BRIDGE}


TestFollowing = Following.TestCase
