"""Verdicts on frames, and the counters of one direction."""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import NamedTuple

FORWARD = 0
"""The frame goes on to its VTEP, or to the TAP."""


class Drop(IntEnum):
    """The drop reasons. inspect/reasons.py has the meaning and the remedy of each; 0 is FORWARD."""

    TOO_SHORT = 1
    TRUNCATED = 2
    I_FLAG_CLEAR = 3
    WRONG_VNI = 4
    NEXT_PROTOCOL = 5
    UNKNOWN_VTEP = 6
    INNER_MALFORMED = 7
    OWN_MAC = 8
    ECN_CE = 9
    BUM = 10
    NO_VTEP = 11
    SEND_FAILED = 12
    SEND_BUFFER_FULL = 13
    TAP_WRITE_FAILED = 14
    TOO_BIG = 15
    INNER_SOURCE_FOREIGN = 16
    OVERLOAD = 17

    @property
    def label(self) -> str:
        """The reason as metrics, log, vxlandctl and documentation show it."""
        return self.name.lower()


DROPS_LEN = max(Drop) + 1
"""Length of an array that is indexed by Drop."""


class Counted(NamedTuple):
    """One counter of a direction: its name in `vxlandctl stats --json`, its help text, and its metric."""

    name: str
    help: str
    metric: str


COUNTED = (
    Counted("frames", "Inner frames forwarded.", "vxland_frames"),
    Counted("bytes", "Bytes of inner frames forwarded.", "vxland_bytes"),
    Counted("wakeups", "Wake-ups of the data path.", "vxland_wakeups"),
    Counted(
        "reads", "Frames read from the TAP (encap); buffers received, of one or more datagrams (decap).", "vxland_reads"
    ),
    Counted("batches", "Sends, of one or more datagrams (encap); writes to the TAP (decap).", "vxland_batches"),
    Counted(
        "superframes", "Superframes cut into segments (encap), or joined from segments (decap).", "vxland_superframes"
    ),
    Counted(
        "fragmented",
        "Datagrams that left in fragments, as far as the path MTU is known (encap); that arrived in fragments (decap).",
        "vxland_outer_fragmented",
    ),
    Counted("answers", "Neighbour requests and unroutable packets that this node answered.", "vxland_answers"),
)
"""All counters except drops. Counters has a field for each, verdict.pxd its type; all else derives from this list."""


class Counters:
    """Totals of one direction since start: a field for each of COUNTED, and `drops` by reason.

    One thread writes them, others may read.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.bytes = 0
        self.answers = 0
        self.wakeups = 0
        self.reads = 0
        self.batches = 0
        self.superframes = 0
        self.fragmented = 0
        self.drops = array("Q", bytes(8 * DROPS_LEN))

    def by_name(self) -> dict[str, int]:
        """Return the total of each of COUNTED."""
        return {counted.name: int(getattr(self, counted.name)) for counted in COUNTED}

    def by_reason(self) -> dict[str, int]:
        """Return the drops by reason, including the reasons that have not occurred."""
        counts = list(self.drops)
        return {drop.label: counts[drop] for drop in Drop}
