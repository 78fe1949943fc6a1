"""The schedule of pings, and conclusions from replies and silence. Pure: `now` is an argument, in monotonic seconds.

Each peer is pinged once in an interval, at random times so that nodes do not send in bursts. A peer is a lease, so a
node with two IP versions is pinged in both. All peers together get at most RATE_S pings a second; with more peers a
round takes longer than the interval. Each peer has at most one open probe. A reply counts if it has the sequence number
and the token of an open probe, comes from the pinged address, and returns all bytes. Others are counted and ignored.

After a missing reply the peer is pinged again as soon as TIMEOUT_S has passed, and MISSES in a row make it unreachable.
One reply makes it reachable. After every FULL_EVERY replies follows a probe of the whole overlay MTU, which shows
whether such packets pass. MISSES of these in a row, with replies to small ones in between, are an MTU hole.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Literal, TypeAlias

from vxland.model.lease import Address, Lease
from vxland.probes.reach import UNKNOWN, FullMtu, Reach

RATE_S = 100.0
TIMEOUT_S = 2.0
MISSES = 3
FULL_EVERY = 6
WINDOW = 20
"""Number of probes over which the loss is computed."""

_SPREAD = 0.2  # the pause is drawn at random; longest and shortest differ by this part of the interval
_GAIN = 1 / 8  # of a new round-trip time in the smoothed one: RFC 6298 section 2
_CATCH_UP_S = 0.1  # probes that a late event loop has missed are made up for this long
_SEQUENCES = 1 << 16
_VOID_MOST = 64  # entries of removed peers that remain in the heap, beside one for each peer

Outcome: TypeAlias = Literal["answered", "lost", "refused", "stray"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "lost", "refused", "stray")

Transition: TypeAlias = Literal["unreachable", "back", "mtu_hole", "mtu_whole"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One ping of the lease's base address, of full size or small."""

    lease: Lease
    sequence: int
    token: bytes
    full: bool
    at: float


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A change of a peer's state; `before` is the former state."""

    lease: Lease
    transition: Transition
    before: Reach


@dataclass(slots=True)
class _Peer:
    """Probes of one peer: when the next is due, and the results of the last ones."""

    due: float
    window: int = 0  # the last probes, one bit each, 1 if there was no reply
    counted: int = 0  # the number of these, WINDOW at most
    misses: int = 0
    full_misses: int = 0
    small_replies: int = FULL_EVERY  # since the last full probe; the first one is followed by a full probe
    open_sequence: int | None = None  # of the open probe


