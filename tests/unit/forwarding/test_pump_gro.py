"""Buffers of UDP_GRO through the real pump: what the TAP is given for them."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import replace
from itertools import product

import pytest

from tests.fabric import HERE, UDP_SEGMENT, Lone, fill_up, run, send_train, wait_readable
from tests.frames import (
    MAC_B,
    OWN_MAC,
    PLAIN,
    ethernet,
    pong,
    vxlan,
)
from tests.stream import MSS, TCP4, UDP4, UDP6, Stream, each_stream, numbered, reverse


def arrive(lone: Lone, datagrams: list[bytes]) -> None:
    """Let a train arrive at the node in one buffer."""
    send_train(lone[1], datagrams, (HERE, lone[0].udp.port))


@each_stream
def test_a_buffer_becomes_one_superframe(offloading: Lone, stream: Stream) -> None:
    """Its datagrams are a run, and the TAP gets one write; the counters say how many frames it was."""
    node, _ = offloading
    home, payload = reverse(stream), numbered(20 * MSS + 5)
    segments = home.segments(payload, MSS)
    arrive(offloading, [vxlan(segment) for segment in segments])
    run([node], lambda: len(node.came) > 0)
    assert node.came == [home.virtio(MSS) + home.superframe(payload)]
    counters = node.pump.decap_counters
    assert (counters.frames, counters.bytes) == (21, sum(map(len, segments)))


@each_stream
@pytest.mark.parametrize(("outer", "inner"), list(product(range(4), range(4))))
def test_a_buffers_ecn_is_merged_into_each_datagram(offloading: Lone, stream: Stream, outer: int, inner: int) -> None:
    """RFC 6040 section 4.2, figure 4: the joined run has the merged field, and where it says drop all are counted."""
    node, peer = offloading
    peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, outer)
    home, payload = reverse(replace(stream, tos=46 << 2 | inner)), numbered(5 * MSS)
    arrive(offloading, [vxlan(segment) for segment in home.segments(payload, MSS)])
    counters = node.pump.decap_counters
    run([node], lambda: counters.frames + sum(counters.drops) == 5)
    node.read_host()
    if outer == 3 and inner == 0:
        assert (node.came, counters.by_reason()["ecn_ce"]) == ([], 5)
        return
    merged = outer if outer == 3 or (outer, inner) == (1, 2) else inner
    marked = replace(home, tos=46 << 2 | merged)
    assert node.came == [marked.virtio(MSS) + marked.superframe(payload)]


def test_buffers_of_another_ecn_are_another_run(offloading: Lone) -> None:
    """Congestion marked half way: the first segments come without the mark, the others with it."""
    node, peer = offloading
    home, payload = reverse(replace(TCP4, tos=2)), numbered(10 * MSS)
    datagrams = [vxlan(segment) for segment in home.segments(payload, MSS)]
    for tos, some in ((2, datagrams[:6]), (3, datagrams[6:])):
        peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        arrive(offloading, some)
    run([node], lambda: node.pump.decap_counters.frames == 10)
    node.read_host()
    rest = replace(home, tos=3, seq=home.seq + 6 * MSS, ident=home.ident + 6)
    assert node.came == [
        home.virtio(MSS) + home.superframe(payload[: 6 * MSS]),
        rest.virtio(MSS) + rest.superframe(payload[6 * MSS :]),
    ]


def test_a_run_goes_on_from_buffer_to_buffer(offloading: Lone) -> None:
    """Within one wake-up, up to 64 segments; nothing stays behind when it ends."""
    node, _ = offloading
    home, payload = reverse(TCP4), numbered(70 * 500)
    datagrams = [vxlan(segment) for segment in home.segments(payload, 500)]
    for i in range(0, 70, 10):
        arrive(offloading, datagrams[i : i + 10])
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    assert node.pump.decap_counters.frames == 70
    node.read_host()
    rest = replace(home, seq=home.seq + 64 * 500, ident=home.ident + 64)
    assert node.came == [
        home.virtio(500) + home.superframe(payload[: 64 * 500]),
        rest.virtio(500) + rest.superframe(payload[64 * 500 :]),
    ]


def test_single_datagrams_of_a_burst_join_too(offloading: Lone) -> None:
    """With a network card that coalesces nothing."""
    node, peer = offloading
    home, payload = reverse(UDP4), numbered(12 * 400)
    for segment in home.segments(payload, 400):
        peer.sendto(vxlan(segment), (HERE, node.udp.port))
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    node.read_host()
    assert node.came == [home.virtio(400) + home.superframe(payload)]


def wrong_vni(datagram: bytes) -> bytes:
    """Another overlay's."""
    return datagram[:6] + b"\7" + datagram[7:]


def no_flag(datagram: bytes) -> bytes:
    """Without a valid VNI."""
    return b"\0" + datagram[1:]


def own_mac(datagram: bytes) -> bytes:
    """From our own MAC."""
    return datagram[:14] + OWN_MAC.to_bytes(6, "big") + datagram[20:]


def lying(datagram: bytes) -> bytes:
    """An IP length a little beyond the datagram, into the next one."""
    return datagram[:24] + struct.pack("!H", len(datagram) - 22 + 9) + datagram[26:]


