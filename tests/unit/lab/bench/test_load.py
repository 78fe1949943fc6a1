"""The load generator's arithmetic, and its loops over loopback sockets."""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from socket import INADDR_LOOPBACK

import pytest

from vxland.datapath.table import table_of
from vxland.lab.bench import loops, scale
from vxland.lab.bench.load import Packets, search

ENDLESS = 60.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected datagram sockets, whose reads time out after 50 ms."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
        yield ours, theirs


def test_packets() -> None:
    """The rate counts packets within the window, the loss those never received."""
    found = Packets(sent=1000, in_time=800, received=900, seconds=2.0)
    assert found.pps == 400
    assert found.loss == pytest.approx(0.1)
    assert Packets(0, 0, 0, 1.0).loss == 1.0


def test_search_closes_in() -> None:
    """Seven halvings of a range of 32 end at most 3 % below the edge."""
    edge = 47_000
    found = search(lambda rate: rate < edge, 5_000, 160_000, 7)
    assert edge * 0.97 < found < edge


def test_search_without_success_returns_the_bottom() -> None:
    """The bottom was never tried, so the caller must know whether any number was good."""
    assert search(lambda _rate: False, 5.0, 160.0, 7) == 5.0


def test_every_sent_packet_is_counted(pair: tuple[socket.socket, socket.socket]) -> None:
    """A flood over a lossless socket: sender and receiver agree."""
    ours, theirs = pair
    tally = array("q", [0, 0])
    with ThreadPoolExecutor(1) as thread:
        counting = thread.submit(loops.count, theirs.fileno(), 64, 0.1, tally)
        sent = loops.flood(ours.fileno(), 64, 0, 0.1)
        counting.result(ENDLESS)
    assert sent == tally[1] > 0
    assert tally[0] <= tally[1]


def test_a_rate_is_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    """At most the requested rate, and a good part of it on any machine."""
    ours, theirs = pair
    with ThreadPoolExecutor(1) as thread:
        counting = thread.submit(loops.count, theirs.fileno(), 64, 0.2, array("q", [0, 0]))
        sent = loops.flood(ours.fileno(), 64, 1000, 0.2)
        counting.result(ENDLESS)
    assert 50 < sent <= 201


def test_each_request_has_its_time(pair: tuple[socket.socket, socket.socket]) -> None:
    """ask() stops when its samples are full or its time is over, echo() when the other end closes."""
    ours, theirs = pair
    samples = array("q", [0] * 10)
    with ThreadPoolExecutor(1) as thread:
        echoing = thread.submit(loops.echo, theirs.fileno(), 64)
        assert loops.ask(ours.fileno(), 64, ENDLESS, samples) == 10
        ours.shutdown(socket.SHUT_RDWR)
        echoing.result(ENDLESS)
    assert min(samples) > 0


def test_each_connection_has_its_time() -> None:
    """connect() carries a byte there and back on each; accept() stops when the listener is shut down."""
    samples = array("q", [0] * 10)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        answering = thread.submit(loops.accept, listener.fileno())
        assert loops.connect(INADDR_LOOPBACK, listener.getsockname()[1], ENDLESS, samples) == 10
        listener.shutdown(socket.SHUT_RDWR)
        answering.result(ENDLESS)
        assert loops.connect(INADDR_LOOPBACK, listener.getsockname()[1], ENDLESS, samples) == 0
    assert min(samples) > 0


def test_leases_are_distinct() -> None:
    """As many subnets and VTEPs as leases; a table finds each."""
    leases = [lease for lease, _ in zip(scale.leases(), range(1000), strict=False)]
    assert len({lease.subnet for lease in leases}) == len({lease.vtep for lease in leases}) == 1000
    table = table_of(leases, 8472)
    assert all(table.lookup(lease.subnet[9]) == lease.vtep for lease in leases)
