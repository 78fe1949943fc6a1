"""The bound on one wake-up: a number of datagrams, however many come from one frame or buffer."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import cycle

from tests.fabric import Lone, run, send_train, wait_readable
from tests.frames import PLAIN, ping, vxlan
from tests.patience import PATIENCE_S
from tests.stream import TCP4, UDP4, numbered

WORK = 4096
"""Datagrams after which a wake-up ends."""
FINE = 128
"""Segments of any size that a superframe may be cut into."""
LEAST = 36
"""Bytes of each where there are more."""


def test_a_wakeup_ends_after_so_many_datagrams(offloading: Lone) -> None:
    """64 superframes of a pod with a packet socket came to four million, and the node stood still meanwhile."""
    node, _ = offloading
    for _ in range(60):
        node.put(UDP4.superframe(numbered(FINE)), UDP4.virtio(1))
    counters = node.pump.encap_counters
    node.pump.on_tap_readable()
    assert counters.reads < 60
    assert counters.frames == counters.reads * FINE <= WORK + FINE
    run([node], lambda: counters.reads == 60)
    assert counters.frames == 60 * FINE  # no more segments than any stack sends, so none is turned away


def test_a_refused_superframe_costs_a_wakeup_no_more_than_a_frame(offloading: Lone) -> None:
    """So the queue that all pods share is drained as fast as the attacker fills it."""
    node, peer = offloading
    for _ in range(30):
        node.put(TCP4.superframe(numbered(3000)), TCP4.virtio(1))
    node.put(ping(7), PLAIN)
    node.pump.on_tap_readable()
    wait_readable(peer)
    assert peer.recv(1 << 16) == vxlan(ping(7))
    counters = node.pump.encap_counters
    assert (counters.wakeups, counters.reads, counters.frames, counters.superframes) == (1, 31, 1, 0)
    assert counters.by_reason()["inner_malformed"] == 30


def test_small_segments_give_way_while_the_queue_does_not_run_empty(offloading: Lone) -> None:
    """One pod's superframes of 1,667 segments kept the queue full, and none of its neighbour's pings came through.

    Frames of other kinds pass meanwhile, and so do the superframes again once the queue has run empty.
    """
    node, _ = offloading
    counters = node.pump.encap_counters
    many = FINE + 1
    superframe = UDP4.superframe(numbered(many * LEAST)), UDP4.virtio(LEAST)
    frames = cycle([superframe, *[(ping(), PLAIN)] * 40])  # so that the queue holds more than one wake-up takes
    plain = superframes = 0
    deadline = time.monotonic() + PATIENCE_S
    while not counters.by_reason()["overload"]:
        assert time.monotonic() < deadline
        with suppress(BlockingIOError):
            for frame, virtio in frames:
                node.put(frame, virtio)
                plain += virtio == PLAIN
                superframes += virtio != PLAIN
        node.pump.on_tap_readable()
    run([node], lambda: counters.reads == plain + superframes)
    node.pump.on_tap_readable()
    dropped = counters.by_reason()["overload"]
    assert counters.frames == plain + many * (superframes - dropped)
    node.put(*superframe)
    node.pump.on_tap_readable()
    assert counters.by_reason()["overload"] == dropped
    assert counters.frames == plain + many * (superframes + 1 - dropped)


def test_a_wakeup_ends_after_so_many_received(offloading: Lone) -> None:
    """A hostile neighbour's trains of one byte each are dropped one by one, and the other direction has its turn."""
    node, peer = offloading
    most = node.udp.max_datagrams
    for _ in range(60):
        send_train(peer, [b"x"] * most, (str(node.udp.address), node.udp.port))
    counters = node.pump.decap_counters
    node.pump.on_udp_readable()
    assert counters.by_reason()["too_short"] <= WORK
    run([node], lambda: counters.by_reason()["too_short"] == 60 * most)
