"""A kernel that refuses writes to the TAP, or has no room to report what it received."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import replace

import pytest

from tests.fabric import HERE, UDP_SEGMENT, Lone, lone_node, run, send_train, wait_readable
from tests.frames import ETH_LEN, PLAIN, pong, vxlan
from tests.fuzz.device import on_the_wire
from tests.refusing import WRITEV, while_refusing
from tests.stream import MSS, TCP4, TCP6, UDP4, UDP6, Stream, each_stream, numbered, reverse
from vxland.datapath.coalesce import Coalescer
from vxland.forwarding.pump import COMPILED

SO_TIMESTAMPNS, SO_TIMESTAMPING = 35, 37  # asm-generic/socket.h
refusing = pytest.mark.skipif(WRITEV is None, reason="the number of writev(2) is not known for this machine")


def receive(lone: Lone, least: int, most: int, code: int = errno.EINVAL) -> None:
    """One wake-up of the receiving side, by a thread whose writes of so many ranges are refused."""
    node, _ = lone
    wait_readable(node.udp.receiver)
    while_refusing(least, most, node.pump.on_udp_readable, code)
    node.read_host()


def drops(lone: Lone) -> dict[str, int]:
    """The receiving side's drops by reason."""
    return {reason: count for reason, count in lone[0].pump.decap_counters.by_reason().items() if count}


def of_kind(stream: Stream) -> str:
    """The offload that joins such segments."""
    return "join_tcp" if stream.options or stream.tos == 2 else "join_udp"


@refusing
@each_stream
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EMSGSIZE])
def test_a_refused_run_is_written_as_its_frames(offloading: Lone, stream: Stream, code: int) -> None:
    """Kernels 6.1.103 and 6.6.44 refused superframes, and every run was lost.

    Each frame is written as it came, the reason is kept and reported once, and later ones are not joined.
    """
    node, peer = offloading
    home, payload = reverse(stream), numbered(5 * MSS + 9)
    segments = home.segments(payload, MSS)
    for times in (1, 2):
        node.came.clear()
        send_train(peer, [vxlan(segment) for segment in segments], (HERE, node.udp.port))
        receive(offloading, 3, 1024, code)
        assert node.came == [PLAIN + segment for segment in segments]
        assert node.refusals == [(of_kind(stream), os.strerror(code))]
        counters = node.pump.decap_counters
        assert (counters.frames, counters.bytes) == (6 * times, times * sum(map(len, segments)))
        assert (counters.superframes, drops(offloading)) == (0, {})


@refusing
def test_the_other_protocol_is_joined_on(offloading: Lone) -> None:
    """TCP is refused; UDP, which was not, is not given up."""
    node, peer = offloading
    for stream, ranges in ((TCP4, 3), (UDP4, 1024)):
        home, payload = reverse(stream), numbered(4 * MSS)
        node.came.clear()
        send_train(peer, [vxlan(segment) for segment in home.segments(payload, MSS)], (HERE, node.udp.port))
        receive(offloading, ranges, 1024)
    assert node.came == [home.virtio(MSS) + home.superframe(payload)]
    assert node.refusals == [("join_tcp", "Invalid argument")]


@refusing
@pytest.mark.parametrize("stream", [TCP4, TCP6], ids=["TCP4", "TCP6"])
def test_frames_of_a_refused_run_keep_their_partial_checksums(offloading: Lone, stream: Stream) -> None:
    """A kernel neighbour's, some of them: these are finished by the kernel, the others are as they were sent."""
    node, peer = offloading
    home = reverse(stream)
    frames = [home.frame(numbered(MSS * 4)[i * MSS :][:MSS], i * MSS, i, partial=i % 2 == 0) for i in range(4)]
    send_train(peer, [vxlan(frame) for frame in frames], (HERE, node.udp.port))
    receive(offloading, 3, 1024)
    assert [came[10:] for came in node.came] == frames
    assert [came[:2] for came in node.came] == [b"\1\0", b"\0\0"] * 2
    assert [frame for came in node.came for frame in on_the_wire(came)] == home.segments(numbered(MSS * 4), MSS)


