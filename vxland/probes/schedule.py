"""Whom to ask when, and what answers and silence mean. Pure: `now` is passed in, in seconds of one monotonic clock.

Each peer (a lease: a node with two families is asked in both) is asked once in an interval, at moments spread at random
so that nodes don't burst, and RATE_S times a second at most, all together: then a round takes longer than the interval.
One question at a time is open for a peer. An answer counts if it has the sequence number and the token of an open
question, comes from the address that was asked, and brings all octets back; anything else is counted and ignored.

Silence is suspicion: the peer is asked again as soon as TIMEOUT_S has passed, and MISSES in a row make it unreachable.
One answer makes it reachable. Every FULL_EVERY answers a question of the whole overlay MTU follows, which says whether
such packets pass; MISSES of these in a row, with small ones answered in between, are an MTU hole.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Literal, TypeAlias

from vxland.model.lease import Address, Lease
from vxland.probes.reach import FullMtu, Reach

RATE_S = 100.0
TIMEOUT_S = 2.0
MISSES = 3
FULL_EVERY = 6
WINDOW = 20
"""So many questions are the window of the loss that is told."""

_SPREAD = 0.2  # of the interval lie between the shortest and the longest pause, which are drawn at random
_GAIN = 1 / 8  # of a new round-trip time in the smoothed one: RFC 6298 section 2
_CATCH_UP_S = 0.1  # what the rate allowed while the event loop was late, for so long, may be made up for
_SEQUENCES = 1 << 16

Outcome: TypeAlias = Literal["answered", "lost", "refused", "stray"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "lost", "refused", "stray")

Transition: TypeAlias = Literal["unreachable", "back", "mtu_hole", "mtu_whole"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: to the lease's base address, of full size or small."""

    lease: Lease
    sequence: int
    token: bytes
    full: bool
    at: float


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A peer's state has turned; `before` is how it was."""

    lease: Lease
    turn: Transition
    before: Reach


@dataclass(slots=True)
class _Peer:
    """Where the questions to one peer are at."""

    due: float
    window: int = 0  # the last questions, one bit each, 1 where there was no answer
    asked: int = 0  # how many of these there were, WINDOW at most
    misses: int = 0
    full_misses: int = 0
    small: int = FULL_EVERY  # answers since the last full question; the first is followed by one
    open: int | None = None  # the sequence number of the open question


