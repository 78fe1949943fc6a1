"""What the kernel tells of a received buffer beside its payload."""

from __future__ import annotations


class Datagram:
    """Outer source and ECN field of what was received, whether it is whole, and UDP_GRO's datagram size (0: one)."""

    def __init__(self) -> None:
        self.outer_src_hi = 0
        self.outer_src_lo = 0
        self.ecn = 0
        self.stride = 0
        self.truncated = False
