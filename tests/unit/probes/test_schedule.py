"""The book of pings with a fake clock: when each peer is asked, what answers and silence mean, hostile answers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from vxland.model.lease import Lease, Mac, Vtep
from vxland.probes.schedule import FULL_EVERY, MISSES, RATE_S, TIMEOUT_S, WINDOW, Ask, PeerEvent, Schedule

FULL_LEN, SMALL_LEN = 1422, 16


def lease(number: int) -> Lease:
    """The lease of a peer."""
    base = ip_address("10.0.0.0") + (number << 8)
    return Lease(ip_network(f"{base}/24"), Vtep(ip_address("192.168.0.0") + number, Mac(number + 1)))


def payload(ask: Ask) -> bytes:
    """What a true answer brings back."""
    return ask.token.ljust(FULL_LEN if ask.full else SMALL_LEN, b"\0")


class World:
    """A book, a clock, and peers that answer as `answers` says."""

    def __init__(self, peers: int = 1, interval_s: float = 10.0) -> None:
        numbers = itertools.count(1)
        self.now = 1000.0
        self.schedule = Schedule(random.Random(7).random, lambda: next(numbers).to_bytes(16, "big"))  # noqa: S311  (repeatable)
        self.schedule.set_interval(interval_s, self.now)
        self.leases = [lease(number) for number in range(peers)]
        self.schedule.follow(self.leases, self.now)
        self.asked: list[Ask] = []
        self.news: list[PeerEvent] = []
        self.rtt_s = 0.004

    def answer(self, ask: Ask, **changed: object) -> PeerEvent | None:
        """Answer a question, truly but for what is changed."""
        real = {
            "source": ask.lease.subnet.network_address,
            "sequence": ask.sequence,
            "payload": payload(ask),
            "expected_len": len(payload(ask)),
            "at": ask.at + self.rtt_s,
        }
        return self.schedule.answer(**(real | changed))  # type: ignore[arg-type]  # hostile ones have every form

    def run(self, seconds: float, answers: Callable[[Ask], bool] = lambda _: True) -> list[Ask]:
        """Let time pass; the questions asked meanwhile."""
        until, asked = self.now + seconds, []
        while (at := max(self.schedule.next_at(), self.now)) <= until:
            self.now = at
            self.news += self.schedule.expire(self.now)
            while (ask := self.schedule.ask(self.now)) is not None:
                asked.append(ask)
                if answers(ask) and (news := self.answer(ask)) is not None:
                    self.news.append(news)
        self.now = until
        return asked

    @property
    def turns(self) -> list[str]:
        """What has turned."""
        return [news.turn for news in self.news]


def test_a_peer_is_asked_once_an_interval() -> None:
    """Small ones at a pace that varies by a tenth, and a full one with the first answer and every FULL_EVERY."""
    world = World()
    asked = world.run(1000)
    small = [ask.at for ask in asked if not ask.full]
    assert 95 <= len(small) <= 105
    assert all(9 - 0.1 <= after - before <= 11.1 for before, after in itertools.pairwise(small))
    assert asked[1].full
    assert asked[1].at == pytest.approx(asked[0].at + world.rtt_s)
    assert sum(ask.full for ask in asked) == pytest.approx(len(small) / FULL_EVERY, abs=2)
    assert world.news == []


def test_what_a_peer_that_answers_looks_like() -> None:
    """Reachable since the first answer, with the last, shortest and smoothed round-trip time, and no loss."""
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
    """Asked again as soon as each wait is over, MISSES times, then unreachable, told once; then at the old pace."""
    world = World()
    world.run(60)
    asked = world.run(200, lambda _: False)
    assert world.turns == ["unreachable"]
    early = [ask.at for ask in asked[:MISSES]]
    assert [after - before for before, after in itertools.pairwise(early)] == [TIMEOUT_S] * (MISSES - 1)
    assert all(after.at - before.at > 8 for before, after in itertools.pairwise(asked[MISSES:]))
    assert not any(ask.full for ask in asked[1:])
    reach = world.schedule.reach(world.leases[0])
    assert (reach.state, reach.rtt_s, reach.full_mtu, reach.loss) == ("unreachable", None, "unknown", 1)
    world.run(30)
    assert world.turns == ["unreachable", "back"]
    assert world.news[1].before.state == "unreachable"
    assert world.schedule.reach(world.leases[0]).state == "reachable"


def test_a_peer_that_never_answered_is_told_of_too() -> None:
    """From unknown to unreachable; its first answer ends it."""
    world = World()
    world.run(30, lambda _: False)
    assert world.turns == ["unreachable"]
    assert world.schedule.reach(world.leases[0]).loss == 1


def test_loss_alone_is_no_silence() -> None:
    """Every third question lost: a part of the window, and no news."""
    world = World()
    numbers = itertools.count()
    world.run(2000, lambda ask: ask.full or next(numbers) % 3 != 0)
    assert world.news == []
    assert world.schedule.reach(world.leases[0]).loss == pytest.approx(1 / 3, abs=1 / WINDOW)


def test_an_mtu_hole() -> None:
    """Full ones are lost while small ones are answered: a hole after MISSES, told once; whole again with one answer."""
    world = World()
    world.run(60)
    asked = world.run(300, lambda ask: not ask.full)
    assert world.turns == ["mtu_hole"]
    full = [index for index, ask in enumerate(asked) if ask.full]
    assert all(not asked[index + 1].full for index in full[:-1])  # a small one in between
    reach = world.schedule.reach(world.leases[0])
    assert (reach.state, reach.full_mtu, reach.loss) == ("reachable", "hole", 0)
    world.run(120)
    assert world.turns == ["mtu_hole", "mtu_whole"]
    assert world.schedule.reach(world.leases[0]).full_mtu == "passes"


def test_silence_is_no_mtu_hole() -> None:
    """A peer that loses everything is unreachable, and nothing is said of its MTU."""
    world = World()
    world.run(60)
    world.run(300, lambda _: False)
    assert "mtu_hole" not in world.turns


def test_a_router_tells_what_passes() -> None:
    """An ICMP error about a full question counts as a miss, and its MTU is kept."""
    world = World()
    world.run(30)
    for _ in range(MISSES):
        full = None
        while full is None:
            found = world.run(1, lambda ask: not ask.full)
            full = next((ask for ask in found if ask.full), None)
        news = world.schedule.refuse(full.sequence, world.now, passes=1350)
    assert news is not None
    assert news.turn == "mtu_hole"
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
def test_a_false_answer_changes_nothing(changed: dict[str, object]) -> None:
    """Another source, number, token or length: counted, and the true answer still counts."""
    world = World()
    world.now = world.schedule.next_at()
    ask = world.schedule.ask(world.now)
    assert ask is not None
    assert world.answer(ask, **changed) is None
    assert world.schedule.outcomes == {"stray": 1}
    assert world.schedule.reach(world.leases[0]).state == "unknown"
    world.answer(ask)
    assert world.schedule.reach(world.leases[0]).state == "reachable"


def test_a_false_error_changes_nothing() -> None:
    """One about no open question, or that quotes another token; a true one is a miss."""
    world = World()
    world.now = world.schedule.next_at()
    ask = world.schedule.ask(world.now)
    assert ask is not None
    world.schedule.refuse(ask.sequence + 1, world.now)
    world.schedule.refuse(ask.sequence, world.now, b"another")
    assert world.schedule.outcomes == {"stray": 2}
    world.schedule.refuse(ask.sequence, world.now, ask.token[:4])
    assert world.schedule.outcomes == {"stray": 2, "refused": 1}
    assert world.schedule.reach(world.leases[0]).loss == 1


def test_an_answer_counts_once_and_in_time() -> None:
    """A second copy, and one that comes after it was given up, are strays."""
    world = World()
    world.now = world.schedule.next_at()
    ask = world.schedule.ask(world.now)
    assert ask is not None
    world.answer(ask)
    world.answer(ask)
    assert world.schedule.outcomes == {"answered": 1, "stray": 1}
    late = None
    while late is None:
        world.now = max(world.schedule.next_at(), world.now)
        late = world.schedule.ask(world.now)
    world.schedule.expire(late.at + TIMEOUT_S)
    world.answer(late)
    assert world.schedule.outcomes == {"answered": 1, "stray": 2, "lost": 1}


def test_the_rate_is_bounded() -> None:
    """With 5,000 peers no second has more than RATE_S questions and what was to make up for; each has its turn."""
    world = World(5000)
    asked = world.run(120, lambda _: False)
    seconds = [int(ask.at) for ask in asked]
    assert max(seconds.count(second) for second in set(seconds)) <= RATE_S * 1.2
    assert len({ask.lease for ask in asked}) == 5000


def test_first_questions_are_spread() -> None:
    """Nodes that learn of the same peers at once ask at moments of their own, over the whole interval."""
    world = World(200)
    ats = [ask.at - 1000 for ask in world.run(10) if not ask.full]
    assert min(ats) < 1
    assert max(ats) > 9
    assert len(ats) >= 190


def test_what_goes_is_forgotten() -> None:
    """A lease that is gone leaves nothing, and an answer to its question is a stray; the others go on."""
    world = World(3)
    world.run(30)
    ask = None
    while ask is None:
        world.now = max(world.schedule.next_at(), world.now)
        ask = world.schedule.ask(world.now)
    others = [each for each in world.leases if each != ask.lease]
    world.schedule.follow(others, world.now)
    assert world.answer(ask) is None
    assert world.schedule.outcomes["stray"] == 1
    assert set(world.schedule.all()) == set(others)
    assert {each.lease for each in world.run(30)} == set(others)
    world.schedule.set_interval(0, world.now)
    world.schedule.follow(others, world.now)
    assert world.schedule.all() == {}
    assert world.schedule.next_at() == float("inf")


def test_an_explanation_of_something_past_is_not_kept() -> None:
    """A peer that is back before its examination ends has no cause."""
    world = World()
    world.run(60, lambda _: False)
    then = world.schedule.reach(world.leases[0])
    world.run(30)
    world.schedule.explain(world.leases[0], then)
    assert world.schedule.reach(world.leases[0]).cause is None