class Schedule:
    """All peers of one device. `random` gives numbers in [0, 1), `token` octets that nobody can guess."""

    def __init__(self, random: Callable[[], float], token: Callable[[], bytes]) -> None:
        self.interval_s = 0.0
        """Between two questions to one peer; 0: nobody is asked."""
        self.outcomes: Counter[Outcome] = Counter()
        self._random = random
        self._token = token
        self._pages: dict[Lease, _Peer] = {}
        self._reaches: dict[Lease, Reach] = {}  # of the same leases; apart, for to hash 5,000 leases takes 10 ms
        self._open: dict[int, Ask] = {}  # by sequence number, the oldest first
        self._due: list[tuple[float, int, Lease]] = []  # a heap; an entry whose time is not its page's is void
        self._entries = 0
        self._free_at = 0.0  # when the rate allows the next question
        self._sequence = 0

    def set_interval(self, seconds: float, now: float) -> None:
        """Forget everything, and ask so often from the next follow() on."""
        self.follow((), now)
        self.interval_s = seconds

    def follow(self, leases: Iterable[Lease], now: float) -> None:
        """Ask these from now on. What is known of the others is forgotten."""
        wanted = frozenset(leases) if self.interval_s else frozenset()
        if wanted == self._pages.keys():
            return
        for lease in self._pages.keys() - wanted:
            del self._reaches[lease]
            sequence = self._pages.pop(lease).open
            if sequence is not None:
                del self._open[sequence]
        new = wanted - self._pages.keys()
        period_s = max(self.interval_s, len(wanted) / RATE_S)
        for lease in new:
            due = now + self._random() * period_s
            self._pages[lease] = _Peer(due)
            self._reaches[lease] = Reach()
        self._due = [(page.due, number, lease) for number, (lease, page) in enumerate(self._pages.items())]
        self._entries = len(self._due)
        heapq.heapify(self._due)

    def next_at(self) -> float:
        """When there is something to do: a question, or an end of waiting; infinity where nobody is asked."""
        while self._due and self._is_void(self._due[0]):
            heapq.heappop(self._due)
        ask_at = max(self._due[0][0], self._free_at) if self._due else float("inf")
        return min(ask_at, next((ask.at + TIMEOUT_S for ask in self._open.values()), float("inf")))

    def ask(self, now: float) -> Ask | None:
        """The next question that is due, to be sent now; None where there is none, or the rate allows none."""
        while now >= self._free_at and self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            if self._is_void(entry):
                continue
            lease = entry[2]
            page = self._pages[lease]
            while self._sequence in self._open:
                self._sequence = (self._sequence + 1) % _SEQUENCES
            full = page.misses == 0 and page.small >= FULL_EVERY and self._reaches[lease].state == "reachable"
            ask = Ask(lease, self._sequence, self._token(), full, now)
            self._sequence = (self._sequence + 1) % _SEQUENCES
            self._open[ask.sequence] = ask
            page.open = ask.sequence
            self._free_at = max(self._free_at, now - _CATCH_UP_S) + 1 / RATE_S
            return ask
        return None

    def answer(self, source: Address, sequence: int, payload: bytes, expected_len: int, at: float) -> PeerEvent | None:
        """Take an answer that came at `at`; what it turns. `expected_len` is that of the question it would answer."""
        ask = self._open.get(sequence)
        if (
            ask is None
            or source != ask.lease.subnet.network_address
            or len(payload) != expected_len
            or not compare_digest(payload[: len(ask.token)], ask.token)
        ):
            self.outcomes["stray"] += 1
            return None
        page = self._close(ask)
        self.outcomes["answered"] += 1
        before = reach = self._reaches[ask.lease]
        page.misses = 0
        if ask.full:
            page.small = page.full_misses = 0
            reach = replace(reach, full_mtu="passes", passes=0, cause=None)
        else:
            page.small += 1
            reach = _with_rtt(replace(reach, loss=_noted(page, lost=False)), max(at - ask.at, 0.0))
            if before.state != "reachable":
                reach = replace(reach, state="reachable", since=at, cause=None)
        self._reaches[ask.lease] = reach
        self._again(ask.lease, page, at if not ask.full and page.small >= FULL_EVERY else self._later(ask))
        if before.state == "unreachable":
            return PeerEvent(ask.lease, "back", before)
        return PeerEvent(ask.lease, "mtu_whole", before) if ask.full and before.full_mtu == "hole" else None

    def question(self, sequence: int) -> Ask | None:
        """The open question of this number."""
        return self._open.get(sequence)

    def refuse(self, sequence: int, now: float, quoted: bytes = b"", passes: int = 0) -> PeerEvent | None:
        """The question was not sent, or did not arrive, as an ICMP error says; `passes`: octets that would have.

        `quoted` is how the payload begins, as far as the error tells.
        """
        ask = self._open.get(sequence)
        if ask is None or not ask.token.startswith(quoted[: len(ask.token)]):
            self.outcomes["stray"] += 1
            return None
        self.outcomes["refused"] += 1
        return self._miss(ask, now, passes)

    def expire(self, now: float) -> list[PeerEvent]:
        """Give up waiting for what is overdue; what that turns."""
        overdue = []
        for ask in self._open.values():
            if ask.at + TIMEOUT_S > now:
                break
            overdue.append(ask)
        self.outcomes["lost"] += len(overdue)
        return [news for ask in overdue if (news := self._miss(ask, now, 0)) is not None]

    def explain(self, lease: Lease, reach: Reach) -> None:
        """Keep what an examination found, if the peer is as it was when that began."""
        now = self._reaches.get(lease)
        if now is not None and (now.state, now.since) == (reach.state, reach.since):
            self._reaches[lease] = replace(now, cause=reach.cause)

    def reach(self, lease: Lease) -> Reach:
        """What is known of a peer. Any thread may ask."""
        return self._reaches.get(lease, Reach())

    def all(self) -> dict[Lease, Reach]:
        """What is known of every peer. Any thread may ask."""
        return self._reaches.copy()

    def _miss(self, ask: Ask, now: float, passes: int) -> PeerEvent | None:
        page = self._close(ask)
        before = self._reaches[ask.lease]
        if ask.full:
            page.full_misses += 1
            hole: FullMtu = "hole" if page.full_misses >= MISSES else before.full_mtu
            page.small = 0 if hole == "hole" else FULL_EVERY - 1  # a small one comes first, and tells them apart
            self._reaches[ask.lease] = replace(before, full_mtu=hole, passes=passes or before.passes)
            self._again(ask.lease, page, self._later(ask) if before.full_mtu == "hole" else ask.at + TIMEOUT_S)
            return PeerEvent(ask.lease, "mtu_hole", before) if hole != before.full_mtu else None
        page.misses += 1
        loss = _noted(page, lost=True)
        self._reaches[ask.lease] = replace(before, loss=loss)
        self._again(ask.lease, page, ask.at + TIMEOUT_S if page.misses < MISSES else self._later(ask))
        if page.misses < MISSES or before.state == "unreachable":
            return None
        page.full_misses, page.small = 0, FULL_EVERY
        self._reaches[ask.lease] = Reach("unreachable", since=now, loss=loss)
        return PeerEvent(ask.lease, "unreachable", before)

    def _close(self, ask: Ask) -> _Peer:
        del self._open[ask.sequence]
        page = self._pages[ask.lease]
        page.open = None
        return page

    def _later(self, ask: Ask) -> float:
        period_s = max(self.interval_s, len(self._pages) / RATE_S)
        return ask.at + period_s * (1 - _SPREAD / 2 + _SPREAD * self._random())

    def _again(self, lease: Lease, page: _Peer, due: float) -> None:
        page.due = due
        self._entries += 1
        heapq.heappush(self._due, (due, self._entries, lease))

    def _is_void(self, entry: tuple[float, int, Lease]) -> bool:
        page = self._pages.get(entry[2])
        return page is None or page.open is not None or page.due != entry[0]


def _noted(page: _Peer, *, lost: bool) -> float:
    """Note how a question ended; the loss of the window."""
    page.asked = min(page.asked + 1, WINDOW)
    page.window = (page.window << 1 | lost) & (1 << WINDOW) - 1
    return page.window.bit_count() / page.asked


def _with_rtt(reach: Reach, rtt_s: float) -> Reach:
    """With one more round-trip time."""
    if reach.min_s is None or reach.smoothed_s is None:
        return replace(reach, rtt_s=rtt_s, min_s=rtt_s, smoothed_s=rtt_s)
    smoothed_s = reach.smoothed_s + _GAIN * (rtt_s - reach.smoothed_s)
    return replace(reach, rtt_s=rtt_s, min_s=min(reach.min_s, rtt_s), smoothed_s=smoothed_s)
