"""Virtio headers and the frames behind them: from the TAP to what a send would take, with no socket.

0  u16 bytes of zeros to append to the frame and to its IP packet      2  the virtio header      12  the frame
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from struct import pack

from tests.corpus import FRAMES, STREAMS
from tests.frames import IPV4, IPV6, MAC_B, PLAIN, POD_A, POD_A6, POD_B, POD_B6, UDP, frame_of, packet_of, udp, vxlan
from tests.fuzz import Check
from tests.steps import cut
from tests.stream import TCP6, numbered
from tests.virtio import check_sent
from vxland.datapath.verdict import FORWARD

MOST_GROWN = 65_535
WIDE = replace(TCP6, extensions=1, extension_len=256)


def _tunnelled() -> Iterator[bytes]:
    """VXLAN of a pod's own in either family, with the inner checksum left to the device."""
    for pair in ((POD_A, POD_B), (POD_A6, POD_B6)):
        for stream in STREAMS[:4]:
            inner = stream.frame(numbered(20), partial=True)
            outer = frame_of(packet_of(*pair, UDP, udp(*pair, vxlan(inner, 9), dport=4789)), MAC_B)
            start = len(outer) - len(inner) + stream.l4_at
            yield pack("<BBHHHH", 1, 0, 0, 0, start, 6 if stream.proto == UDP else 16) + outer


def _tagged() -> Iterator[bytes]:
    """Frames of a VLAN device over the overlay's."""
    for stream in STREAMS[:4]:
        frame = stream.frame(numbered(9), partial=True)
        virtio = pack("<BBHHHH", 1, 0, 0, 0, stream.l4_at + 4, 6 if stream.proto == UDP else 16)
        yield virtio + frame[:12] + b"\x81\0\0\x09" + frame[12:]


SEEDS = [
    *(bytes(2) + PLAIN + frame for frame in FRAMES),
    *(pack("!H", grown) + stream.virtio(mss) + stream.superframe(numbered(90)) for stream in STREAMS for grown, mss in
      ((0, 30), (4000, 36), (60_000, 1), (60_000, 1398))),
    *(pack("!H", grown) + WIDE.virtio(mss) + WIDE.superframe(numbered(90)) for grown, mss in ((0, 30), (20_000, 100))),
    *(bytes(2) + bytes([1, 0, 0, 0, 0, 0]) + stream.virtio(0)[6:] + stream.frame(numbered(9), partial=True)
      for stream in STREAMS),
    *(bytes(2) + raw for raw in _tagged()),
    *(bytes(2) + raw for raw in _tunnelled()),
]  # fmt: skip


def grown(frame: bytes, zeros: int) -> bytes:
    """The frame with more payload, as far as an IP packet's length goes."""
    ethertype = int.from_bytes(frame[12:14], "big")
    at = {IPV4: 16, IPV6: 18}.get(ethertype, 0)
    if not at or len(frame) < at + 2:
        return frame
    length = int.from_bytes(frame[at : at + 2], "big") + zeros
    if length > MOST_GROWN:
        return frame
    return frame[:at] + length.to_bytes(2, "big") + frame[at + 2 :] + bytes(zeros)


@contextmanager
def checking() -> Iterator[Check]:
    """Nothing to open: the rules alone, in a buffer with canaries."""

    def check(raw: bytes) -> None:
        if len(raw) < 12:
            return
        virtio, frame = raw[2:12], grown(raw[12:], int.from_bytes(raw[:2], "big"))
        outcome = cut(frame, virtio)
        sent = [datagram for train in outcome.trains or () for datagram in train]
        assert bool(sent) <= (outcome.verdict == FORWARD)
        check_sent(virtio, frame, sent, tunnels=True)

    yield check
