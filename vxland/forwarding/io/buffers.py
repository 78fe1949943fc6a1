"""Memory for the frames of a batch: allocated once, reused by every batch, never handed out."""

from __future__ import annotations

HEADROOM = 64
"""Bytes before every frame: for a virtio or VXLAN header, and for an answer with more headers in front (58)."""

MAX_FRAME_LEN = 65_535 + 18
"""Bytes of the longest frame from a TAP: an IP packet after an Ethernet header with a VLAN tag."""

SLOT_LEN = HEADROOM + MAX_FRAME_LEN

FRAMES_LEN = 512 * 1024
"""Bytes for the frames of a train or run, and for one more of the longest."""


class Arena:
    """`length` bytes of memory. `base` is a pointer in the compiled gear, the bytearray itself in the interpreted one.

    Borrowed: its contents are valid until the next batch; copy to keep.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.memory = bytearray(length)  # never resized: the pointer must stay valid
        self.base = self.memory
