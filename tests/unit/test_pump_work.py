"""What one wake-up may cost: bounded in datagrams, whatever each frame or buffer of it comes to."""

from __future__ import annotations

from tests.fabric import Lone, run, send_train, wait_readable
from tests.frames import PLAIN, ping, vxlan
from tests.stream import TCP4, UDP4, numbered

WORK = 4096
"""Datagrams after which a wake-up ends."""
FINE = 128
"""Segments of any size that a superframe may be cut into."""


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
    assert counters.frames == 60 * FINE


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
