"""The memory frames lie in while they are worked on: allocated once, reused by every batch, never handed out."""

from __future__ import annotations

HEADROOM = 64
"""Octets before every frame: room for a virtio or VXLAN header, and for an answer that grows to the front (58)."""

MAX_FRAME_LEN = 65_535 + 18
"""The longest frame a TAP hands out: an IP packet behind an Ethernet header with a VLAN tag."""

SLOT_LEN = HEADROOM + MAX_FRAME_LEN

FRAMES_LEN = 512 * 1024
"""Octets for the frames of a train or run, and for the longest while one more is read."""


class Arena:
    """`length` octets of memory. `base` is a pointer in the compiled gear, the bytearray itself in the interpreted one.

    Borrowed: what lies in it is valid until the next batch; copy to keep.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.memory = bytearray(length)  # never resized: the pointer must stay good
        self.base = self.memory
