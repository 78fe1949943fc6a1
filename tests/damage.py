"""Strategies for hypothesis: flows, damaged frames, and arbitrary virtio headers."""

from __future__ import annotations

from dataclasses import replace
from struct import pack

from hypothesis import strategies as st

from tests.frames import TCP
from tests.stream import NOP, TCP4, TCP6, TIMESTAMPS, UDP4, UDP6, Stream, numbered

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF)
SUPERFRAMES = [stream.superframe(numbered(300)) for stream in (TCP4, TCP6, UDP4, UDP6)] + [
    replace(TCP4, options=NOP * 40, ip_options=NOP * 40).superframe(numbered(300)),
    replace(TCP6, extensions=8, options=TIMESTAMPS).superframe(numbered(300)),
]
NEAR = st.one_of(st.sampled_from([0, 1, 14, 34, 54, 74, 0xFFFF, 0xFFFE]), st.integers(0, 400), U16)


@st.composite
def streams(draw: st.DrawFn, flags: st.SearchStrategy[int]) -> Stream:
    """Draw a flow from A to B of either family and protocol, with any header fields, options and extension headers."""
    stream = draw(st.sampled_from([TCP4, TCP6, UDP4, UDP6]))
    options: st.SearchStrategy[bytes] = st.one_of(
        st.just(b""), st.just(TIMESTAMPS), st.integers(0, 10).map(lambda words: NOP * 4 * words)
    )
    return replace(
        stream,
        options=draw(options) if stream.proto == TCP else b"",
        ip_options=b"" if stream.is_v6 else NOP * 4 * draw(st.one_of(st.just(0), st.integers(0, 10))),
        extensions=draw(st.one_of(st.just(0), st.integers(0, 8))) if stream.is_v6 else 0,
        tos=draw(st.integers(0, 255)),
        ttl=draw(st.integers(1, 255)),
        ident=draw(U16),
        fragment=draw(st.sampled_from([0, 0x4000, 0x8000])),
        seq=draw(U32),
        ack=draw(U32),
        window=draw(U16),
        urgent=draw(st.sampled_from([0, 0, 9])),
        flags=draw(flags),
        sport=draw(U16),
    )


@st.composite
def virtio_headers(draw: st.DrawFn) -> bytes:
    """Draw a valid header with some fields changed, or random bytes."""
    right = draw(st.sampled_from([TCP4, TCP6, UDP4, UDP6])).virtio(draw(NEAR))
    flags, gso_type = draw(st.sampled_from([right[0], 0, 1, 255])), draw(st.sampled_from([right[1]] * 3 + [0, 3, 0x85]))
    start = draw(st.sampled_from([right[6:8]] * 4 + [pack("<H", draw(NEAR))]))
    offset = draw(st.sampled_from([right[8:10]] * 4 + [pack("<H", draw(NEAR))]))
    any_bytes = draw(st.binary(min_size=10, max_size=10))
    chosen = bytes([flags, gso_type]) + pack("<H", draw(NEAR)) + right[4:6] + start + offset
    return any_bytes if draw(st.integers(0, 4)) == 0 else chosen


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """Draw a frame with some header bytes changed, truncated or padded, or unchanged."""
    changed = bytearray(draw(st.sampled_from(whole)))
    if draw(st.booleans()):
        for at, value in draw(st.dictionaries(st.integers(0, 119), st.integers(0, 255), max_size=3)).items():
            changed[at % len(changed)] = value
    length = draw(st.one_of(st.none(), st.none(), st.integers(0, len(changed))))
    return bytes(changed[:length]) + bytes(draw(st.sampled_from([0, 0, 18])))
