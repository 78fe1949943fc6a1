"""Changes of leases, and those who follow them: any sequence ends where a fresh start with the last leases would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import islice
from random import Random
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vxland.lab.bench import scale
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Change, Delta, Lease, Mac, Snapshot, Vtep
from vxland.model.steps import at_once
from vxland.node.peer_changes import PART, in_parts, part_of
from vxland.probes.reach import pinged
from vxland.probes.responder_limits import ResponderLimits
from vxland.probes.schedule import Probe, Schedule
from vxland.reconcile.path_mtu import PathMtus
from vxland.registry.held_leases import HeldLeases

OWN = IPv4Address("192.0.2.1")
NAT = (ip_network("198.51.100.0/24"),)

SUBNETS = st.builds(
    lambda number, length: IPv4Network((0x0A_F4_00_00 | number << 8, length)),
    st.integers(0, 3),
    st.sampled_from([24, 25]),
)
OTHERS = st.builds(lambda number: IPv6Network((0xFD << 120 | number << 64, 64)), st.integers(0, 2))
VTEPS = st.builds(
    lambda number, mac: Vtep(IPv4Address(0xC0_A8_00_00 | number), Mac(mac)), st.integers(0, 3), st.integers(1, 2)
)
LEASES = st.builds(Lease, st.one_of(SUBNETS, OTHERS), VTEPS, st.sampled_from([(), NAT]))
EVENTS = st.one_of(
    st.builds(Snapshot, st.frozensets(LEASES, max_size=6)),
    st.builds(Delta, st.frozensets(LEASES, max_size=3), st.frozensets(st.one_of(SUBNETS, OTHERS), max_size=3)),
)


class Paths:
    """A kernel with a narrow path to every second VTEP, some of them by forged ICMP errors; it counts questions."""

    def __init__(self) -> None:
        self.asked: Counter[Address] = Counter()

    def interface(self, index: int) -> tuple[str, int]:
        """Return the interface."""
        return f"e{index}", 1500

    def mtu_to(self, vtep: Address) -> int:
        """Return the path MTU."""
        self.asked[vtep] += 1
        return 1400 if int(vtep) % 2 else 1500

    def learned(self, vtep: Address) -> tuple[int, int | None] | None:
        """Return the path MTU from ICMP."""
        return (1400, None) if int(vtep) % 4 == 3 else None


class Followers:
    """All that follow peers, without a kernel."""

    def __init__(self) -> None:
        self.schedule = Schedule(Random(5).random, lambda: b"token of a probe")  # noqa: S311  (repeatable)
        self.schedule.set_interval(10.0)
        self.limits = ResponderLimits()
        self.kernel = Paths()
        self.paths = PathMtus(self.kernel, Underlay("e2", 2, OWN, 1500), lambda: None, icmp_counts=False)
        self.now = 1000.0
        self.calls: list[int] = []

    def follow(self, removed: list[Lease], added: list[Lease]) -> None:
        """Do as a plane does."""
        self.calls.append(len(removed) + len(added))
        self.schedule.follow(self.now, removed=map(pinged, removed), added=map(pinged, added))
        self.paths.follow(removed=(each.vtep.address for each in removed), added=(each.vtep.address for each in added))
        self.limits.follow(removed=(each.subnet for each in removed), added=(each.subnet for each in added))

    def apply(self, change: Change) -> None:
        """Take a change of all leases."""
        at_once(in_parts(at_once(part_of(change, {4}, 4)), self.follow))

    def poll(self) -> None:
        """Poll path MTUs as in one period."""
        poll = self.paths._poll()
        with suppress(StopIteration):
            while True:
                poll.send(None)  # it only rests, and needs no event loop

    def ping(self, seconds: float, answers: Iterable[bool]) -> list[Probe]:
        """Let time pass, and return the probes sent; answers are drawn in order, then there are none."""
        until, sent, drawn = self.now + seconds, [], iter(answers)
        while (at := max(self.schedule.next_at(), self.now)) <= until:
            self.now = at
            self.schedule.expire(self.now)
            while (probe := self.schedule.next_probe(self.now)) is not None:
                sent.append(probe)
                if next(drawn, False):
                    length = len(probe.token)
                    self.schedule.take_reply(
                        probe.lease.subnet.network_address, probe.sequence, probe.token, length, self.now
                    )
        self.now = until
        return sent


class AnyHistory(RuleBasedStateMachine):
    """Events of a registry, pings and polls in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldLeases()
        self.followers = Followers()

    @rule(event=EVENTS)
    def event(self, event: Snapshot | Delta) -> None:
        """The registry has news."""
        known = {each: self.followers.schedule.reach(each) for each in self.followers.schedule.reaches()}
        before = {(each.subnet, each.vtep) for each in self.held}
        self.followers.apply(self.held.apply(event))
        for lease, reach in self.followers.schedule.reaches().items():
            if (lease.subnet, lease.vtep) in before:
                assert reach == known[lease]  # a peer that stays keeps its state

    @rule(seconds=st.floats(0.1, 30), answers=st.lists(st.booleans(), max_size=20))
    def ping(self, seconds: float, answers: list[bool]) -> None:
        """Peers are pinged: each of them in time, and no others."""
        sent = self.followers.ping(seconds, answers)
        assert {probe.lease for probe in sent} <= self.followers.schedule.reaches().keys()
        if seconds > 11 + 2 * 3:
            assert {probe.lease for probe in sent} == self.followers.schedule.reaches().keys()

    @rule()
    def poll(self) -> None:
        """Path MTUs are polled."""
        self.followers.poll()

    @invariant()
    def as_a_fresh_start(self) -> None:
        """The peers are those of a start with the leases held now; exceptions are those of the paths known."""
        fresh = Followers()
        fresh.apply(Change(added=frozenset(self.held)))
        schedule, paths = self.followers.schedule, self.followers.paths
        assert schedule.reaches().keys() == fresh.schedule.reaches().keys() == schedule._peers.keys()
        assert {probe.lease for probe in schedule._open.values()} <= schedule._peers.keys()
        assert len(schedule._due) <= 64 + 2 * len(schedule._peers)
        assert paths._vteps == fresh.paths._vteps
        assert paths._new.keys() | paths.known.keys() == paths._vteps.keys()
        assert paths.narrower == {vtep: path.mtu for vtep, path in paths.known.items() if path.mtu < 1500}
        assert paths.distrusted == {vtep: path.claimed for vtep, path in paths.known.items() if path.claimed}
        assert self.followers.limits._known == fresh.limits._known

    def teardown(self) -> None:
        """After a poll, the path MTUs are those of a fresh start too."""
        fresh = Followers()
        fresh.apply(Change(added=frozenset(self.held)))
        for each in (fresh, self.followers):
            each.poll()
        assert {vtep: path.mtu for vtep, path in self.followers.paths.known.items()} == {
            vtep: path.mtu for vtep, path in fresh.paths.known.items()
        }


