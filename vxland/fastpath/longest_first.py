"""Choice of the prefixes that fit into a map, when more are wanted than it holds. Pure.

The longest are in the map: a shorter one would stand in for a longer one that is missing, and lend its addresses to
another VTEP. Of prefixes of one length the lowest are in it. The choice does not depend on the order of changes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import MutableSequence
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
        number = self._number(prefix)
        at = bisect_left(self._wanted, number)
        return at < len(self) and self._wanted[at] == number

    def set(self, prefix: Subnet, *, wanted: bool) -> tuple[bool, Subnet | None]:
        """Want a prefix, or want it no longer; return whether it was in the map.

        Also return the one at the end of the map that makes way for it, or takes its place.
        """
        number = self._number(prefix)
        at = bisect_left(self._wanted, number)
        was_wanted = at < len(self._wanted) and self._wanted[at] == number
        was_held = was_wanted and at < self._most
        if wanted == was_wanted:
            return was_held, None
        if wanted:
            self._wanted.insert(at, number)
        else:
            del self._wanted[at]
        last = self._most if wanted else self._most - 1
        moves = at < self._most and last < len(self._wanted)
        return was_held, self._prefix(self._wanted[last]) if moves else None

    def _number(self, prefix: Subnet) -> int:
        return (self._bits - prefix.prefixlen) << self._bits | int(prefix.network_address)

    def _prefix(self, number: int) -> Subnet:
        address, length = number & (1 << self._bits) - 1, self._bits - (number >> self._bits)
        return IPv4Network((address, length)) if self._bits == 32 else IPv6Network((address, length))
