"""Metadata that the kernel reports with a received buffer."""

from __future__ import annotations


class Datagram:
    """Metadata of one buffer: outer source and port, ECN field, and the size of its datagrams with UDP_GRO.

    A `stride` of 0 means a single datagram. `truncated`: the end of the buffer is missing; `fragmented`: it arrived in
    fragments; `untold`: the kernel truncated the metadata (MSG_CTRUNC).
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
