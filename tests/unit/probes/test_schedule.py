"""The schedule of pings with a fake clock: times of probes, conclusions from replies and silence, forged replies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from vxland.model.lease import Lease, Mac, Vtep
from vxland.probes.schedule import FULL_EVERY, MISSES, RATE_S, TIMEOUT_S, WINDOW, PeerEvent, Probe, Schedule

FULL_LEN, SMALL_LEN = 1422, 16


def lease(number: int) -> Lease:
    """Return the lease of a peer."""
    base = ip_address("10.0.0.0") + (number << 8)
    return Lease(ip_network(f"{base}/24"), Vtep(ip_address("192.168.0.0") + number, Mac(number + 1)))


def payload(probe: Probe) -> bytes:
    """Return the payload of a genuine reply."""
    return probe.token.ljust(FULL_LEN if probe.full else SMALL_LEN, b"\0")


class World:
    """A schedule, a clock, and peers that reply as `answers` says."""

    def __init__(self, peers: int = 1, interval_s: float = 10.0) -> None:
        numbers = itertools.count(1)
        self.now = 1000.0
        self.schedule = Schedule(random.Random(7).random, lambda: next(numbers).to_bytes(16, "big"))  # noqa: S311  (repeatable)
        self.schedule.set_interval(interval_s)
        self.leases = [lease(number) for number in range(peers)]
        self.schedule.follow(self.now, added=self.leases)
        self.events: list[PeerEvent] = []
        self.rtt_s = 0.004

    def answer(self, probe: Probe, **changed: object) -> PeerEvent | None:
        """Reply to a probe, with some fields changed."""
        real = {
            "source": probe.lease.subnet.network_address,
            "sequence": probe.sequence,
            "payload": payload(probe),
            "expected_len": len(payload(probe)),
            "at": probe.at + self.rtt_s,
        }
        return self.schedule.take_reply(**(real | changed))  # type: ignore[arg-type]  # hostile ones have every form

    def run(self, seconds: float, answers: Callable[[Probe], bool] = lambda _: True) -> list[Probe]:
        """Let time pass; return the probes that were sent."""
        until, asked = self.now + seconds, []
        while (at := max(self.schedule.next_at(), self.now)) <= until:
            self.now = at
            self.events += self.schedule.expire(self.now)
            while (probe := self.schedule.next_probe(self.now)) is not None:
                asked.append(probe)
                if answers(probe) and (event := self.answer(probe)) is not None:
                    self.events.append(event)
        self.now = until
        return asked

    @property
    def transitions(self) -> list[str]:
        """Return the transitions so far."""
        return [event.transition for event in self.events]


def test_a_peer_is_pinged_once_an_interval() -> None:
    """The pause varies by a tenth; a full probe follows the first reply and every FULL_EVERY replies."""
    world = World()
    asked = world.run(1000)
    small = [probe.at for probe in asked if not probe.full]
    assert 95 <= len(small) <= 105
    assert all(9 - 0.1 <= after - before <= 11.1 for before, after in itertools.pairwise(small))
    assert asked[1].full
    assert asked[1].at == pytest.approx(asked[0].at + world.rtt_s)
    assert sum(probe.full for probe in asked) == pytest.approx(len(small) / FULL_EVERY, abs=2)
    assert world.events == []


def test_a_peer_that_replies() -> None:
    """It is reachable since the first reply, has last, shortest and smoothed round-trip times, and no loss."""
    world = World()
    world.run(30)
    first = world.schedule.reach(world.leases[0])
    assert (first.state, first.loss, first.full_mtu, first.cause) == ("reachable", 0, "passes", None)
    assert first.rtt_s == first.min_s == first.smoothed_s == pytest.approx(0.004)
    world.rtt_s = 0.012
    world.run(10)
    later = world.schedule.reach(world.leases[0])
    assert later.rtt_s == pytest.approx(0.012)
    assert later.min_s == pytest.approx(0.004)
    assert later.smoothed_s == pytest.approx(0.005)
    assert later.since == first.since


def test_silence() -> None:
    """After a missing reply the next ping is early, MISSES times; then the peer is unreachable."""
    world = World()
    world.run(60)
    asked = world.run(200, lambda _: False)
    assert world.transitions == ["unreachable"]
    early = [probe.at for probe in asked[:MISSES]]
    assert [after - before for before, after in itertools.pairwise(early)] == [TIMEOUT_S] * (MISSES - 1)
    assert all(after.at - before.at > 8 for before, after in itertools.pairwise(asked[MISSES:]))
    assert not any(probe.full for probe in asked[1:])
    reach = world.schedule.reach(world.leases[0])
    assert (reach.state, reach.rtt_s, reach.full_mtu, reach.loss) == ("unreachable", None, "unknown", 1)
    world.run(30)
    assert world.transitions == ["unreachable", "back"]
    assert world.events[1].before.state == "unreachable"
    assert world.schedule.reach(world.leases[0]).state == "reachable"


def test_a_peer_that_never_replied_is_unreachable_too() -> None:
    """Its state goes from unknown to unreachable."""
    world = World()
    world.run(30, lambda _: False)
    assert world.transitions == ["unreachable"]
    assert world.schedule.reach(world.leases[0]).loss == 1


def test_loss_alone_is_no_silence() -> None:
    """If every third probe is lost, that is the loss of the window, and no event."""
    world = World()
    numbers = itertools.count()
    world.run(2000, lambda probe: probe.full or next(numbers) % 3 != 0)
    assert world.events == []
    assert world.schedule.reach(world.leases[0]).loss == pytest.approx(1 / 3, abs=1 / WINDOW)


def test_an_mtu_hole() -> None:
    """Full probes are lost while small ones get replies: a hole after MISSES, and no more after one full reply."""
    world = World()
    world.run(60)
    asked = world.run(300, lambda probe: not probe.full)
    assert world.transitions == ["mtu_hole"]
    full = [index for index, probe in enumerate(asked) if probe.full]
    assert all(not asked[index + 1].full for index in full[:-1])  # a small one in between
    reach = world.schedule.reach(world.leases[0])
    assert (reach.state, reach.full_mtu, reach.loss) == ("reachable", "hole", 0)
    world.run(120)
    assert world.transitions == ["mtu_hole", "mtu_whole"]
    assert world.schedule.reach(world.leases[0]).full_mtu == "passes"


def test_silence_is_no_mtu_hole() -> None:
    """A peer that loses everything is unreachable, and its MTU is unknown."""
    world = World()
    world.run(60)
    world.run(300, lambda _: False)
    assert "mtu_hole" not in world.transitions


def test_a_router_reports_its_mtu() -> None:
    """An ICMP error about a full probe counts as a miss, and its MTU is stored."""
    world = World()
    world.run(30)
    for _ in range(MISSES):
        full = None
        while full is None:
            found = world.run(1, lambda probe: not probe.full)
            full = next((probe for probe in found if probe.full), None)
        event = world.schedule.take_error(full.sequence, world.now, passes=1350)
    assert event is not None
    assert event.transition == "mtu_hole"
    assert world.schedule.reach(world.leases[0]).passes == 1350


@pytest.mark.parametrize(
    "changed",
    [
        {"source": ip_address("10.0.9.0")},
        {"source": ip_address("fd00::")},
        {"sequence": 4711},
        {"payload": bytes(SMALL_LEN)},
        {"payload": b""},
        {"payload": (1).to_bytes(16, "big") + b"\0"},
        {"expected_len": SMALL_LEN + 1},
    ],
    ids=str,
)
def test_a_forged_reply_changes_nothing(changed: dict[str, object]) -> None:
    """Another source, number, token or length is counted as stray, and the genuine reply still counts."""
    world = World()
    world.now = world.schedule.next_at()
    probe = world.schedule.next_probe(world.now)
    assert probe is not None
    assert world.answer(probe, **changed) is None
    assert world.schedule.outcomes == {"stray": 1}
    assert world.schedule.reach(world.leases[0]).state == "unknown"
    world.answer(probe)
    assert world.schedule.reach(world.leases[0]).state == "reachable"


def test_a_forged_error_changes_nothing() -> None:
    """An error about no open probe, or with another token, is stray; a genuine one is a miss."""
    world = World()
    world.now = world.schedule.next_at()
    probe = world.schedule.next_probe(world.now)
    assert probe is not None
    world.schedule.take_error(probe.sequence + 1, world.now)
    world.schedule.take_error(probe.sequence, world.now, b"another")
    assert world.schedule.outcomes == {"stray": 2}
    world.schedule.take_error(probe.sequence, world.now, probe.token[:4])
    assert world.schedule.outcomes == {"stray": 2, "refused": 1}
    assert world.schedule.reach(world.leases[0]).loss == 1


def test_a_reply_counts_once_and_in_time() -> None:
    """A second copy, and a reply after the timeout, are strays."""
    world = World()
    world.now = world.schedule.next_at()
    probe = world.schedule.next_probe(world.now)
    assert probe is not None
    world.answer(probe)
    world.answer(probe)
    assert world.schedule.outcomes == {"answered": 1, "stray": 1}
    late = None
    while late is None:
        world.now = max(world.schedule.next_at(), world.now)
        late = world.schedule.next_probe(world.now)
    world.schedule.expire(late.at + TIMEOUT_S)
    world.answer(late)
    assert world.schedule.outcomes == {"answered": 1, "stray": 2, "lost": 1}


def test_the_rate_is_bounded() -> None:
    """With 5,000 peers no second has more than RATE_S probes, plus missed ones; each peer is pinged."""
    world = World(5000)
    asked = world.run(120, lambda _: False)
    seconds = [int(probe.at) for probe in asked]
    assert max(seconds.count(second) for second in set(seconds)) <= RATE_S * 1.2
    assert len({probe.lease for probe in asked}) == 5000


def test_first_probes_are_spread() -> None:
    """Nodes that learn of the same peers at once spread their probes over the whole interval."""
    world = World(200)
    ats = [probe.at - 1000 for probe in world.run(10) if not probe.full]
    assert min(ats) < 1
    assert max(ats) > 9
    assert len(ats) >= 190


def test_a_removed_peer_is_forgotten() -> None:
    """A removed lease leaves no state, and a reply to its probe is a stray; the others continue."""
    world = World(3)
    world.run(30)
    probe = None
    while probe is None:
        world.now = max(world.schedule.next_at(), world.now)
        probe = world.schedule.next_probe(world.now)
    others = [each for each in world.leases if each != probe.lease]
    world.schedule.follow(world.now, removed=[probe.lease])
    assert world.answer(probe) is None
    assert world.schedule.outcomes["stray"] == 1
    assert set(world.schedule.reaches()) == set(others)
    assert {each.lease for each in world.run(30)} == set(others)
    world.schedule.set_interval(0)
    world.schedule.follow(world.now, added=others)
    assert world.schedule.reaches() == {}
    assert world.schedule.next_at() == float("inf")


def test_a_late_diagnosis_is_dropped() -> None:
    """A peer that is back before its diagnosis ends has no cause."""
    world = World()
    world.run(60, lambda _: False)
    then = world.schedule.reach(world.leases[0])
    world.run(30)
    world.schedule.set_cause(world.leases[0], then)
    assert world.schedule.reach(world.leases[0]).cause is None
