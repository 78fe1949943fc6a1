"""Traffic counters of each peer's VTEP, by its index in the tables of one lineage."""

from __future__ import annotations

from array import array

from vxland.datapath.table import Lineage

FIELDS = 4  # a VTEP's numbers side by side, in one cache line: frames and bytes of encap, then of decap


class Traffic:
    """Counters for the VTEPs of a lineage. One thread writes them, others may read."""

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage
        self.counts = array("Q")

    def reserve(self, vteps: int) -> None:
        """Make sure that there are counters for so many VTEPs. Called by the thread that writes."""
        if FIELDS * vteps > len(self.counts):
            counts = array("Q", [0]) * (2 * FIELDS * vteps)
            self._extend(counts)

    def _extend(self, counts: array[int]) -> None:
        for i in range(len(self.counts)):
            counts[i] = self.counts[i]
        self.counts = counts

    def sent(self, vtep: int, frames: int, nbytes: int) -> None:
        """Count frames sent to the VTEP of this index, and the bytes of these inner frames."""
        self.counts[FIELDS * vtep] += frames
        self.counts[FIELDS * vtep + 1] += nbytes

    def took(self, vtep: int, frames: int, nbytes: int) -> None:
        """Count frames from that VTEP that were written to the TAP."""
        self.counts[FIELDS * vtep + 2] += frames
        self.counts[FIELDS * vtep + 3] += nbytes

    def numbers(self) -> list[list[int]]:
        """Return the counters by index: frames and bytes of encap, then of decap. Those behind the end are 0."""
        counts = self.counts
        return [list(counts[at : at + FIELDS]) for at in range(0, len(counts), FIELDS)]
