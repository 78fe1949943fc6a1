"""Longest-prefix match on keys of at most 128 bits. A new map is made from the last one in time of what changes.

Theory of operation. A key is two 64-bit halves, high and low; IPv4 addresses and MACs fill the low end of the low half.
A record has a prefix, its length and a value. All lengths are in one hash table, which a lookup probes for each length
in use, longest first (flannel clusters use one or two), whatever the number of keys.

The hash table is extendible (Fagin and others, Extendible Hashing, 1979). The high bits of a hash select a page of PAGE
records in a directory, and the low bits select the record where probing in that page starts. A page of more than FULL
records is split into two, and the directory is doubled when it has but one entry for a page to split. So there is never
a time when all keys are hashed again, and at least half of a page is free: most lookups take one or two probes.

A published map is never changed: readers use it without locks. copy() makes a draft, which shares all pages with the
map. The draft's first edit of a page copies that page to the end of the arena, which both share. An arena that is full
is left to the maps that use it, and the draft's pages move to another. The garbage collector frees what no map uses.

A record is one word for keys of 32 bits, else its key follows in one or two words. The first word of a record in use is
not 0.

Anyone who can write to the store chooses keys, so each map hashes with its own random numbers. The hash is
pair-multiply-shift over 32-bit words, which is strongly universal: any two keys that were chosen beforehand share 32
bits of hash with a probability of 2^-32 (Thorup, High Speed Hashing for Integers and Strings, section 3). Such a hash
may place keys of equal distance, such as a cluster's subnets, side by side, where probing is slow. The 32 bits are
therefore permuted, which leaves the probability as it is. The hash needs no multiplication wider than 64 bits, so both
gears compute the same on every processor. A map whose directory is far larger than its pages takes other numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from random import SystemRandom

NONE = -1
M32 = 0xFFFF_FFFF
M64 = 0xFFFF_FFFF_FFFF_FFFF
SCRAMBLE = 0x7FEB_352D  # an odd number, from Wellons' hash-prospector
PAGE = 64  # records
FULL = 32  # most records in use
SPARSE = 64  # most entries of the directory for each page
VALUE_BITS = 26
VALUE = (1 << VALUE_BITS) - 1  # of a record's first word: value + 1. Above it: the length, in IPv4's map also the key

_random_bits = SystemRandom().getrandbits


class Arena:
    """Pages that several maps share. A page is written by the draft that took it, until that is published."""

    def __init__(self, pages: int, words: int) -> None:
        self.words = array("Q", [0]) * (pages * words)
        self.pages = pages
        self.used = 0


class PrefixMap:
    """Values of prefixes of keys of `bits` bits. Values are below 2^26 - 1."""

    def __init__(self, bits: int, random_bits: Callable[[int], int] = _random_bits) -> None:
        self.bits = bits
        self.width = 1 if bits <= 32 else 2 if bits <= 64 else 3
        self.random_bits = random_bits
        self.seed_0, self.seed_1, self.seed_2, self.seed_3, self.seed_4, self.seed_5 = map(random_bits, [64] * 6)
        self.held: dict[int, int] = {}
        self._list_lengths()
        self.arena = Arena(8, PAGE * self.width)
        self.arena.used = 1
        self.records = self.arena.words
        self.directory = array("I", [0])
        self.shift = 32
        self.pages = 1
        self.fresh = 0

    def copy(self) -> PrefixMap:
        """Return a draft: a map of the same contents, which its owner may edit until others see it."""
        draft = PrefixMap.__new__(PrefixMap)
        draft.become(self)
        directory = array("I", [0]) * len(self.directory)
        draft.directory = directory
        draft.directory[:] = self.directory
        draft.held = dict(self.held)
        draft.fresh = self.arena.used
        return draft

    def __len__(self) -> int:
        return sum(self.held.values())

    def hash_of(self, length: int, hi: int, lo: int) -> int:
        """Return 32 bits that nobody outside can predict: the place of a prefix."""
        total = self.seed_4 + self.seed_5 * length + (self.seed_0 + (lo & M32)) * (self.seed_1 + (lo >> 32))
        if hi != 0:  # the same for all keys without it
            total += (self.seed_2 + (hi & M32)) * (self.seed_3 + (hi >> 32))
        word = (total & M64) >> 32
        word = (word ^ word >> 16) * SCRAMBLE & M32
        return word ^ word >> 15

    def lookup(self, hi: int, lo: int) -> int:
        """Return the value of the longest prefix that covers the key, NONE if there is none.

        `hi` is 0 if keys have 64 bits or fewer.
        """
        for i in range(self.lengths):
            masked_hi = hi & self.mask_hi[i]
            masked_lo = lo & self.mask_lo[i]
            length = self.length[i]
            at = self._find(self.hash_of(length, masked_hi, masked_lo), length, masked_hi, masked_lo)
            if self.records[at] != 0:
                return (self.records[at] & VALUE) - 1
        return NONE

    def put(self, hi: int, lo: int, length: int, value: int) -> None:
        """Set the value of a prefix of this length. Its bits beyond the length are 0."""
        word = self.hash_of(length, hi, lo)
        at = self._find(word, length, hi, lo)
        if self.records[at] == 0:
            while self._is_full(word):
                self._split(word)
                word = self.hash_of(length, hi, lo)  # that may have changed the seeds
            self.held[length] = self.held.get(length, 0) + 1
            if self.held[length] == 1:
                self._list_lengths()
        self._own(word)
        at = self._find(word, length, hi, lo)
        tag = length << VALUE_BITS | value + 1
        if self.width == 1:
            self.records[at] = lo << 32 | tag
            return
        self.records[at] = tag
        self.records[at + 1] = lo
        if self.width == 3:
            self.records[at + 2] = hi

    def drop(self, hi: int, lo: int, length: int) -> None:
        """Remove a prefix, if it is there: records that were placed after it move up."""
        word = self.hash_of(length, hi, lo)
        if self.records[self._find(word, length, hi, lo)] == 0:
            return
        self._own(word)
        at = self._find(word, length, hi, lo)
        page = at - at % (PAGE * self.width)
        hole = slot = (at - page) // self.width
        while True:
            slot = slot + 1 & PAGE - 1
            at = page + slot * self.width
            if self.records[at] == 0:
                break
            away = slot - self._hash_at(at) & PAGE - 1
            if away >= (slot - hole & PAGE - 1):
                self._move(at, page + hole * self.width)
                hole = slot
        for i in range(self.width):
            self.records[page + hole * self.width + i] = 0
        self.held[length] -= 1
        if self.held[length] == 0:
            del self.held[length]
            self._list_lengths()

    def _find(self, word: int, length: int, hi: int, lo: int) -> int:
        """Return the index of the record of a prefix with this hash, or of the free one where it belongs."""
        page = self.directory[word >> self.shift] * PAGE
        slot = word & PAGE - 1
        if self.width == 1:
            tag = lo << 32 - VALUE_BITS | length
            while True:
                record = self.records[page + slot]
                if record == 0 or record >> VALUE_BITS == tag:
                    return page + slot
                slot = slot + 1 & PAGE - 1
        while True:
            at = (page + slot) * self.width
            record = self.records[at]
            if record == 0 or (
                self.records[at + 1] == lo
                and record >> VALUE_BITS == length
                and (self.width == 2 or self.records[at + 2] == hi)
            ):
                return at
            slot = slot + 1 & PAGE - 1

    def _hash_at(self, at: int) -> int:
        """Return the hash of the prefix of a record."""
        record = self.records[at]
        if self.width == 1:
            return self.hash_of(record >> VALUE_BITS & 63, 0, record >> 32)
        hi = self.records[at + 2] if self.width == 3 else 0
        return self.hash_of(record >> VALUE_BITS, hi, self.records[at + 1])

    def _move(self, source: int, target: int) -> None:
        for i in range(self.width):
            self.records[target + i] = self.records[source + i]

    def _is_full(self, word: int) -> bool:
        """Return true if the page of this hash is full."""
        at = self.directory[word >> self.shift] * PAGE * self.width
        used = 0
        for _ in range(PAGE):
            used += self.records[at] != 0
            at += self.width
        return used >= FULL

    def _own(self, word: int) -> None:
        """Copy the page of this hash, unless it is this draft's own."""
        self._reserve(1)
        index = word >> self.shift
        page = self.directory[index]
        if page >= self.fresh:
            return
        own = self.arena.used
        self.arena.used += 1
        words = PAGE * self.width
        self.records[own * words : (own + 1) * words] = self.records[page * words : (page + 1) * words]
        first, end = self._first_of(index), self._end_of(index)
        for i in range(first, end):
            self.directory[i] = own

    def _split(self, word: int) -> None:
        """Distribute the records of the page of this hash to two."""
        self._reserve(2)
        index = word >> self.shift
        if self._end_of(index) - self._first_of(index) == 1:
            if len(self.directory) >= SPARSE * self.pages:
                self._reseed()
                return
            directory = array("I", [0]) * (2 * len(self.directory))
            self._double(directory)
            index *= 2
        first, end = self._first_of(index), self._end_of(index)
        middle = (first + end) // 2
        page, low, high = self.directory[index], self.arena.used, self.arena.used + 1
        self.arena.used += 2
        self.pages += 1
        for i in range(first, end):
            self.directory[i] = low if i < middle else high
        for slot in range(PAGE):
            at = (page * PAGE + slot) * self.width
            if self.records[at] != 0:
                self._move(at, self._free(self._hash_at(at)))

    def _double(self, directory: array[int]) -> None:
        """Use this larger directory, which has two entries for each earlier one."""
        for i in range(len(self.directory)):
            directory[2 * i] = directory[2 * i + 1] = self.directory[i]
        self.directory = directory
        self.shift -= 1

    def _free(self, word: int) -> int:
        """Return the index of the free record where one with this hash belongs."""
        page = self.directory[word >> self.shift] * PAGE
        slot = word & PAGE - 1
        while self.records[(page + slot) * self.width] != 0:
            slot = slot + 1 & PAGE - 1
        return (page + slot) * self.width

    def _first_of(self, index: int) -> int:
        """Return the first entry of the directory that has the same page as this one."""
        page = self.directory[index]
        while index > 0 and self.directory[index - 1] == page:
            index -= 1
        return index

    def _end_of(self, index: int) -> int:
        """Return the first entry behind those that have the same page as this one."""
        page = self.directory[index]
        while index < len(self.directory) and self.directory[index] == page:
            index += 1
        return index

    def _reserve(self, count: int) -> None:
        """Make sure that the arena has so many free pages; move to another one if it has not."""
        if self.arena.used + count <= self.arena.pages:
            return
        words = PAGE * self.width
        arena = Arena(self.pages + self.pages // 2 + 8, words)
        index = 0
        while index < len(self.directory):
            page, own = self.directory[index], arena.used
            arena.words[own * words : (own + 1) * words] = self.records[page * words : (page + 1) * words]
            arena.used += 1
            while index < len(self.directory) and self.directory[index] == page:
                self.directory[index] = own
                index += 1
        self.arena = arena
        self.records = arena.words
        self.fresh = 0

    def _reseed(self) -> None:
        """Take other random numbers: so many hashes that begin alike have a cause."""
        other = PrefixMap(self.bits, self.random_bits)
        index = 0
        while index < len(self.directory):
            for slot in range(PAGE):
                at = (self.directory[index] * PAGE + slot) * self.width
                record = self.records[at]
                if record != 0:
                    lo = record >> 32 if self.width == 1 else self.records[at + 1]
                    length = record >> VALUE_BITS & (63 if self.width == 1 else 255)
                    other.put(self.records[at + 2] if self.width == 3 else 0, lo, length, (record & VALUE) - 1)
            index = self._end_of(index)
        self.become(other)

    def _list_lengths(self) -> None:
        """Arrange the masks of the lengths in use, longest first."""
        lengths = sorted(self.held, reverse=True)
        masks = [(1 << self.bits) - (1 << self.bits - length) for length in lengths]
        self.lengths = len(lengths)
        self.length = array("q", lengths)
        self.mask_hi = array("Q", [mask >> 64 for mask in masks])
        self.mask_lo = array("Q", [mask & M64 for mask in masks])

    def become(self, other: PrefixMap) -> None:
        """Become the same as another map."""
        self.bits, self.width, self.random_bits = other.bits, other.width, other.random_bits
        self.seed_0, self.seed_1, self.seed_2 = other.seed_0, other.seed_1, other.seed_2
        self.seed_3, self.seed_4, self.seed_5 = other.seed_3, other.seed_4, other.seed_5
        self.held, self.lengths, self.length = other.held, other.lengths, other.length
        self.mask_hi, self.mask_lo = other.mask_hi, other.mask_lo
        self.arena, self.records, self.directory = other.arena, other.records, other.directory
        self.shift, self.pages, self.fresh = other.shift, other.pages, other.fresh
