"""Runs: nothing corrupt is made good."""

from __future__ import annotations

from struct import pack, unpack

import pytest

from tests.frames import (
    PLAIN,
    TCP,
)
from tests.runs import MSS, alone, changed, each_stream, each_udp, on_v4
from tests.steps import joined
from tests.stream import Stream, numbered


def places(stream: Stream) -> list[int]:
    """Bytes whose corruption the L4 checksum shows: all of L4, and the addresses."""
    at = stream.l4_at
    header = [at + 2, at + 3] if stream.proto != TCP else [at + 2, at + 3, at + 11, at + 15, at + 16, at + 17]
    checksum = [] if stream.proto == TCP else [at + 6, at + 7]
    return [*header, *checksum, stream.headers_len, stream.headers_len + MSS // 2, stream.headers_len + MSS - 1]


@each_stream
@pytest.mark.parametrize("victim", range(4))
def test_a_corrupt_frame_stays_alone(stream: Stream, victim: int) -> None:
    """First, later or last of a run, wherever the bit flipped: it is written byte for byte, the others may join."""
    frames = stream.segments(numbered(4 * MSS), MSS)
    for at in places(stream):
        damaged = [changed(frame, at, 0x10) if i == victim else frame for i, frame in enumerate(frames)]
        writes = joined(damaged)
        assert PLAIN + damaged[victim] in writes
        good = [write for write in writes if write != PLAIN + damaged[victim]]
        assert content_of(good, stream) == content_of([PLAIN + f for i, f in enumerate(frames) if i != victim], stream)


def content_of(writes: list[bytes], stream: Stream) -> bytes:
    """The payloads of writes, one after the other."""
    return b"".join(write[10 + stream.headers_len :] for write in writes)


@each_stream
def test_all_of_a_run_corrupt_alike_stay_alone(stream: Stream) -> None:
    """No field differs from its neighbour's, and no checksum is right."""
    frames = [changed(frame, stream.headers_len + 5) for frame in stream.segments(numbered(4 * MSS), MSS)]
    assert joined(frames) == alone(frames)


@each_stream
def test_two_corrupt_frames_do_not_cancel_out(stream: Stream) -> None:
    """The same flip in both cancels out in a sum over both, and must not."""
    first, second = stream.segments(numbered(2 * MSS), MSS)
    frames = [changed(first, -1, 0x40), changed(second, -2, 0x40)]
    assert joined(frames) == alone(frames)


@on_v4
@pytest.mark.parametrize("victim", range(3))
@pytest.mark.parametrize("partial", [False, True])
def test_a_corrupt_ipv4_header_stays_alone(stream: Stream, victim: int, partial: bool) -> None:
    """A superframe gets a new header checksum, so it is verified first, with a partial L4 checksum too."""
    frames = [stream.frame(numbered(MSS), i * MSS, i, partial=partial) for i in range(3)]
    damaged = [changed(frame, 25, 4) if i == victim else frame for i, frame in enumerate(frames)]
    writes = joined(damaged)
    assert damaged[victim] in [write[10:] for write in writes]
    assert len(writes) == (3 if victim == 1 else 2)


@each_udp
def test_udp_without_checksum_never_joins(stream: Stream) -> None:
    """Zero means none was computed, and the superframe's sum would hide that: in the first, a later one, or all."""
    frames = stream.segments(numbered(3 * MSS), MSS)
    at = stream.l4_at + 6
    bare = [frame[:at] + b"\0\0" + frame[at + 2 :] for frame in frames]
    assert joined(bare) == alone(bare)
    assert joined([bare[0], frames[1]]) == alone([bare[0], frames[1]])
    assert joined([frames[0], bare[1]]) == alone([frames[0], bare[1]])


@each_udp
def test_no_checksum_is_not_one_that_comes_out_zero(stream: Stream) -> None:
    """In one's complement both are zero, so the sum alone would not distinguish them."""
    at, payload = stream.l4_at + 6, bytes(2)
    (off,) = unpack("!H", stream.frame(payload)[at : at + 2])
    frame = stream.frame(pack("!H", off))
    assert frame[at : at + 2] == b"\xff\xff"
    second = stream.frame(pack("!H", off), 2, 1)
    assert len(joined([frame, second])) == 1
    bare = [one[:at] + b"\0\0" + one[at + 2 :] for one in (frame, second)]
    assert joined(bare) == alone(bare)


@each_udp
@pytest.mark.parametrize("victim", [0, 1])
def test_a_udp_length_that_is_not_the_packets_never_joins(stream: Stream, victim: int) -> None:
    """Even with a checksum that fits what IP carries: UDP would have refused it, or cut it short."""
    frames = [stream.frame(numbered(MSS), i * MSS, i, partial=True) for i in range(2)]
    frames[victim] = changed(frames[victim], stream.l4_at + 5)
    assert [write[10:] for write in joined(frames)] == frames


@each_stream
def test_a_wrong_checksum_is_not_offered_to_the_kernel(stream: Stream) -> None:
    """A field one off the pseudo-header's sum is corrupt, not partial."""
    frames = [stream.frame(numbered(MSS), i * MSS, i, partial=True) for i in range(2)]
    at = stream.l4_at + (17 if stream.proto == TCP else 7)
    damaged = [frames[0], changed(frames[1], at)]
    writes = joined(damaged)
    assert [write[10:] for write in writes] == damaged
    assert [write[0] for write in writes] == [1, 0]
