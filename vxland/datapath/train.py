"""A Gather of arena ranges that one system call moves, and the Train of datagrams that one send carries.

Theory of operation. UDP_SEGMENT (udp(7)) takes one long payload, a segment size and one destination, and sends
datagrams of that size; the last one may be shorter. Datagrams form a train if they have the same VTEP, source port,
marks and size; none may follow a shorter one. A train keeps the order in which datagrams were added. Nothing is joined
in memory: sendmsg gathers the ranges.

The marks of a datagram are its outer TOS or traffic class, and above these 8 bits its TTL or hop limit, 0 for the
socket's own. `plain_marks` are the marks that the sockets use by default.
"""

from __future__ import annotations

from array import array

MAX_RANGES = 512  # two for each of 128 datagrams, and spare ones; the kernel's limit is 1024, UIO_MAXIOV
MAX_TRAIN_LEN = 65_507  # bytes of UDP payload that IPv4 can carry, RFC 768 and RFC 791
MAX_DATAGRAMS = 128  # UDP_MAX_SEGMENTS since Linux 6.9; 64 before
MOST_SEGMENTS = MAX_DATAGRAMS  # pxd types it
LEAST_SEGMENT = 36  # bytes of TCP payload: Linux's tcp_min_snd_mss, 48 with options, less 12 of timestamps


def is_too_fine(payload_len: int, gso_size: int) -> bool:
    """Whether a superframe would be cut into more segments than any stack leaves to a device.

    Linux sends at most UDP_MAX_SEGMENTS datagrams of any size at once, and its GRO joins what one poll received, 64
    packets. Only a TCP sender leaves more to a device: 64 KiB in segments of tcp_min_snd_mss at the least.
    """
    return gso_size < LEAST_SEGMENT and payload_len > MOST_SEGMENTS * gso_size


class Gather:
    """Ranges of one arena, in order: range `i` is `length[i]` bytes at `at[i]`."""

    def __init__(self) -> None:
        self.count = 0
        self.nbytes = 0
        self.at = array("q", bytes(8 * MAX_RANGES))
        self.length = array("q", bytes(8 * MAX_RANGES))

    def add(self, at: int, length: int) -> None:
        """Append a range. The caller makes sure that there are at most MAX_RANGES."""
        self.at[self.count] = at
        self.length[self.count] = length
        self.count += 1
        self.nbytes += length

    def clear(self) -> None:
        """Remove all ranges."""
        self.count = 0
        self.nbytes = 0


class Train:
    """Datagrams for one VTEP that are sent together. `max_datagrams` is 1 without UDP_SEGMENT."""

    def __init__(self, max_datagrams: int, plain_marks: int = 0) -> None:
        self.plain_marks = plain_marks
        self.max_datagrams = max_datagrams
        self.ranges = Gather()
        self.datagrams = 0
        self.size = 0
        self.ended = False
        self.vtep = 0
        self.marks = 0
        self.port = 0

    def begin(self, vtep: int, marks: int, port: int, size: int) -> None:
        """Start an empty train of datagrams of `size` bytes."""
        self.ranges.clear()
        self.datagrams = 0
        self.ended = False
        self.vtep = vtep
        self.marks = marks
        self.port = port
        self.size = size

    def takes(self, vtep: int, marks: int, port: int, length: int) -> bool:
        """Whether a datagram of `length` bytes may follow those in the train."""
        if self.datagrams == 0 or not self.has_room(length):
            return False
        return self.vtep == vtep and self.marks == marks and self.port == port

    def has_room(self, length: int) -> bool:
        """Whether a datagram of `length` bytes for the same VTEP may follow."""
        if self.ended or self.datagrams >= self.max_datagrams:  # a short datagram ends its train
            return False
        return length <= self.size and self.ranges.nbytes + length <= MAX_TRAIN_LEN

    def add(self, at: int, length: int) -> None:
        """Append a datagram that is one range."""
        self.ranges.add(at, length)
        self.note(length)

    def note(self, length: int) -> None:
        """Count a datagram whose ranges were just added."""
        self.datagrams += 1
        self.ended = length < self.size

    def clear(self) -> None:
        """Remove all datagrams."""
        self.ranges.clear()
        self.datagrams = 0
