"""Largest unfragmented inner packet for each underlay address; replaced as a whole, never edited."""

from __future__ import annotations

from collections.abc import Mapping

from vxland.datapath.prefix_map import PrefixMap
from vxland.model.lease import Address

UNLIMITED = 1 << 20  # bytes; more than any packet has


class Limits:
    """Limits below the device's MTU. `narrow`: at least one address is limited; if none is, no frame needs a check.

    `inner` has bytes of inner packet that fit into one outer packet, by VTEP address.
    """

    def __init__(self, inner: Mapping[Address, int]) -> None:
        self.inner = inner
        self.narrow = bool(inner)
        self.by_outer = PrefixMap(128)
        for address, most in inner.items():
            hi, lo = divmod(int(address), 1 << 64)
            self.by_outer.put(hi, lo, 128, most)

    def most(self, outer_hi: int, outer_lo: int) -> int:
        """Return the bytes of inner packet that fit into one outer packet to this address."""
        found = self.by_outer.lookup(outer_hi, outer_lo)
        return UNLIMITED if found < 0 else found
