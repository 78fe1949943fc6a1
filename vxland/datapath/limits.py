"""Largest unfragmented inner packet for each VTEP of the table in force; replaced as a whole, never edited."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from vxland.datapath.table import Table
from vxland.model.lease import Address

UNLIMITED = 1 << 20  # bytes; more than any packet has


class Limits:
    """`most[i]` bytes of inner packet fit into one outer packet to VTEP `i`; `narrow`: at least one VTEP is limited.

    `inner` has the limits below the device's MTU, in bytes by VTEP address. With none of them, no frame needs a check.
    """

    def __init__(self, table: Table, inner: Mapping[Address, int]) -> None:
        self.table = table
        self.most = array("q", [inner.get(vtep.address, UNLIMITED) for vtep in table.vteps])
        self.narrow = any(most < UNLIMITED for most in self.most)
