"""Metadata that the kernel reports with a received buffer."""

from __future__ import annotations

SEGMENT_MARK = 0x5658_0000
"""Magic of a packet mark (skb->mark) that reports the segment size of an aggregate in its lower 16 bits.

Only tc programs see that size. vxland's own sets `SEGMENT_MARK | gso_size` on aggregates that it leaves to the daemon.
Firewalls set other marks.
"""
MAGIC, SIZE_MASK = SEGMENT_MARK >> 16, 0xFFFF  # pxd types them


def segment_size_of(mark: int) -> int:
    """Return the bytes of payload in each segment that a packet mark reports; 0: none."""
    return mark & SIZE_MASK if mark >> 16 == MAGIC else 0


class Datagram:
    """Metadata of one buffer: outer source and port, ECN field, and the size of its datagrams with UDP_GRO.

    A `stride` of 0 means a single datagram. `segment_size`: as a mark reports it, see SEGMENT_MARK; 0: unknown.
    `truncated`: the end of the buffer is missing; `fragmented`: it arrived in fragments; `untold`: the kernel truncated
    the metadata (MSG_CTRUNC).
    """

    def __init__(self) -> None:
        self.outer_src_hi = 0
        self.outer_src_lo = 0
        self.port = 0
        self.ecn = 0
        self.stride = 0
        self.segment_size = 0
        self.truncated = False
        self.fragmented = False
        self.untold = False
