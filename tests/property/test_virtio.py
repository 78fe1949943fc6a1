"""Whatever a virtio header says, a pod changes nothing behind the firewall, and no more leaves than it paid for."""

from __future__ import annotations

from dataclasses import replace
from struct import pack

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.corpus import FRAMES
from tests.damage import NEAR, SUPERFRAMES, damaged, virtio_headers
from tests.frames import MAC_B, POD_A, POD_A6, POD_B, POD_B6, UDP, frame_of, packet_of, udp, vxlan
from tests.steps import cut
from tests.stream import TCP4, TCP6, UDP4, UDP6, Stream, numbered
from tests.virtio import check_sent

PLAIN_FRAMES = [stream.frame(numbered(80), partial=True) for stream in (TCP4, TCP6, UDP4, UDP6)]
TAGGED = [frame[:12] + b"\x81\x00\x00\x64" + frame[12:] for frame in PLAIN_FRAMES]
PLACES = st.tuples(NEAR, st.one_of(st.sampled_from([2, 4, 6, 16, 32]), NEAR))


@settings(deadline=None, max_examples=250)
@given(damaged(SUPERFRAMES + FRAMES + PLAIN_FRAMES + TAGGED), virtio_headers())
@example(TCP6.frame(numbered(80)), pack("<BBHHHH", 1, 0, 0, 0, 20, 32))  # the destination address
@example(TCP6.frame(numbered(80)), pack("<BBHHHH", 1, 0, 0, 0, 20, 16))  # the source address
@example(UDP4.frame(numbered(80)), pack("<BBHHHH", 1, 0, 0, 0, 34, 2))  # the destination port
@example(TCP4.superframe(numbered(60_000)), TCP4.virtio(1))
@example(
    replace(TCP6, extensions=1, extension_len=2040).superframe(numbered(60_000)), TCP6.virtio(1)[:6] + b"\x2e\x08\x10\0"
)
def test_only_the_frames_own_checksum_changes(frame: bytes, virtio: bytes) -> None:
    """With a packet socket a pod had addresses and ports rewritten behind ip6tables' and iptables' DROP rules."""
    outcome = cut(frame, virtio)
    check_sent(virtio, frame, [datagram for train in outcome.trains or () for datagram in train])


@settings(deadline=None, max_examples=250)
@given(st.sampled_from(PLAIN_FRAMES + TAGGED), PLACES)
def test_no_place_but_the_frames_own_is_believed(frame: bytes, place: tuple[int, int]) -> None:
    """Start and offset anywhere, over frames that are right."""
    virtio = pack("<BBHHHH", 1, 0, 0, 0, *place)
    outcome = cut(frame, virtio)
    check_sent(virtio, frame, [datagram for train in outcome.trains or () for datagram in train])


@st.composite
def superframes(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Superframes of any segment size, with headers of any length."""
    stream = draw(st.sampled_from([TCP4, TCP6, UDP4, UDP6]))
    if stream.is_v6:
        stream = replace(stream, extensions=draw(st.integers(0, 8)), extension_len=8 * draw(st.integers(1, 255)))
    payload = numbered(draw(st.one_of(st.integers(1, 4000), st.integers(1, 62_000 - stream.headers_len))))
    return stream.superframe(payload), stream.virtio(draw(st.one_of(st.integers(1, 100), st.integers(1, 0xFFFF))))


@settings(deadline=None, max_examples=150)
@given(superframes())
def test_what_a_superframe_is_cut_into_is_bounded(given_: tuple[bytes, bytes]) -> None:
    """Datagrams and bytes, by what was read."""
    frame, virtio = given_
    outcome = cut(frame, virtio)
    check_sent(virtio, frame, [datagram for train in outcome.trains or () for datagram in train])


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([TCP4, TCP6, UDP4, UDP6]), st.booleans(), PLACES, st.booleans())
def test_of_a_tunnel_only_the_inner_checksum_changes(
    inner: Stream, over_v6: bool, place: tuple[int, int], right: bool
) -> None:
    """A checksum may be that of the packet or of an inner packet; any other place is refused."""
    frame = inner.frame(numbered(60), partial=True)
    pair = (POD_A6, POD_B6) if over_v6 else (POD_A, POD_B)
    outer = frame_of(packet_of(*pair, UDP, udp(*pair, vxlan(frame, 9), dport=4789)), MAC_B)
    l4_at = len(outer) - len(frame) + inner.l4_at
    offset = 16 if inner.proto != UDP else 6
    start, chosen = (l4_at, offset) if right else place
    (datagrams,) = cut(outer, pack("<BBHHHH", 1, 0, 0, 0, start, chosen)).trains or [[]]
    for datagram in datagrams:
        changed = {at for at in range(6, len(outer)) if datagram[8 + at] != outer[at]}
        field = l4_at + offset if (start, chosen) == (l4_at, offset) else (54 if over_v6 else 34) + 6
        assert changed <= {field, field + 1}
    if right:
        assert datagrams