class Schedule:
    """The peers of one device. `random` returns numbers in [0, 1), `token` unpredictable bytes."""

    def __init__(self, random: Callable[[], float], token: Callable[[], bytes]) -> None:
        self.interval_s = 0.0
        """Time between two probes of one peer; 0: no probes."""
        self.outcomes: Counter[Outcome] = Counter()
        self._random = random
        self._token = token
        self._peers: dict[Lease, _Peer] = {}
        self._reaches: dict[Lease, Reach] = {}  # of the same leases; apart, since hashing 5,000 leases takes 10 ms
        self._open: dict[int, Probe] = {}  # by sequence number, the oldest first
        self._due: list[tuple[float, int, Lease]] = []  # a heap; an entry whose time is not its peer's is void
        self._entries = 0
        self._free_at = 0.0  # when the rate allows the next probe
        self._sequence = 0

    def set_interval(self, seconds: float) -> None:
        """Forget all peers, and use this interval for those that are added from now on."""
        self.clear()
        self.interval_s = seconds

    def clear(self) -> None:
        """Forget all peers."""
        for state in (self._peers, self._reaches, self._open, self._due):
            state.clear()

    def follow(self, now: float, *, removed: Iterable[Lease] = (), added: Iterable[Lease] = ()) -> None:
        """Probe the added peers too, and forget the removed ones. An unknown one to remove has no effect."""
        for lease in removed:
            peer = self._peers.pop(lease, None)
            if peer is None:
                continue
            del self._reaches[lease]
            if peer.open_sequence is not None:
                del self._open[peer.open_sequence]
        for lease in added if self.interval_s else ():
            if lease not in self._peers:
                self._peers[lease], self._reaches[lease] = _Peer(now), UNKNOWN
                period_s = max(self.interval_s, len(self._peers) / RATE_S)
                self._set_due(lease, self._peers[lease], now + self._random() * period_s)
        if len(self._due) > _VOID_MOST + 2 * len(self._peers):
            self._due = [entry for entry in self._due if not self._is_void(entry)]
            heapq.heapify(self._due)

    def next_at(self) -> float:
        """Return when the next probe or timeout is due; infinity without peers."""
        while self._due and self._is_void(self._due[0]):
            heapq.heappop(self._due)
        probe_at = max(self._due[0][0], self._free_at) if self._due else float("inf")
        return min(probe_at, next((probe.at + TIMEOUT_S for probe in self._open.values()), float("inf")))

    def next_probe(self, now: float) -> Probe | None:
        """Return the next probe to send now; None if none is due, or the rate allows none."""
        while now >= self._free_at and self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            if self._is_void(entry):
                continue
            lease = entry[2]
            peer = self._peers[lease]
            while self._sequence in self._open:
                self._sequence = (self._sequence + 1) % _SEQUENCES
            full = peer.misses == 0 and peer.small_replies >= FULL_EVERY and self._reaches[lease].state == "reachable"
            probe = Probe(lease, self._sequence, self._token(), full, now)
            self._sequence = (self._sequence + 1) % _SEQUENCES
            self._open[probe.sequence] = probe
            peer.open_sequence = probe.sequence
            self._free_at = max(self._free_at, now - _CATCH_UP_S) + 1 / RATE_S
            return probe
        return None

    def take_reply(
        self, source: Address, sequence: int, payload: bytes, expected_len: int, at: float
    ) -> PeerEvent | None:
        """Take a reply that arrived at `at`; return the change that it makes. `expected_len` is the probe's length."""
        probe = self._open.get(sequence)
        if (
            probe is None
            or source != probe.lease.subnet.network_address
            or len(payload) != expected_len
            or not compare_digest(payload[: len(probe.token)], probe.token)
        ):
            self.outcomes["stray"] += 1
            return None
        peer = self._close(probe)
        self.outcomes["answered"] += 1
        before = reach = self._reaches[probe.lease]
        peer.misses = 0
        if probe.full:
            peer.small_replies = peer.full_misses = 0
            reach = replace(reach, full_mtu="passes", passes=0, cause=None)
        else:
            peer.small_replies += 1
            reach = _with_rtt(replace(reach, loss=_count(peer, lost=False)), max(at - probe.at, 0.0))
            if before.state != "reachable":
                reach = replace(reach, state="reachable", since=at, cause=None)
        self._reaches[probe.lease] = reach
        self._set_due(
            probe.lease, peer, at if not probe.full and peer.small_replies >= FULL_EVERY else self._next_due(probe)
        )
        if before.state == "unreachable":
            return PeerEvent(probe.lease, "back", before)
        return PeerEvent(probe.lease, "mtu_whole", before) if probe.full and before.full_mtu == "hole" else None

    def open_probe(self, sequence: int) -> Probe | None:
        """Return the open probe with this sequence number."""
        return self._open.get(sequence)

    def take_error(self, sequence: int, now: float, quoted: bytes = b"", passes: int = 0) -> PeerEvent | None:
        """Take an error: the probe was not sent, or an ICMP error says that it did not arrive.

        `quoted` is the beginning of the payload that the error quotes, `passes` the size in bytes that would arrive.
        """
        probe = self._open.get(sequence)
        if probe is None or not probe.token.startswith(quoted[: len(probe.token)]):
            self.outcomes["stray"] += 1
            return None
        self.outcomes["refused"] += 1
        return self._miss(probe, now, passes)

    def expire(self, now: float) -> list[PeerEvent]:
        """Close overdue probes; return the changes that they make."""
        overdue = []
        for probe in self._open.values():
            if probe.at + TIMEOUT_S > now:
                break
            overdue.append(probe)
        self.outcomes["lost"] += len(overdue)
        return [event for probe in overdue if (event := self._miss(probe, now, 0)) is not None]

    def set_cause(self, lease: Lease, reach: Reach) -> None:
        """Set the cause of `reach`, unless the peer's state has changed since."""
        now = self._reaches.get(lease)
        if now is not None and (now.state, now.since) == (reach.state, reach.since):
            self._reaches[lease] = replace(now, cause=reach.cause)

    def reach(self, lease: Lease) -> Reach:
        """Return the state of a peer. Any thread may call it."""
        return self._reaches.get(lease, UNKNOWN)

    def reaches(self) -> dict[Lease, Reach]:
        """Return the state of every peer. Any thread may call it."""
        return self._reaches.copy()

    def _miss(self, probe: Probe, now: float, passes: int) -> PeerEvent | None:
        peer = self._close(probe)
        before = self._reaches[probe.lease]
        if probe.full:
            peer.full_misses += 1
            hole: FullMtu = "hole" if peer.full_misses >= MISSES else before.full_mtu
            peer.small_replies = 0 if hole == "hole" else FULL_EVERY - 1  # a small probe first, to separate causes
            self._reaches[probe.lease] = replace(before, full_mtu=hole, passes=passes or before.passes)
            self._set_due(
                probe.lease, peer, self._next_due(probe) if before.full_mtu == "hole" else probe.at + TIMEOUT_S
            )
            return PeerEvent(probe.lease, "mtu_hole", before) if hole != before.full_mtu else None
        peer.misses += 1
        loss = _count(peer, lost=True)
        self._reaches[probe.lease] = replace(before, loss=loss)
        self._set_due(probe.lease, peer, probe.at + TIMEOUT_S if peer.misses < MISSES else self._next_due(probe))
        if peer.misses < MISSES or before.state == "unreachable":
            return None
        peer.full_misses, peer.small_replies = 0, FULL_EVERY
        self._reaches[probe.lease] = Reach("unreachable", since=now, loss=loss)
        return PeerEvent(probe.lease, "unreachable", before)

    def _close(self, probe: Probe) -> _Peer:
        del self._open[probe.sequence]
        peer = self._peers[probe.lease]
        peer.open_sequence = None
        return peer

    def _next_due(self, probe: Probe) -> float:
        period_s = max(self.interval_s, len(self._peers) / RATE_S)
        return probe.at + period_s * (1 - _SPREAD / 2 + _SPREAD * self._random())

    def _set_due(self, lease: Lease, peer: _Peer, due: float) -> None:
        peer.due = due
        self._entries += 1
        heapq.heappush(self._due, (due, self._entries, lease))

    def _is_void(self, entry: tuple[float, int, Lease]) -> bool:
        peer = self._peers.get(entry[2])
        return peer is None or peer.open_sequence is not None or peer.due != entry[0]


def _count(peer: _Peer, *, lost: bool) -> float:
    """Count the outcome of a probe; return the loss over the window."""
    peer.counted = min(peer.counted + 1, WINDOW)
    peer.window = (peer.window << 1 | lost) & (1 << WINDOW) - 1
    return peer.window.bit_count() / peer.counted


def _with_rtt(reach: Reach, rtt_s: float) -> Reach:
    """Add a round-trip time."""
    if reach.min_s is None or reach.smoothed_s is None:
        return replace(reach, rtt_s=rtt_s, min_s=rtt_s, smoothed_s=rtt_s)
    smoothed_s = reach.smoothed_s + _GAIN * (rtt_s - reach.smoothed_s)
    return replace(reach, rtt_s=rtt_s, min_s=min(reach.min_s, rtt_s), smoothed_s=smoothed_s)
