"""Why a frame goes no further, and the counters of one direction. A reason is one word everywhere it is shown."""

from __future__ import annotations

from array import array
from enum import IntEnum

FORWARD = 0
"""The frame goes on to its VTEP, or to the TAP."""


class Drop(IntEnum):
    """The reasons, as metric labels, log fields and documentation spell them in lower case. 0 is no drop."""

    TOO_SHORT = 1  # the datagram ends before its VXLAN header does
    TRUNCATED = 2  # the datagram or frame is longer than 64 KiB, and its tail is lost
    I_FLAG_CLEAR = 3  # the VXLAN header claims no valid VNI; RFC 7348 section 5
    WRONG_VNI = 4  # another overlay's datagram
    NEXT_PROTOCOL = 5  # VXLAN-GPE with something else than Ethernet inside
    UNKNOWN_VTEP = 6  # the outer source is no leased VTEP
    INNER_MALFORMED = 7  # the inner headers contradict themselves, the frame's length or its virtio header
    OWN_MAC = 8  # the inner source is our own MAC: a loop, or a forgery
    ECN_CE = 9  # congestion was marked on a packet whose ends cannot be told; RFC 6040 section 4.2
    BUM = 10  # broadcast, unknown or multicast: flannel's overlay has nowhere to flood it
    NO_VTEP = 11  # the inner destination lies outside every leased subnet
    SEND_FAILED = 12  # the kernel refused the datagram
    SEND_BUFFER_FULL = 13  # the socket's send buffer has no room: tail drop
    TAP_WRITE_FAILED = 14  # the kernel refused the frame
    TOO_BIG = 15  # the way to the VTEP carries no packet of this size, and it may not be fragmented
    INNER_SOURCE_FOREIGN = 16  # the inner sender is none of the node's that sent the datagram
    OVERLOAD = 17  # a superframe of many segments, while more frames wait than are moved

    @property
    def label(self) -> str:
        """The reason as it is shown."""
        return self.name.lower()


COUNT = max(Drop) + 1


class Counters:
    """What one direction has done since start: frames, octets of inner frames, answers, drops by reason.

    And how it came by them: `wakeups` of the pump, `reads` of a frame or a received buffer each, `batches` handed to
    the kernel (trains sent, runs written), and `superframes`, those cut in encap and those joined in decap.
    `fragmented` datagrams left in fragments, or came in some.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.octets = 0
        self.answers = 0
        self.wakeups = 0
        self.reads = 0
        self.batches = 0
        self.superframes = 0
        self.fragmented = 0
        self.drops = array("Q", bytes(8 * COUNT))

    def by_reason(self) -> dict[str, int]:
        """Drops since start by reason, every reason named."""
        return {drop.label: int(self.drops[drop]) for drop in Drop}
