"""Cutting and joining are inverses, every segment is right, and no virtio header makes either go astray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.corpus import FRAMES
from tests.damage import SUPERFRAMES, damaged, streams, virtio_headers
from tests.frames import CANARIES, MAC_B, OUTER_B, PLAIN, TCP, VNI, from_outer, place, vxlan
from tests.judge import checksums_are_right
from tests.steps import ANSWERED, TABLE, cut, joined
from tests.stream import ACK, CWR, FIN, PSH, RST, SYN, TCP4, TCP6, TIMESTAMPS, UDP4, UDP6, URG, Stream, numbered
from vxland.datapath.decap import Decap
from vxland.datapath.verdict import FORWARD, Drop

ENCAP_VERDICTS = {FORWARD, ANSWERED, Drop.INNER_MALFORMED, Drop.BUM, Drop.NO_VTEP}
MOST_SEGMENTS = 64
LEAST = 36


@st.composite
def sizes(draw: st.DrawFn, most: int) -> tuple[int, int]:
    """Bytes of payload and gso_size: `most` segments at most; odd sizes, whole multiples, and sometimes 60 KiB."""
    mss = draw(st.one_of(st.integers(1, 90), st.integers(1, 1460), st.sampled_from([1, 2, 1398, 8948])))
    segments = draw(st.integers(1, most if mss >= LEAST else min(most, 128)))  # no stack sends more of so small ones
    length = mss * (segments - 1) + draw(st.one_of(st.just(mss), st.integers(1, mss)))
    return min(length, 65_000 if draw(st.integers(0, 9)) == 0 else 3000), mss


JOINABLE = st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | PSH | FIN])


@settings(deadline=None, max_examples=150)
@given(streams(JOINABLE), sizes(MOST_SEGMENTS))
@example(TCP4, (65_495, 1398))
@example(TCP6, (65_475, 1398))
@example(UDP4, (64 * 1024 - 64, 1023))
@example(replace(TCP4, seq=0xFFFF_FFFF, ident=0xFFFF, flags=ACK | PSH), (1399, 1398))
@example(replace(UDP6, extensions=8), (640, 10))
def test_joining_undoes_cutting(stream: Stream, size: tuple[int, int]) -> None:
    """The superframe and its virtio header come back byte for byte, in one piece."""
    (length, mss), payload = size, numbered(size[0])
    frames = cut(stream.superframe(payload), stream.virtio(mss)).frames
    whole = stream.virtio(mss) + stream.superframe(payload) if length > mss else PLAIN + stream.frame(payload)
    assert joined(frames, own_mac=MAC_B) == [whole]


@settings(deadline=None, max_examples=150)
@given(streams(st.integers(0, 0x1FF)), sizes(200))
@example(replace(TCP6, flags=0x1FF), (65_475, 700))
def test_every_segment_is_what_a_device_would_send(stream: Stream, size: tuple[int, int]) -> None:
    """As it is built one by one, whatever the flags; scapy finds its checksums right."""
    payload, mss = numbered(size[0]), size[1]
    frames = cut(stream.superframe(payload), stream.virtio(mss)).frames
    assert frames == stream.segments(payload, mss)
    assert all(checksums_are_right(frame, stream.l4_at, stream.proto) for frame in frames)


def cut_again(writes: list[bytes]) -> list[bytes]:
    """Return the frames that a device makes of writes to the TAP: superframes cut, partial checksums finished."""
    return [frame for write in writes for frame in cut(write[10:], write[:10]).frames]


@settings(deadline=None, max_examples=100)
@given(streams(st.integers(0, 0x1FF)), sizes(200))
def test_cutting_undoes_joining(stream: Stream, size: tuple[int, int]) -> None:
    """Segments of any flags and number come out of their runs as they went in."""
    frames = stream.segments(numbered(size[0]), size[1])
    assert cut_again(joined(frames, own_mac=MAC_B)) == frames


Step = tuple[int, int, int, dict[str, Any], str, int]
STEPS = st.tuples(
    st.integers(0, 1),  # the flow
    st.sampled_from([40] * 8 + [39, 41, 0, 1]),  # bytes of payload
    st.sampled_from([ACK] * 9 + [ACK | PSH, ACK | FIN, ACK | 0x40]),
    st.sampled_from([{}] * 9 + [{"window": 9}, {"tos": 3}, {"ttl": 1}, {"ack": 7}, {"ident": 99}, {"seq": 5}]),
    st.sampled_from(["whole"] * 9 + ["partial", "corrupt", "corrupt", "no IP checksum", "repeated"]),
    st.integers(0, 1000),
)


@settings(deadline=None, max_examples=150)
@given(st.tuples(streams(st.just(ACK)), streams(st.just(ACK))), st.lists(STEPS, max_size=30))
def test_any_frames_come_out_as_they_went_in(flows: tuple[Stream, Stream], steps: list[Step]) -> None:
    """Two flows mixed, with gaps, repetitions, differing fields and corrupt bytes: order is kept, nothing is lost.

    And no corrupt frame becomes valid: a device computes new checksums, so a corrupt frame in a run would change.
    """
    sent, numbers = [0, 0], [0, 0]
    frames: list[bytes] = []
    want: list[bytes] = []
    for flow, length, flags, fields, state, noise in steps:
        stream = replace(flows[flow], **fields)
        payload, at, number = numbered(length), sent[flow], numbers[flow]
        frame = stream.frame(payload, at, number, flags, partial=state == "partial")
        want.append(stream.frame(payload, at, number, flags) if state == "partial" else frame)
        if state == "corrupt" and length:
            frame = want[-1] = flipped(frame, stream.headers_len + noise % length, 1 << noise % 8)
        elif state == "no IP checksum" and not stream.is_v6:
            frame = want[-1] = flipped(frame, 24 + noise % 2, 1 << noise % 8)
        frames.append(frame)
        if state != "repeated":
            sent[flow], numbers[flow] = at + length, number + 1
    assert cut_again(joined(frames, own_mac=MAC_B)) == want


def declared(stream: Stream, length: int, reported: int) -> int:
    """The bytes of the longest segment of a superframe of `length` bytes of payload whose mark reports a size."""
    safe = (1280 if stream.is_v6 else 576) - (stream.headers_len - 14)
    size = reported if reported >= LEAST else safe if safe >= 256 else length
    return length if stream.flags & (SYN | RST | URG) else min(size, length)


SIZES = st.one_of(st.just(0), st.integers(0, 90), st.integers(0, 3000), st.integers(0, 0xFFFF))


@settings(deadline=None, max_examples=200)
@given(streams(st.integers(0, 0x1FF)).filter(lambda stream: stream.proto == TCP), st.integers(1, 5000), SIZES)
@example(TCP4, 65_495, 1398)
@example(TCP6, 65_475, 36)
@example(TCP4, 65_495, 35)
@example(replace(TCP6, flags=ACK | CWR | PSH), 3000, 1378)
def test_a_superframe_is_cut_as_reported(stream: Stream, length: int, reported: int) -> None:
    """A kernel neighbour's, of any size a mark may have: a device behind the TAP makes the sender's own segments."""
    payload = numbered(length)
    writes = joined([stream.superframe(payload)], own_mac=MAC_B, sizes=[reported])
    assert cut_again(writes) == stream.segments(payload, declared(stream, length, reported))


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([TCP4, TCP6, replace(TCP4, options=TIMESTAMPS)]),
    st.lists(st.tuples(st.integers(1, 4000), SIZES, st.booleans()), min_size=1, max_size=8),
)
@example(TCP4, [(2796, 1398, True), (2796, 0, True), (1398, 1398, False)])
def test_no_segment_of_a_run_is_longer_than_its_superframes_declare(
    stream: Stream, pieces: list[tuple[int, int, bool]]
) -> None:
    """Superframes of one flow, of reported sizes or not, and whole segments: every byte comes out once, and in order.

    A segment may span two frames. It is no longer than each superframe among them declares, nor than all of them.
    """
    frames: list[bytes] = []
    sizes: list[int] = []  # of the frame that a byte is in: the longest segment that the frame alone would make
    bounds: list[int] = []  # the same, without a bound for frames of one segment
    payload = numbered(sum(length for length, _, _ in pieces))
    for number, (length, reported, partial) in enumerate(pieces):
        frames.append(stream.frame(payload[len(sizes) :][:length], len(sizes), number, partial=partial))
        size = declared(stream, length, reported) if partial else length
        sizes += [size] * length
        bounds += [size if size < length else len(payload)] * length
    at = 0
    for frame in cut_again(joined(frames, own_mac=MAC_B, sizes=[reported for _, reported, _ in pieces])):
        segment = frame[stream.headers_len :]
        end = at + len(segment)
        assert segment == payload[at:end]
        assert len(segment) <= min(max(sizes[at:end]), *bounds[at:end])
        at = end
    assert at == len(payload)


def flipped(frame: bytes, at: int, mask: int) -> bytes:
    """The frame with some bits of one byte changed."""
    return frame[:at] + bytes([frame[at] ^ mask]) + frame[at + 1 :]


# Whatever a virtio header says.


@settings(deadline=None, max_examples=250)
@given(damaged(SUPERFRAMES + FRAMES), virtio_headers(), st.sampled_from([1, 3, 128]))
@example(TCP4.superframe(numbered(65_490)), TCP4.virtio(0xFFFF), 128)
@example(TCP4.superframe(numbered(300)), TCP4.virtio(1), 128)
@example(b"", TCP4.virtio(100), 128)
def test_any_virtio_header_gets_a_verdict(frame: bytes, virtio: bytes, most: int) -> None:
    """FORWARD, ANSWERED or a Drop; cut or whole, what leaves depends on nothing behind the frame, and writes nothing.

    cut() sees to it that the frame, what is around it and what is behind the scratch stay as they were.
    """
    outcomes = [cut(frame, virtio, most, after) for after in CANARIES]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0].verdict in ENCAP_VERDICTS
    if outcomes[0].trains is not None:
        assert outcomes[0].verdict == FORWARD
        assert all(len(datagram) >= 8 + 14 for train in outcomes[0].trains for datagram in train)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.one_of(damaged(TCP4.segments(numbered(300), 60)), damaged(UDP6.segments(numbered(300), 60) + FRAMES)),
        max_size=8,
    )
)
def test_any_frames_may_follow_one_another(frames: list[bytes]) -> None:
    """Nothing beyond a frame is read or written when it is compared with the one before it; all of them come out."""
    outcomes = []
    for between in CANARIES:
        drops: list[int] = []
        writes = joined(frames, own_mac=MAC_B, between=between, drops=drops)
        outcomes.append((writes, drops))
        assert set(drops) <= {Drop.INNER_MALFORMED, Drop.OWN_MAC}
        assert sum(map(len, frames)) >= sum(len(write) - 10 for write in writes)
        assert len(writes) <= len(frames) - len(drops)
    assert all(outcome == outcomes[0] for outcome in outcomes)


@settings(deadline=None, max_examples=200)
@given(damaged(SUPERFRAMES + FRAMES), st.integers(0, 600), st.booleans())
def test_any_stride_gives_one_that_ends(frame: bytes, stride: int, honest: bool) -> None:
    """The size that UDP_GRO reported, or all of the buffer; never 0, whatever follows the buffer."""
    found = set()
    for after in CANARIES:
        placed, decap = place(vxlan(frame), after=after), Decap(VNI, MAC_B, True)
        reported = stride if honest else 0
        pieces = decap.stride_of(placed.buf, placed.at, placed.length, reported)
        found.add((pieces, decap.inner_stride))
        assert pieces in {reported, placed.length}
        assert pieces > 0
        assert decap.decap(placed.buf, placed.at, min(pieces, placed.length), from_outer(OUTER_B), TABLE) >= 0
    assert len(found) == 1
