"""What each peer's VTEP has sent and got: numbers by VTEP index, for as long as the Table in force gives it."""

from __future__ import annotations

from array import array

from vxland.datapath.table import Table

FIELDS = 4  # a VTEP's numbers side by side, in one cache line: frames and octets of encap, then of decap


class Traffic:
    """Counters for the VTEPs of one table; one thread writes them, others may read."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.counts = array("Q", bytes(8 * FIELDS * len(table.vteps)))

    def sent(self, vtep: int, frames: int, octets: int) -> None:
        """Count frames sent to the VTEP of this index; octets are those of the inner frames."""
        self.counts[FIELDS * vtep] += frames
        self.counts[FIELDS * vtep + 1] += octets

    def took(self, vtep: int, frames: int, octets: int) -> None:
        """Count frames of that VTEP which the TAP took."""
        self.counts[FIELDS * vtep + 2] += frames
        self.counts[FIELDS * vtep + 3] += octets

    def numbers(self) -> list[list[int]]:
        """All counters now, four of each VTEP: frames and octets of encap, then of decap; in the table's order."""
        return [list(self.counts[at : at + FIELDS]) for at in range(0, len(self.counts), FIELDS)]
