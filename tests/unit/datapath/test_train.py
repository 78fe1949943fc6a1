"""Trains: the datagrams that may travel together, and their ranges."""

from __future__ import annotations

import pytest

from vxland.datapath.train import Gather, Train

VTEP, ECN, PORT, SIZE = 3, 2, 5, 1000


def train_of(*lengths: int, max_datagrams: int = 128) -> Train:
    """A train of datagrams of such lengths, the first of them its size."""
    train = Train(max_datagrams)
    train.begin(VTEP, ECN, PORT, lengths[0])
    for i, length in enumerate(lengths):
        train.add(i * 2000, length)
    return train


def test_ranges_are_kept_in_order() -> None:
    """And their bytes counted; cleared, none is left."""
    gather = Gather()
    for at, length in ((500, 10), (0, 1), (700, 300)):
        gather.add(at, length)
    assert (gather.count, gather.nbytes) == (3, 311)
    assert list(gather.at)[:3] == [500, 0, 700]
    assert list(gather.length)[:3] == [10, 1, 300]
    gather.clear()
    assert (gather.count, gather.nbytes) == (0, 0)


def test_a_datagram_like_the_others_may_follow() -> None:
    """Same VTEP, ECN field, port and size."""
    assert train_of(SIZE, SIZE).takes(VTEP, ECN, PORT, SIZE)


@pytest.mark.parametrize(("vtep", "ecn", "port"), [(VTEP + 1, ECN, PORT), (VTEP, ECN + 1, PORT), (VTEP, ECN, PORT + 1)])
def test_another_destination_ecn_or_port_may_not(vtep: int, ecn: int, port: int) -> None:
    """One sendmsg has one of each."""
    assert not train_of(SIZE).takes(vtep, ecn, port, SIZE)


def test_a_longer_datagram_may_not() -> None:
    """Not by a single byte: UDP_SEGMENT would cut it."""
    assert not train_of(SIZE).takes(VTEP, ECN, PORT, SIZE + 1)


def test_a_shorter_datagram_is_the_last() -> None:
    """It may follow, and nothing behind it, for the cut would fall elsewhere."""
    train = train_of(SIZE, SIZE)
    assert train.takes(VTEP, ECN, PORT, SIZE - 1)
    train.add(9000, SIZE - 1)
    assert train.ended
    for length in (SIZE, SIZE - 1, 1):
        assert not train.takes(VTEP, ECN, PORT, length)


def test_an_empty_train_takes_nothing() -> None:
    """It has to begin first, with what it is for."""
    assert not Train(128).takes(0, 0, 0, 100)
    train = train_of(SIZE)
    train.clear()
    assert not train.takes(VTEP, ECN, PORT, SIZE)


@pytest.mark.parametrize("most", [1, 2, 64, 128])
def test_it_has_no_more_datagrams_than_the_kernel_takes(most: int) -> None:
    """1 where there is no UDP_SEGMENT: nothing ever follows."""
    train = Train(most)
    train.begin(VTEP, ECN, PORT, 10)
    for i in range(most):
        assert train.has_room(10)
        train.add(i * 10, 10)
    assert not train.takes(VTEP, ECN, PORT, 10)
    assert train.datagrams == most


@pytest.mark.parametrize(("size", "count"), [(1458, 44), (65_507, 1), (32_753, 2), (32_754, 1)])
def test_it_has_no_more_bytes_than_a_datagram(size: int, count: int) -> None:
    """65,507, which IPv4 has room for; the last one that fits exactly does."""
    train = Train(128)
    train.begin(VTEP, ECN, PORT, size)
    while train.has_room(size):
        train.add(0, size)
    assert train.datagrams == count
    room = 65_507 - count * size
    assert not train.has_room(room + 1)
    assert room == 0 or train.has_room(room)


def test_a_datagram_of_two_ranges_is_one() -> None:
    """Headers from scratch and payload from the superframe."""
    train = Train(128)
    train.begin(VTEP, ECN, PORT, 100)
    train.ranges.add(5000, 60)
    train.ranges.add(0, 40)
    train.note(100)
    assert (train.datagrams, train.ranges.count, train.ranges.nbytes, train.ended) == (1, 2, 100, False)


def test_beginning_again_forgets_everything() -> None:
    """Datagrams, size, and that the last train had ended."""
    train = train_of(SIZE, 10)
    train.begin(VTEP + 1, 0, 0, 50)
    assert (train.datagrams, train.ranges.count, train.ended) == (0, 0, False)
    assert (train.vtep, train.marks, train.port, train.size) == (VTEP + 1, 0, 0, 50)


def test_ranges_for_the_longest_train() -> None:
    """128 datagrams of two ranges each fit."""
    train = Train(128)
    train.begin(VTEP, ECN, PORT, 100)
    for i in range(128):
        train.ranges.add(i, 60)
        train.ranges.add(1000 + i, 40)
        train.note(100)
    assert train.ranges.count == 256
    assert list(train.ranges.at)[254:256] == [127, 1127]
