"""Frames through the package's own steps, run as pump.py runs them, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.frames import (
    OUTER_B,
    OWN_MAC,
    PLAIN,
    TAILROOM,
    VNI,
    Placed,
    from_outer,
    peers_of_a,
    place,
    vxlan,
)
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.segment import Segmenter
from vxland.datapath.table import Table
from vxland.datapath.train import Gather, Train
from vxland.datapath.verdict import FORWARD
from vxland.model.source_check import SourceCheck

TABLE = peers_of_a()
FROM_B = from_outer(OUTER_B)
CHECK_VTEP = SourceCheck.VTEP
CANARY = b"\xa5" * 64
SLOTS_LEN = 128 * 256
"""Scratch for the headers of a train's maximum number of segments."""
NOW_US = 5_000_000_000
"""Some time after the machine was started, on the monotonic clock."""
SCRATCH_AT = 16
ANSWERED = -1
"""The verdict on a frame that Encap answered; in C only, compiled."""
B, C = 0, 1
"""Indices of the peers in TABLE."""


def encap_frame(
    frame: bytes,
    encap: Encap | None = None,
    virtio: bytes = PLAIN,
    now_us: int = NOW_US,
    after: bytes = bytes(TAILROOM),
) -> tuple[int, Encap, Placed]:
    """Return the verdict on a frame, the Encap that decided it, and the buffer of the frame."""
    encap, placed = encap or Encap(VNI, 16), place(frame, virtio, after)
    return encap.encap(placed.buf, placed.at, placed.length, TABLE, now_us), encap, placed


def decap_datagram(
    datagram: bytes,
    received: Datagram = FROM_B,
    check: int = CHECK_VTEP,
    table: Table = TABLE,
    after: bytes = bytes(TAILROOM),
) -> tuple[int, Decap, Placed]:
    """Return the verdict on a datagram to node A, the Decap that decided it, and the buffer of the datagram."""
    decap, placed = Decap(VNI, OWN_MAC, check), place(datagram, after=after)
    return decap.decap(placed.buf, placed.at, placed.length, received, table), decap, placed


def gathered(buf: bytearray, ranges: Gather) -> bytes:
    """Return the bytes that sendmsg or writev would send."""
    spans = ((ranges.at[i], ranges.length[i]) for i in range(ranges.count))
    return b"".join(bytes(buf[at : at + length]) for at, length in spans)


@dataclass
class Cut:
    """The result of a superframe: its trains, each a list of datagrams, or None if it was refused."""

    verdict: int
    trains: list[list[bytes]] | None

    @property
    def frames(self) -> list[bytes]:
        """Return the inner frames in order, without their VXLAN headers."""
        datagrams = [datagram for train in self.trains or () for datagram in train]
        assert all(datagram[:8] == vxlan(b"") for datagram in datagrams)
        return [datagram[8:] for datagram in datagrams]


def cut(frame: bytes, virtio: bytes, max_datagrams: int = 128, after: bytes = CANARY) -> Cut:
    """Run Encap and Segmenter on one superframe, as the pump does, with canaries around the frame and the scratch."""
    head = CANARY[:54] + virtio
    scratch_at = len(head) + len(frame) + len(after)
    buf = bytearray(head + frame + after + bytes(SLOTS_LEN) + CANARY)
    encap, train, segmenter = Encap(VNI, 16), Train(max_datagrams), Segmenter(scratch_at)
    verdict = encap.encap(buf, len(head), len(frame), TABLE, NOW_US)
    if verdict != FORWARD or not encap.gso_size:
        return Cut(verdict, [[bytes(buf[len(head) - 8 : len(head) + len(frame)])]] if verdict == FORWARD else None)
    before = bytes(buf[:scratch_at])
    if not segmenter.open(buf, len(head), encap.ip, encap.csum_start, encap.gso_size):
        assert buf[:scratch_at] == before
        return Cut(verdict, None)
    trains = []
    while not segmenter.done():
        train.begin(encap.vtep, encap.marks, encap.port, segmenter.datagram_len())
        segmenter.fill(buf, train)
        sent = gathered(buf, train.ranges)
        assert 0 < len(sent) == train.ranges.nbytes <= 65_507
        assert 0 < train.datagrams <= max_datagrams
        trains.append([sent[at : at + train.size] for at in range(0, len(sent), train.size)])
        assert len(trains[-1]) == train.datagrams
    assert buf[:scratch_at] == before
    assert buf[scratch_at + SLOTS_LEN :] == CANARY
    return Cut(verdict, trains)