BAD = {"wrong_vni": wrong_vni, "i_flag_clear": no_flag, "own_mac": own_mac, "inner_malformed": lying}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("victim", [0, 3, 9])
def test_a_bad_datagram_of_a_buffer_is_counted_and_the_others_pass(offloading: Lone, reason: str, victim: int) -> None:
    """At the front, in the middle or last: nine of ten arrive, in runs where no gap is between them."""
    node, _ = offloading
    home = reverse(TCP4)
    segments = home.segments(numbered(10 * 700), 700)
    datagrams = [vxlan(segment) for segment in segments]
    datagrams[victim] = BAD[reason](datagrams[victim])
    arrive(offloading, datagrams)
    run([node], lambda: node.pump.decap_counters.frames == 9 and len(node.came) == (2 if victim == 3 else 1))
    assert {k: v for k, v in node.pump.decap_counters.by_reason().items() if v} == {reason: 1}
    payload = b"".join(frame[home.headers_len :] for frame in node.frames())
    assert payload == b"".join(s[home.headers_len :] for i, s in enumerate(segments) if i != victim)


def test_a_bad_datagram_between_two_segments_does_not_part_them(offloading: Lone) -> None:
    """It is nobody's, so it ends no run."""
    node, _ = offloading
    home = reverse(TCP4)
    segments = home.segments(numbered(4 * 700), 700)
    datagrams = [vxlan(segment) for segment in segments]
    arrive(offloading, [*datagrams[:2], wrong_vni(datagrams[0]), *datagrams[2:]])
    run([node], lambda: len(node.came) == 1)
    assert node.came == [home.virtio(700) + home.superframe(numbered(4 * 700))]


def test_a_corrupt_segment_of_a_buffer_reaches_the_tap_as_it_came(offloading: Lone) -> None:
    """For the receiving stack to refuse and to count."""
    node, _ = offloading
    home = reverse(TCP4)
    segments = home.segments(numbered(9 * 700), 700)
    segments[4] = segments[4][:-1] + bytes([segments[4][-1] ^ 1])
    arrive(offloading, [vxlan(segment) for segment in segments])
    run([node], lambda: len(node.came) == 3)
    assert node.came[1] == PLAIN + segments[4]
    assert [came[1] for came in node.came] == [1, 0, 1]
    assert node.pump.decap_counters.frames == 9


def test_other_frames_of_a_buffer_pass_in_their_order(offloading: Lone) -> None:
    """ICMP, ARP and unknown ethertypes of one size, as a train of small frames brings them."""
    node, _ = offloading
    frames = [pong(i) for i in range(5)]
    frames.insert(2, ethernet(OWN_MAC, MAC_B, 0x88CC, bytes(len(frames[0]) - 14)))
    arrive(offloading, [vxlan(frame) for frame in frames])
    run([node], lambda: len(node.came) == 6)
    assert node.came == [PLAIN + frame for frame in frames]


@pytest.mark.parametrize("stream", [UDP4, UDP6], ids=["UDP4", "UDP6"])
@pytest.mark.parametrize("mss", [100, 1200])
def test_a_kernel_neighbours_udp_superframe_is_one_datagram(offloading: Lone, stream: Stream, mss: int) -> None:
    """UDP_GRO reports the size of its inner segments: it is written whole, and the kernel cuts it by that size."""
    node, peer = offloading
    home = reverse(stream)
    frame = home.frame(numbered(5 * mss + 30), partial=True)
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", mss))]
    peer.sendmsg([vxlan(frame)], control, 0, (HERE, node.udp.port))
    peer.sendto(vxlan(pong()), (HERE, node.udp.port))
    run([node], lambda: len(node.came) == 2)
    assert node.came == [home.virtio(mss) + frame, PLAIN + pong()]
    assert node.pump.decap_counters.frames == 2


def test_a_run_that_the_tap_refuses_is_counted_whole(offloading: Lone) -> None:
    """Five segments lost are five drops."""
    node, _ = offloading
    fill_up(node.tap)
    home = reverse(TCP4)
    arrive(offloading, [vxlan(segment) for segment in home.segments(numbered(5 * 700), 700)])
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    assert {k: v for k, v in node.pump.decap_counters.by_reason().items() if v} == {"tap_write_failed": 5}
    assert (node.pump.decap_counters.frames, node.pump.last_write_errno) == (0, errno.EAGAIN)


def test_buffers_fill_the_arena_and_all_cross(offloading: Lone) -> None:
    """Twelve of 60 KB in one burst: no buffer is received over a run that is still open."""
    node, _ = offloading
    try:
        node.tap.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)
    except PermissionError:
        pytest.skip("needs root: the socket that stands in for the TAP does not hold so much otherwise")
    home, payload = reverse(TCP4), numbered(12 * 42 * MSS)
    datagrams = [vxlan(segment) for segment in home.segments(payload, MSS)]
    for i in range(0, len(datagrams), 42):
        arrive(offloading, datagrams[i : i + 42])
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    node.read_host()
    assert node.pump.decap_counters.frames == len(datagrams)
    assert b"".join(frame[home.headers_len :] for frame in node.frames()) == payload
