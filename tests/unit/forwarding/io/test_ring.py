"""The ring of records: whole, in order, the newest kept, and no torn one shown to a reader."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.forwarding.io.ring import Ring
from vxland.forwarding.pump import COMPILED
from vxland.inspect.records import FrameRecord, parse

LENGTH = 1024


def put(ring: Ring, frame: bytes, cut: int = 0) -> None:
    """Write a record of a frame, in two pieces."""
    buf = bytearray(8) + frame
    ring.start(len(frame), 0, 0, 0, 0, 0, 0, 0)
    ring.add(buf, 8, cut)
    ring.add(buf, 8 + cut, len(frame) - cut)
    ring.finish()


def frame_of(number: int, length: int) -> bytes:
    """Return bytes that identify their frame."""
    return bytes([number & 0xFF]) * length


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=60), st.integers(0, 60))
def test_a_reader_gets_the_newest_whole(lengths: list[tuple[int, int]], read_at: int) -> None:
    """Whatever the lengths: records come once, in order, cut at the snaplen, and the last ones are all there."""
    ring, cursor = Ring(LENGTH, 200), 0
    found: list[FrameRecord] = []
    for number, (length, cut) in enumerate(lengths):
        if number == read_at:
            raw, cursor = ring.read(cursor)
            found += parse(raw)
        put(ring, frame_of(number, length), min(cut, length))
    raw, cursor = ring.read(cursor)
    found += parse(raw)
    assert [record.frame for record in found] == [
        frame_of(record.number, min(lengths[record.number][0], 200)) for record in found
    ]
    assert [record.length for record in found] == [lengths[record.number][0] for record in found]
    assert all(a.number < b.number and a.time_ns <= b.time_ns for a, b in pairwise(found))
    recent = 0
    for length, _ in reversed(lengths[read_at:] if read_at < len(lengths) else lengths):
        recent += 56 + min(length, 200) + 7 & ~7
        if recent > LENGTH - 2 * 264:  # a filler and the record that did not fit may have pushed it out
            break
        assert found[-1].number == len(lengths) - 1
    assert ring.read(cursor) == (b"", cursor)


def test_a_mark_is_no_later_than_what_comes_after_it() -> None:
    """A record under way, and what is being sent, hold the mark back until readers can see them."""
    ring, far = Ring(LENGTH, 64), 2**62
    assert ring.mark(far) == far
    put(ring, frame_of(0, 64))
    assert ring.mark(far) == far
    ring.hold()
    held = ring.mark(far)
    assert ring.mark(held - 1) == held - 1
    for number in (1, 2):
        put(ring, frame_of(number, 64))
        assert ring.mark(far) == held
    ring.release()
    assert ring.mark(far) == far
    ring.start(8, 0, 0, 0, 0, 0, 0, 0)
    under_way = ring.mark(far)
    ring.add(bytearray(8), 0, 8)
    ring.finish()
    assert ring.mark(far) == far
    times = [record.time_ns for record in parse(ring.read(0)[0])]
    assert times[0] <= held <= times[1] == times[2] <= under_way <= times[3]


def test_two_readers_do_not_disturb_each_other() -> None:
    """Each has a cursor of its own; one that fell behind sees by the numbers what it lost."""
    ring = Ring(LENGTH, 64)
    fast, slow = 0, 0
    seen: list[int] = []
    for number in range(100):
        put(ring, frame_of(number, 64))
        raw, fast = ring.read(fast)
        seen += [record.number for record in parse(raw)]
    raw, slow = ring.read(slow)
    late = [record.number for record in parse(raw)]
    assert seen == list(range(100))
    assert late == list(range(100 - len(late), 100))
    assert LENGTH // 120 - 1 <= len(late) <= LENGTH // 120


@pytest.mark.skipif(COMPILED, reason="only the interpreted gear's reader can be held up where a test wants it")
@pytest.mark.parametrize("fences", [1, 2, 3])
@pytest.mark.parametrize("written", [1, 5, 100])
def test_the_newest_is_not_lost_on_a_reader_that_is_held_up(
    monkeypatch: pytest.MonkeyPatch, fences: int, written: int
) -> None:
    """Wherever the writer goes on in between: the next look has the rest, to the last one."""
    ring = Ring(LENGTH, 64)
    for number in range(20):
        put(ring, frame_of(number, 64))
    passed = []

    def fence() -> None:
        passed.append(True)
        if len(passed) == fences:
            for number in range(20, 20 + written):
                put(ring, frame_of(number, 64))

    with monkeypatch.context() as patch:
        patch.setattr("vxland.forwarding.io.ring.fence", fence)
        raw, cursor = ring.read(0)
    numbers = [record.number for record in parse(raw)]
    numbers += [record.number for record in parse(ring.read(cursor)[0])]
    assert numbers[-1] == 19 + written
    assert numbers == sorted(set(numbers))


def test_nothing_torn_is_read_while_it_is_written() -> None:
    """A thread that reads all the time while another one overwrites: every record is one frame's bytes."""
    ring, ended = Ring(4096, 512), threading.Event()

    def write() -> None:
        for number in range(20_000):
            put(ring, frame_of(number, 100 + number % 400))
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    cursor, last = 0, -1
    while True:
        over = ended.is_set()
        raw, cursor = ring.read(cursor)
        for record in parse(raw):
            assert record.frame == frame_of(record.number, 100 + record.number % 400)
            assert record.number > last
            last = record.number
        if over:
            break
    writer.join()
    assert last == 19_999
