"""Traffic counters of each peer's VTEP, by its index in the table in force."""

from __future__ import annotations

from array import array

from vxland.datapath.table import Table

FIELDS = 4  # a VTEP's numbers side by side, in one cache line: frames and bytes of encap, then of decap


class Traffic:
    """Counters for the VTEPs of one table. One thread writes them, others may read."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.counts = array("Q", bytes(8 * FIELDS * len(table.vteps)))

    def sent(self, vtep: int, frames: int, nbytes: int) -> None:
        """Count frames sent to the VTEP of this index, and the bytes of these inner frames."""
        self.counts[FIELDS * vtep] += frames
        self.counts[FIELDS * vtep + 1] += nbytes

    def took(self, vtep: int, frames: int, nbytes: int) -> None:
        """Count frames from that VTEP that were written to the TAP."""
        self.counts[FIELDS * vtep + 2] += frames
        self.counts[FIELDS * vtep + 3] += nbytes

    def numbers(self) -> list[list[int]]:
        """Return the counters of each VTEP in the table's order: frames and bytes of encap, then of decap."""
        return [list(self.counts[at : at + FIELDS]) for at in range(0, len(self.counts), FIELDS)]