@refusing
@pytest.mark.parametrize("stream", [TCP4, TCP6, replace(TCP4, flags=0x99)], ids=["TCP4", "TCP6", "CWR"])
def test_a_refused_superframe_of_a_neighbour_is_cut_here(offloading: Lone, stream: Stream) -> None:
    """As the device that never came would have cut it, in segments that any path takes, with complete checksums."""
    node, peer = offloading
    home, payload = reverse(stream), numbered(30_000)
    size = (1280 if stream.is_v6 else 576) - (home.headers_len - ETH_LEN)
    for _ in range(2):
        node.came.clear()
        peer.sendto(vxlan(home.superframe(payload)), (HERE, node.udp.port))
        receive(offloading, 2, 2)
        assert node.came == [PLAIN + segment for segment in home.segments(payload, size)]
    assert (drops(offloading), node.pump.decap_counters.frames) == ({}, 2)
    assert node.refusals == [("join_tcp", "Invalid argument")]


@pytest.mark.parametrize("stream", [UDP4, UDP6], ids=["UDP4", "UDP6"])
@pytest.mark.parametrize("segments", [20, 60])
def test_a_kernel_without_udp_superframes_gets_their_segments(stream: Stream, segments: int) -> None:
    """Before Linux 6.2 a TAP refuses them: QUIC from a kernel neighbour was lost."""
    with lone_node(offload=True) as (node, peer):
        node.pump = node.new_pump(node.pump.table, coalescer=Coalescer(tcp=True, udp=False, takes_udp=False))
        home, payload = reverse(stream), numbered(segments * 400 - 7)
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 400))]
        peer.sendmsg([vxlan(home.frame(payload, partial=True))], control, 0, (HERE, node.udp.port))
        peer.sendto(vxlan(pong()), (HERE, node.udp.port))
        run([node], lambda: len(node.came) == segments + 1)
        assert node.came == [PLAIN + segment for segment in home.segments(payload, 400)] + [PLAIN + pong()]
        assert node.refusals == []


@refusing
def test_what_is_refused_either_way_says_nothing_of_superframes(offloading: Lone) -> None:
    """All writes fail, as where the TAP is another device's: counted as drops, and runs are offered again."""
    node, peer = offloading
    home, payload = reverse(TCP4), numbered(4 * MSS)
    for ranges in (2, 1024):
        node.came.clear()
        send_train(peer, [vxlan(segment) for segment in home.segments(payload, MSS)], (HERE, node.udp.port))
        receive(offloading, ranges, 1024)
    assert node.came == [home.virtio(MSS) + home.superframe(payload)]
    assert (node.refusals, drops(offloading)) == ([], {"tap_write_failed": 4})
    assert node.pump.last_write_errno == errno.EINVAL


@pytest.mark.skipif(not COMPILED, reason="the interpreted gear asks for no UDP_GRO, and Python has room for all")
def test_a_train_of_unknown_size_is_dropped_and_udp_gro_given_up(offloading: Lone) -> None:
    """MSG_CTRUNC: other control messages took the room. Cut wrongly, the train would be garbage for pods."""
    node, peer = offloading
    home = reverse(TCP4)
    for option, value in ((SO_TIMESTAMPNS, 1), (SO_TIMESTAMPING, 1 << 3 | 1 << 4)):  # of software, on receive
        node.udp.receiver.setsockopt(socket.SOL_SOCKET, option, value)
    datagrams = [vxlan(segment) for segment in home.segments(numbered(4 * MSS), MSS)]
    send_train(peer, datagrams, (HERE, node.udp.port))
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    assert drops(offloading) == {"truncated": 1}
    assert node.refusals == [("udp_gro", "no room to report sizes: MSG_CTRUNC")]
    send_train(peer, datagrams, (HERE, node.udp.port))
    run([node], lambda: node.pump.decap_counters.frames == 4)
    node.read_host()
    assert b"".join(frame[home.headers_len :] for frame in node.frames()) == numbered(4 * MSS)
    assert (drops(offloading), node.udp.gro) == ({"truncated": 1}, False)
