"""What the kernel tells of a received buffer beside its payload."""

from __future__ import annotations


class Datagram:
    """Outer source and port, ECN field, the size of UDP_GRO's datagrams (0: there is one).

    And whether it is whole, whether it came in fragments, and (`untold`) whether there was no room to tell all this.
    """

    def __init__(self) -> None:
        self.outer_src_hi = 0
        self.outer_src_lo = 0
        self.port = 0
        self.ecn = 0
        self.stride = 0
        self.truncated = False
        self.fragmented = False
        self.untold = False
