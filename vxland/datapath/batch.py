"""What one wake-up works on: the Batch of datagrams to send, and the Datagram just received."""

from __future__ import annotations

from array import array

CAPACITY = 64  # frames: some 100 microseconds of work, after which the other direction has its turn


class Batch:
    """Datagrams that wait to be sent, as parallel arrays: entry `i` lies at `at[i]` in the arena.

    `length` counts octets, `vtep` indexes the table the batch was decided with, `ecn` is for the outer header, and
    `port` indexes the sending sockets.
    """

    def __init__(self) -> None:
        self.count = 0
        self.at = array("q", bytes(8 * CAPACITY))
        self.length = array("q", bytes(8 * CAPACITY))
        self.vtep = array("q", bytes(8 * CAPACITY))
        self.ecn = array("q", bytes(8 * CAPACITY))
        self.port = array("q", bytes(8 * CAPACITY))

    def add(self, at: int, length: int, vtep: int, ecn: int, port: int) -> None:
        """Append a datagram. The caller sees to it that there are CAPACITY at most."""
        i = self.count
        self.at[i] = at
        self.length[i] = length
        self.vtep[i] = vtep
        self.ecn[i] = ecn
        self.port[i] = port
        self.count = i + 1

    def clear(self) -> None:
        """Forget all datagrams."""
        self.count = 0


class Datagram:
    """What the kernel tells of a received datagram beside its payload: outer source, ECN field, completeness."""

    def __init__(self) -> None:
        self.outer_src_hi = 0
        self.outer_src_lo = 0
        self.ecn = 0
        self.truncated = False
