"""Packet marks that report the segment size of a kernel neighbour's superframe, through a real socket to the TAP.

The sender sets the mark; loopback keeps it, so the receiving socket sees it as if a tc program had set it.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

import pytest

from tests.fabric import HERE, Lone, lone_node, run, send_train, wait_readable
from tests.frames import ETH_LEN, PLAIN, pong, vxlan
from tests.refusing import WRITEV, while_refusing
from tests.stream import MSS, TCP4, TCP6, TIMESTAMPS, Stream, numbered, reverse
from vxland.datapath.datagram import SEGMENT_MARK
from vxland.forwarding.io import udp

FLOWS = [reverse(replace(TCP4, options=TIMESTAMPS)), reverse(TCP6)]
each_flow = pytest.mark.parametrize("flow", FLOWS, ids=["TCP4", "TCP6"])


def set_mark(sender: socket.socket, mark: int) -> None:
    """Mark what this socket sends from now on, or skip the test: that needs CAP_NET_ADMIN or CAP_NET_RAW."""
    try:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except PermissionError:
        pytest.skip("needs root: others may not set marks")


def safe_mss(flow: Stream) -> int:
    """Bytes of payload in a packet that any path takes: RFC 9293 section 3.7.1, MUST-15."""
    return (1280 if flow.is_v6 else 576) - (flow.headers_len - ETH_LEN)


def arrive(lone: Lone, *frames: bytes) -> None:
    """Let frames arrive at the node, each in a datagram, and read what it writes to the TAP."""
    node, peer = lone
    for frame in frames:
        peer.sendto(vxlan(frame), (HERE, node.udp.port))
    done = node.pump.decap_counters.frames + len(frames)
    run([node], lambda: node.pump.decap_counters.frames == done)
    node.read_host()


@each_flow
def test_a_marked_superframe_has_the_segments_of_its_sender(lone: Lone, flow: Stream) -> None:
    """Before and after it are frames with another mark, or none: theirs have the safe size."""
    node, peer = lone
    frame = flow.superframe(numbered(5 * MSS))
    safe = flow.virtio(safe_mss(flow)) + frame
    for mark in (0, SEGMENT_MARK | MSS, 0x4000, SEGMENT_MARK | 700, SEGMENT_MARK, SEGMENT_MARK | 35):
        set_mark(peer, mark)
        arrive(lone, frame, pong())
    marked = [flow.virtio(size) + frame for size in (MSS, 700)]
    expected = [safe, marked[0], safe, marked[1], safe, safe]
    assert node.came == [write for each in expected for write in (each, PLAIN + pong())]


@each_flow
def test_a_marked_frame_of_one_segment_is_written_plainly(lone: Lone, flow: Stream) -> None:
    """Only its checksum is left to the kernel."""
    node, peer = lone
    set_mark(peer, SEGMENT_MARK | MSS)
    frame = flow.superframe(numbered(MSS))
    arrive(lone, frame)
    assert [came[10:] for came in node.came] == [frame]
    assert [came[:2] for came in node.came] == [b"\1\0"]


@each_flow
def test_the_mark_of_a_train_changes_nothing(offloading: Lone, flow: Stream) -> None:
    """A program marks a UDP_GRO train with the size of its datagrams: each is a segment already."""
    node, peer = offloading
    payload = numbered(5 * MSS + 9)
    segments = flow.segments(payload, MSS)
    for mark in (0, SEGMENT_MARK | len(vxlan(segments[0])), SEGMENT_MARK | 500):
        set_mark(peer, mark)
        node.came.clear()
        send_train(peer, [vxlan(segment) for segment in segments], (HERE, node.udp.port))
        run([node], lambda: len(node.came) > 0)
        assert node.came == [flow.virtio(MSS) + flow.superframe(payload)]


@each_flow
def test_the_datagrams_of_a_train_that_the_kernel_splits_have_its_mark(flow: Stream) -> None:
    """Without UDP_GRO at the receiver. They are shorter than the mark says, as each is one segment."""
    with lone_node(offload=False) as (node, peer):
        set_mark(peer, SEGMENT_MARK | (flow.headers_len + MSS + 8))
        frames = [flow.frame(numbered(MSS), i * MSS, i, partial=True) for i in range(5)]
        send_train(peer, [vxlan(frame) for frame in frames], (HERE, node.udp.port))
        run([node], lambda: len(node.came) == len(frames))
        assert [(came[:2], came[10:]) for came in node.came] == [(b"\1\0", frame) for frame in frames]


@pytest.mark.skipif(WRITEV is None, reason="the number of writev(2) is not known for this machine")
@each_flow
@pytest.mark.parametrize(("size", "cut_at"), [(MSS, MSS), (400, 400), (100, None)])
def test_a_refused_superframe_is_cut_as_its_mark_says(
    offloading: Lone, flow: Stream, size: int, cut_at: int | None
) -> None:
    """Kernels 6.1.103 and 6.6.44 refuse superframes. Cutting here is for at most 128 segments: else the safe ones."""
    node, peer = offloading
    set_mark(peer, SEGMENT_MARK | size)
    payload = numbered(30_000)
    peer.sendto(vxlan(flow.superframe(payload)), (HERE, node.udp.port))
    wait_readable(node.udp.receiver)
    while_refusing(2, 2, node.pump.on_udp_readable, errno.EINVAL)
    node.read_host()
    assert node.came == [PLAIN + segment for segment in flow.segments(payload, cut_at or safe_mss(flow))]
    assert (node.pump.decap_counters.frames, sum(node.pump.decap_counters.drops)) == (1, 0)


def test_a_kernel_without_the_option_reports_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.19 it refuses SO_RCVMARK: vxland starts nevertheless, and declares the safe size."""
    monkeypatch.setattr(udp, "_SO_RCVMARK", 0x7FFF)  # ENOPROTOOPT in every kernel
    flow = FLOWS[0]
    frame = flow.superframe(numbered(5 * MSS))
    with lone_node() as lone:
        set_mark(lone[1], SEGMENT_MARK | MSS)
        arrive(lone, frame)
        assert lone[0].came == [flow.virtio(safe_mss(flow)) + frame]
