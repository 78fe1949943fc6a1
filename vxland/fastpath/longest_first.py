"""Choice of the prefixes that fit into a map, when more are wanted than it holds. Pure.

The longest are in the map: a shorter one would stand in for a longer one that is missing, and lend its addresses to
another VTEP. Of prefixes of one length the lowest are in it. The choice does not depend on the order of changes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, MutableSequence
from ipaddress import IPv4Network, IPv6Network

from vxland.model.lease import Subnet


class LongestFirst:
    """Prefixes of one IP version, of addresses with `bits` bits, for a map that holds `most` of them."""

    def __init__(self, bits: int, most: int) -> None:
        self._bits = bits
        self._most = most
        # Sorted, a prefix is one number: the bits that its length lacks, then its address.
        self._wanted: MutableSequence[int] = array("Q") if bits == 32 else []

    def __len__(self) -> int:
        """Return the number of prefixes in the map."""
        return min(len(self._wanted), self._most)

    def holds(self, prefix: Subnet) -> bool:
        """Return whether a prefix is in the map."""
        at = self._find(prefix)
        return at < self._most and self._is_at(prefix, at)

    def want(self, prefix: Subnet) -> Iterator[Subnet]:
        """Want a prefix; return those that come into the map or leave it: none if it is wanted already."""
        at = self._find(prefix)
        if not self._is_at(prefix, at):
            self._wanted.insert(at, self._number(prefix))
            yield from self._moved(prefix, at, self._most)

    def unwant(self, prefix: Subnet) -> Iterator[Subnet]:
        """Want a prefix no longer; return those that leave the map or come into it: none if it was not wanted."""
        at = self._find(prefix)
        if self._is_at(prefix, at):
            del self._wanted[at]
            yield from self._moved(prefix, at, self._most - 1)

    def _moved(self, prefix: Subnet, at: int, last: int) -> Iterator[Subnet]:
        """Return a prefix, if its place `at` is in the map, and the one at the map's end that makes way or joins."""
        if at < self._most:
            yield prefix
            if last < len(self._wanted):
                yield self._prefix(self._wanted[last])

    def _find(self, prefix: Subnet) -> int:
        return bisect_left(self._wanted, self._number(prefix))

    def _is_at(self, prefix: Subnet, at: int) -> bool:
        return at < len(self._wanted) and self._wanted[at] == self._number(prefix)

    def _number(self, prefix: Subnet) -> int:
        return (self._bits - prefix.prefixlen) << self._bits | int(prefix.network_address)

    def _prefix(self, number: int) -> Subnet:
        address, length = number & (1 << self._bits) - 1, self._bits - (number >> self._bits)
        return IPv4Network((address, length)) if self._bits == 32 else IPv6Network((address, length))
