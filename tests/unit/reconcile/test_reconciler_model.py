"""A Reconciler among lease changes, other programs, refusals and lost events: in the end a whole comparison is content.

The kernel is tests/kernel.py's model, which makes the events that the real one makes. hypothesis chooses the history.
With --hypothesis-profile=chance, VXLAND_EXAMPLES=N tries N random histories instead of the fixed ones.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.kernel import (
    DEV,
    FRESH,
    NETWORKS,
    OWN,
    Clock,
    FakeKernel,
    blackhole,
    direct,
    idle,
    lease,
    model,
    ours,
    plan,
    route,
    set_want,
    want,
)
from vxland.model.actions import Action, DelRoute
from vxland.model.backoff import RETRY_LAST_S
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import Have, Neighbour
from vxland.model.lease import Lease, Mac
from vxland.reconcile.plan import Want
from vxland.reconcile.reconciler import RESYNC_S, Reconciler
from vxland.reconcile.record import Record

EXAMPLES = int(os.environ.get("VXLAND_EXAMPLES", "60"))

SUBNETS = ["10.244.1.0/24", "10.244.1.0/25", "10.244.2.0/24", "10.244.0.0/24", "fd00:244:1::/64", "fd00:244:2::/64"]
NEAR = {"192.0.2.1": "eth0", "2001:db8::1": "eth0"}
subnets = st.sampled_from(SUBNETS)
vteps = st.sampled_from([*NEAR, "198.51.100.2"])
macs = st.sampled_from([2, 4])
VERBS = ["", "replace_route", "replace_neighbour", "del_route", "set_up", "replace_direct_route"]


class ObligingKernel(FakeKernel):
    """It refuses what the real one refuses, and counts what is gone already as deleted, as netlink/client.py does."""

    async def apply(self, actions: Sequence[Action]) -> dict[Action, VxlandError]:
        """Apply each action on its own."""
        refused: dict[Action, VxlandError] = {}
        for action in actions:
            if self.refuse(action):
                refused[action] = VxlandError("refused")
            elif not isinstance(action, DelRoute) or action.route in self.have.routes:
                try:
                    self._become(model(self.have, action))
                except AssertionError as exc:
                    refused[action] = VxlandError(str(exc))
            await asyncio.sleep(0)  # others have their turn
        return refused


class World(RuleBasedStateMachine):
    """The events."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.kernel, self.clock = ObligingKernel(), Clock()
        self.leases: dict[str, Lease] = {}
        self.unseen = False  # something has changed without an event
        self.reconciler = Reconciler(
            self.kernel, clock=lambda: self.clock.now, sleep=self.clock.sleep, jitter=lambda: 0.0
        )
        self.task = self.loop.create_task(self.reconciler.run())
        self.device = want()

    @initialize(direct=st.booleans(), fresh=st.booleans())
    def starts(self, direct: bool, fresh: bool) -> None:
        """On a new device, or on one that an earlier process has left."""
        self.device = replace(self.device, direct=direct)
        on_link = {ip_address(vtep): link for vtep, link in NEAR.items()}
        self.kernel.have = replace(self.kernel.have, on_link=on_link)
        if not fresh:
            left = (ours(ip_network("10.244.2.0/24")), ours(ip_network("10.244.7.0/24")))
            there = (Neighbour(ip_address("10.244.7.0"), Mac(2), permanent=True),)
            self.kernel.have = replace(self.kernel.have, routes=left, neighbours=there)
        self.follow()

    @property
    def want(self) -> Want:
        """All that is wanted."""
        return replace(self.device, peers=frozenset(self.leases.values()))

    def follow(self) -> None:
        """Hand it to the Reconciler."""
        self.loop.run_until_complete(set_want(self.reconciler, self.want))

    @rule(subnet=subnets, mac=macs, vtep=vteps)
    def lease_comes_or_changes(self, subnet: str, mac: int, vtep: str) -> None:
        """At most one lease for each subnet."""
        self.leases[subnet] = lease(subnet, mac, vtep)
        self.follow()

    @rule(subnet=subnets)
    def lease_goes(self, subnet: str) -> None:
        """The registry has lost it."""
        self.leases.pop(subnet, None)
        self.follow()

    @rule(mtu=st.sampled_from([1400, 1450]), own=st.sampled_from(["10.244.0.0", "10.244.2.0"]), hole=st.booleans())
    def settings_change(self, mtu: int, own: str, hole: bool) -> None:
        """The node's own subnet, which no peer may have, its blackhole, and the MTU."""
        holes = (ip_network(f"{own}/24"),) if hole else ()
        self.device = replace(self.device, mtu=mtu, addresses=frozenset({ip_interface(own)}), blackholes=holes)
        self.follow()

    @rule(
        subnet=subnets,
        what=st.sampled_from(["gone", "theirs", "first", "last", "direct", "stale", "hole"]),
        seen=st.sampled_from([True, True, True, False]),
    )
    def route_is_disturbed(self, subnet: str, what: str, seen: bool) -> None:
        """Another program deletes, replaces, prepends or appends a route."""
        have, here = self.kernel.have, ip_network(subnet)
        theirs = replace(route(subnet), metric=ours(here).metric)
        kept = tuple(r for r in have.routes if r.subnet != here)
        same = tuple(r for r in have.routes if r.subnet == here and r != theirs)
        routes = {
            "gone": kept,
            "theirs": (*kept, theirs),
            "first": (theirs, *same, *kept),
            "last": (*kept, *same, theirs),
            "direct": (*kept, direct(subnet, "192.0.2.1" if here.version == 4 else "2001:db8::1")),
            "stale": (*kept, ours(here)),
            "hole": (*kept, *same, *(() if blackhole(subnet) in same else (blackhole(subnet),))),
        }[what]
        self.become(replace(have, routes=routes), seen=seen)

    @rule(subnet=subnets, mac=st.sampled_from([None, 2, 4]), permanent=st.booleans(), seen=st.booleans())
    def neighbour_is_disturbed(self, subnet: str, mac: int | None, permanent: bool, seen: bool) -> None:
        """Another program deletes or replaces a neighbour."""
        address = ip_network(subnet).network_address
        others = tuple(n for n in self.kernel.have.neighbours if n.address != address)
        new = () if mac is None else (Neighbour(address, Mac(mac), permanent),)
        self.become(replace(self.kernel.have, neighbours=(*others, *new)), seen=seen)

    @rule(what=st.sampled_from(["down", "mac", "mtu", "accept_ra", "addresses", "another", "missing"]))
    def device_is_disturbed(self, what: str) -> None:
        """Another program changes the device, and the kernel drops what depends on it."""
        have = self.kernel.have
        if have.link is None:
            self.become(Have(link=FRESH, on_link=have.on_link))
            return
        routes4 = tuple(r for r in have.routes if r.subnet.version == 6 or r.device != self.device.device)
        self.become(
            {
                "down": replace(have, link=replace(have.link, up=False), routes=routes4),
                "mac": replace(have, link=replace(have.link, mac=Mac(6)), neighbours=()),
                "mtu": replace(have, link=replace(have.link, mtu=1500)),
                "accept_ra": replace(have, link=replace(have.link, accept_ra=1)),
                "addresses": replace(have, addresses=(), routes=routes4),
                "another": replace(have, addresses=(*have.addresses, OWN) if OWN not in have.addresses else ()),
                "missing": Have(on_link=have.on_link),
            }[what]
        )

    @rule(near=st.booleans())
    def path_moves(self, near: bool) -> None:
        """A VTEP leaves the link, or returns."""
        on_link = {ip_address(vtep): link for vtep, link in NEAR.items() if near or vtep != "192.0.2.1"}
        self.become(replace(self.kernel.have, on_link=on_link))

    def become(self, have: Have, *, seen: bool = True) -> None:
        """Change the kernel, with its events or without any."""
        if seen:
            self.kernel.drift(have)
        else:
            self.unseen |= have != self.kernel.have
            self.kernel.have = have

    @rule()
    def events_are_lost(self) -> None:
        """ENOBUFS."""
        self.kernel.lose_events()

    @rule(
        verb=st.sampled_from(["", "replace_route", "replace_neighbour", "del_route", "set_up", "replace_direct_route"])
    )
    def kernel_refuses(self, verb: str) -> None:
        """It refuses actions of a kind, or none any more."""
        self.kernel.refuse = lambda action: action.verb == verb

    @rule(unreadable=st.booleans())
    def kernel_is_unreadable(self, unreadable: bool) -> None:
        """It answers nothing, or is well again."""
        self.kernel.unreadable = unreadable

    @rule()
    def others_run(self) -> None:
        """The Reconciler has a short turn."""
        self.loop.run_until_complete(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        """The Reconciler has its turn."""
        self.loop.run_until_complete(self.clock.pass_time(seconds))

    @precondition(lambda self: self.unseen)
    @rule()
    def resync(self) -> None:
        """The slow timer finds what had no event."""
        self.loop.run_until_complete(self.clock.pass_time(RESYNC_S))
        self.unseen = self.kernel.unreadable

    @invariant()
    def it_goes_on(self) -> None:
        """The Reconciler has not ended."""
        assert not self.task.done()

    def teardown(self) -> None:
        """The faults end: after the retries nothing differs, and the record is what the kernel has."""
        try:
            self.kernel.refuse = lambda _: False
            self.kernel.unreadable = False
            if self.kernel.have.link is None:
                self.become(Have(link=FRESH, on_link=self.kernel.have.on_link))
            self.loop.run_until_complete(self.clock.pass_time(RESYNC_S if self.unseen else 2.5 * RETRY_LAST_S))
            assert plan(self.want, self.kernel.have) == []
            view = self.reconciler._view
            assert view is not None
            fresh = Record(self.device.device, {})
            fresh.set_device(self.kernel.have)
            self.loop.run_until_complete(self.kernel.scan(DEV, FRESH.index, NETWORKS, fresh.add))
            bases = fresh.bases | view._record.bases
            found, real = view._record.part(bases), fresh.part(bases)
            assert set(found.routes) == set(real.routes)
            assert set(found.neighbours) == set(real.neighbours)
            assert (found.link, found.addresses) == (real.link, real.addresses)
            if self.device.direct:
                vteps = set(self.want.direct_gateways.values())
                near = {vtep: link for vtep, link in self.kernel.have.on_link.items() if vtep in vteps}
                assert {vtep: link for vtep, link in found.on_link.items() if vtep in vteps} == near
        finally:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                self.loop.run_until_complete(self.task)
            self.loop.run_until_complete(idle())
            self.loop.close()


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None)
