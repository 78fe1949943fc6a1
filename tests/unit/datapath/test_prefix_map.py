"""Prefix maps: pages that split, records that move up, drafts that share pages, seeds that were bad luck."""

from __future__ import annotations

from random import Random

import pytest

from vxland.datapath.prefix_map import PrefixMap

NONE = -1
PAGE, FULL = 64, 32
"""Records of a page, and those that may be in use."""


def filled(bits: int, keys: range) -> PrefixMap:
    """Return a map of whole keys, each with its number as its value."""
    found = PrefixMap(bits)
    for value, key in enumerate(keys):
        found.put(0, key, bits, value)
    return found


@pytest.mark.parametrize("bits", [32, 48, 128])
@pytest.mark.parametrize("count", [1, FULL - 1, FULL, FULL + 1, PAGE, 2000])
def test_a_map_of_any_size_finds_its_own_and_ends_for_others(bits: int, count: int) -> None:
    """Half of a page at most is in use: a probe for what is not there meets a free record."""
    found = filled(bits, range(7, 7 + count))
    assert [found.lookup(0, key) for key in range(count + 50)] == [*[NONE] * 7, *range(count), *[NONE] * 43]
    assert len(found) == count


@pytest.mark.parametrize("bits", [32, 48, 128])
def test_records_move_up_when_one_goes(bits: int) -> None:
    """In any order; what was placed behind it is still found."""
    keys = list(range(500))
    found = filled(bits, range(500))
    Random(bits).shuffle(keys)  # noqa: S311  (an order)
    while keys:
        gone = keys.pop()
        found.drop(0, gone, bits)
        found.drop(0, gone, bits)
        assert found.lookup(0, gone) == NONE
        if len(keys) % 50 == 0 or len(keys) < 50:
            assert [found.lookup(0, key) for key in keys] == keys
    assert (len(found), found.lengths) == (0, 0)


@pytest.mark.parametrize("bits", [32, 128])
def test_a_value_can_be_replaced(bits: int) -> None:
    """The number of keys stays."""
    found = filled(bits, range(100))
    for key in range(100):
        found.put(0, key, bits, 1000 + key)
    assert ([found.lookup(0, key) for key in range(100)], len(found)) == (list(range(1000, 1100)), 100)


def test_prefixes_of_one_address_differ_by_length() -> None:
    """All lengths are in one hash table; those in use come and go."""
    found = PrefixMap(128)
    for length in range(129):
        found.put(0, 0, length, length)
    assert found.lookup(0, 0) == 128
    assert [found.lookup(0, 1 << i) for i in range(64)] == [127 - i for i in range(64)]
    assert [found.lookup(1 << i, 5) for i in range(64)] == [63 - i for i in range(64)]
    for length in range(128, 0, -1):
        found.drop(0, 0, length)
        assert found.lookup(0, 0) == length - 1
    assert found.lengths == 1


def test_a_draft_leaves_the_map_as_it_was() -> None:
    """Pages are copied at the first edit of each draft, also once the arena is full and the draft has left it."""
    first = filled(48, range(300))
    maps = [first]
    for step in range(200):
        draft = maps[-1].copy()
        draft.put(0, 1000 + step, 48, step)
        draft.put(0, step, 48, 5000 + step)
        draft.drop(0, 299 - step, 48)
        maps.append(draft)
    assert [first.lookup(0, key) for key in range(300)] == list(range(300))
    assert (first.lookup(0, 1000), len(first)) == (NONE, 300)
    middle = maps[100]
    assert [middle.lookup(0, 1000 + step) for step in range(101)] == [*range(100), NONE]
    assert [middle.lookup(0, key) for key in (0, 99, 100, 199, 200, 299)] == [5000, 5099, 100, 199, NONE, NONE]


def test_two_drafts_of_one_map_do_not_meet() -> None:
    """A draft that is given up leaves nothing behind in the next."""
    first = filled(32, range(100))
    one, other = first.copy(), first.copy()
    for key in range(100, 400):
        one.put(0, key, 32, key)
        other.put(0, key + 1000, 32, key)
    assert [one.lookup(0, key) for key in range(400)] == list(range(400))
    assert [other.lookup(0, key) for key in (99, 100, 399, 1100, 1399)] == [99, NONE, NONE, 100, 399]


@pytest.mark.parametrize("bits", [32, 48, 128])
def test_a_map_takes_other_seeds_when_its_hashes_are_alike(bits: int) -> None:
    """With seeds of zero all keys share one page; nothing grows without limit."""
    numbers = Random(5)  # noqa: S311  (a test's seeds)
    drawn = 0

    def random_bits(count: int) -> int:
        nonlocal drawn
        drawn += 1
        return 0 if drawn <= 6 else numbers.getrandbits(count)

    found = PrefixMap(bits, random_bits)
    for key in range(200):
        found.put(0, key, bits, key)
    assert drawn == 12
    assert [found.lookup(0, key) for key in range(201)] == [*range(200), NONE]
