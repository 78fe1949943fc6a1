"""Cost of a wake-up, system calls included: `make microbench`. The TAP is a socket pair, the underlay loopback.

Compare the minimum: other processes may interrupt the measured system calls.
"""

from __future__ import annotations

import socket

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.fabric import HERE, UDP_GRO, lone_node, send_train, wait_readable
from tests.frames import MAC_B, OWN_MAC, PLAIN, POD_A, POD_B, UDP, frame_of, packet_of, udp, udp_frame, vxlan
from tests.stream import TCP4, reverse
from vxland.forwarding.pump import COMPILED

pytestmark = pytest.mark.bench

FRAMES = 64
ROUNDS = 400
PIECE_LEN = 1398
SUPER = bytes(46 * PIECE_LEN)


def empty(*socks: socket.socket) -> None:
    """Take what lies in sockets."""
    for sock in socks:
        try:
            while True:
                sock.recv(1 << 17)
        except BlockingIOError:
            pass


@pytest.mark.parametrize("what", ["small", "superframe"])
def test_encap_burst(benchmark: BenchmarkFixture, what: str) -> None:
    """64 small UDP frames of one flow; one TCP superframe of 46 segments."""
    small = [(PLAIN, udp_frame(POD_A, POD_B))] * FRAMES
    frames = small if what == "small" or not COMPILED else [(TCP4.virtio(PIECE_LEN), TCP4.superframe(SUPER))]
    with lone_node() as (node, peer):
        peer.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)

        def fill() -> None:
            empty(peer)
            for virtio, frame in frames:
                node.put(frame, virtio)

        benchmark.pedantic(node.pump.on_tap_readable, setup=fill, rounds=ROUNDS)
        assert node.pump.encap_counters.frames >= ROUNDS


@pytest.mark.parametrize("what", ["small", "train"])
def test_decap_burst(benchmark: BenchmarkFixture, what: str) -> None:
    """64 small UDP frames, a datagram each; one buffer of 46 TCP segments that become a superframe."""
    small = frame_of(packet_of(POD_B, POD_A, UDP, udp(POD_B, POD_A, bytes(64))), OWN_MAC, MAC_B)
    trains = [[vxlan(small)]] * FRAMES
    if what == "train":
        trains = [[vxlan(frame) for frame in reverse(TCP4).segments(SUPER[: 44 * PIECE_LEN], PIECE_LEN)]]
    with lone_node() as (node, peer):
        node.tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

        def fill() -> None:
            empty(node.host)
            for train in trains:
                send_train(peer, train, (HERE, node.udp.port))
            wait_readable(node.udp.receiver)

        benchmark.pedantic(node.pump.on_udp_readable, setup=fill, rounds=ROUNDS)
        assert node.pump.decap_counters.frames >= ROUNDS
