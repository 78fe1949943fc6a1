"""How much the way to each VTEP carries in one piece, indexed like the table in force; replaced whole, never edited."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from vxland.datapath.table import Table
from vxland.model.lease import Address

UNLIMITED = 1 << 20  # octets; more than any packet has


class Limits:
    """`most[i]` octets of inner packet fit one outer packet to VTEP `i` of `table`; `narrow` where any is limited.

    `inner` has the limits by VTEP address, those alone that are below the device's MTU: nothing else needs a look.
    """

    def __init__(self, table: Table, inner: Mapping[Address, int]) -> None:
        self.table = table
        self.most = array("q", [inner.get(vtep.address, UNLIMITED) for vtep in table.vteps])
        self.narrow = any(most < UNLIMITED for most in self.most)