def joined(
    frames: Sequence[bytes],
    run: Coalescer | None = None,
    inner_stride: int = 0,
    own_mac: int = OWN_MAC,
    between: bytes = CANARY,
    drops: list[int] | None = None,
    sizes: Sequence[int] = (),
) -> list[bytes]:
    """Run Decap and Coalescer on frames in order, as the pump does; return the TAP's writes in order.

    The frames are in one buffer with canaries between them, which must not change; nor may the frames, once each run is
    taken apart. None may be dropped unless `drops` is given for the reasons. `sizes` are the segment sizes that
    marks report.
    """
    decap = Decap(VNI, own_mac, CHECK_VTEP)
    run = Coalescer(tcp=True, udp=True) if run is None else run
    buf, places = bytearray(10) + between, []
    for frame in frames:
        places.append(len(buf))
        buf += vxlan(frame) + between
    writes = []

    def write() -> None:
        if run.segments:
            run.finish(buf)
            writes.append(gathered(buf, run.ranges))
            run.take_apart(buf)
            run.clear()

    for at, frame, size in zip(places, frames, sizes or [0] * len(frames), strict=True):
        if inner_stride:
            assert decap.stride_of(buf, at, len(frame) + 8, inner_stride) == len(frame) + 8
        received = from_outer(OUTER_B, segment_size=size) if size else FROM_B
        verdict = decap.decap(buf, at, len(frame) + 8, received, TABLE)
        if verdict != FORWARD:
            assert drops is not None
            drops.append(verdict)
        elif run.segments == 0 or not run.join(buf, decap):
            write()
            run.start(buf, 0, decap)
        if run.ended:
            write()
    write()
    for at, frame in zip(places, frames, strict=True):
        assert buf[at + 8 : at + 8 + len(frame)] == frame
        assert buf[at - len(between) : at] == between
        assert buf[at + 8 + len(frame) :][: len(between)] == between
    return writes


def written(frame: bytes, received: Datagram = FROM_B) -> tuple[bytes, bytes]:
    """Return virtio header and frame for the TAP; nothing around them may have changed."""
    verdict, decap, placed = decap_datagram(vxlan(frame), received)
    assert verdict == FORWARD
    untouched = place(vxlan(frame)).buf
    assert (decap.frame_at, decap.frame_len) == (placed.at + 8, len(frame))
    assert placed.buf[: placed.at + 8] == untouched[: placed.at + 8]
    assert placed.buf[placed.at + 8 + len(frame) :] == untouched[placed.at + 8 + len(frame) :]
    return header_of(decap, placed), placed.bytes_at(decap.frame_at, decap.frame_len)


def header_of(decap: Decap, placed: Placed) -> bytes:
    """Return the virtio header of the accepted frame: ten bytes of scratch, without any other change."""
    before, run = bytes(placed.buf), Coalescer(tcp=True, udp=True)
    run.start(placed.buf, SCRATCH_AT, decap)
    run.finish(placed.buf)
    assert placed.buf[:SCRATCH_AT] == before[:SCRATCH_AT]
    assert placed.buf[SCRATCH_AT + 10 :] == before[SCRATCH_AT + 10 :]
    return placed.bytes_at(SCRATCH_AT, 10)