TestAnyHistory = cast("Any", AnyHistory).TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_a_change_touches_its_own_peers() -> None:
    """One changed MAC went through all 5,000 peers: it polled every path, and built the schedule again."""
    leases = list(islice(scale.leases(), 1000))
    followers, held = Followers(), HeldLeases()
    followers.apply(held.apply(Snapshot(frozenset(leases))))
    followers.poll()
    before = dict(followers.schedule._peers)
    due = followers.schedule._due
    followers.calls.clear()
    followers.kernel.asked.clear()
    changed = replace(leases[500], vtep=Vtep(IPv4Address("192.0.2.77"), Mac(7)))
    followers.apply(held.apply(Delta(frozenset({changed}))))
    assert followers.calls == [1, 1]
    assert followers.schedule._due is due
    peers = followers.schedule._peers
    assert {each for each in before | peers if before.get(each) is not peers.get(each)} == {leases[500], changed}
    followers.poll()
    assert followers.kernel.asked[changed.vtep.address] == 1
    assert followers.kernel.asked.total() <= 101


def test_new_sources_alone_are_no_change_for_probes() -> None:
    """A reload of `security.sources` forgot the results of pings."""
    (lease,) = islice(scale.leases(), 1)
    followers = Followers()
    followers.apply(Change(added=frozenset({lease})))
    followers.apply(Change(frozenset({lease}), frozenset({replace(lease, sources=NAT)})))
    assert len(followers.calls) == 1
    assert followers.schedule.reaches().keys() == {lease}


def test_a_long_change_is_passed_on_in_parts() -> None:
    """The first snapshot of a large cluster held the event loop."""
    followers = Followers()
    change = Change(added=frozenset(islice(scale.leases(), 200)))
    rests = sum(1 for _ in in_parts(change, followers.follow))
    assert followers.calls == [PART, PART, PART, 200 - 3 * PART]
    assert rests >= 4


def test_what_belongs_to_another_plane() -> None:
    """A plane takes leases on subnets of its networks, over VTEPs that its underlay reaches."""
    v4, v6 = Vtep(OWN, Mac(2)), Vtep(IPv6Address("fd00::1"), Mac(2))
    subnet4, subnet6 = ip_network("10.1.0.0/24"), ip_network("fd00:1::/64")
    leases = frozenset(Lease(subnet, vtep) for subnet in (subnet4, subnet6) for vtep in (v4, v6))
    change = at_once(part_of(Change(leases, leases), {4}, 4))
    assert change == Change(frozenset({Lease(subnet4, v4)}), frozenset({Lease(subnet4, v4)}))
