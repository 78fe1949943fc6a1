"""A kernel that refuses UDP_SEGMENT: the pump sends single datagrams, and reports it once."""

from __future__ import annotations

import errno
import socket

from tests.fabric import (
    UDP_GRO,
    Lone,
    lone_node,
    subnets_of_b,
)
from tests.frames import (
    PLAIN,
    ping,
)
from tests.stream import MSS, TCP4, Stream, each_stream, numbered
from tests.trains import frames_in, sent, small
from vxland.datapath.table import table_of

SO_NO_CHECK = 11  # asm-generic/socket.h


def refuse_segments(lone: Lone, refused: bool) -> None:
    """Make the kernel refuse UDP_SEGMENT with EINVAL, or take it again: it wants checksums on, net/ipv4/udp.c."""
    for sender in lone[0].udp.senders:
        sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, int(refused))


@each_stream
def test_what_the_kernel_refuses_is_sent_one_by_one(gro: Lone, stream: Stream) -> None:
    """A superframe's train: nothing is lost, the reason is reported once, and UDP_SEGMENT is not tried again."""
    node, _ = gro
    refuse_segments(gro, refused=True)
    payload = numbered(65_000)
    segments = stream.segments(payload, MSS)
    for times in (1, 2):
        trains = sent(gro, [(stream.virtio(MSS), stream.superframe(payload))], len(segments))
        assert [len(train) for train in trains] == [1] * len(segments)
        assert frames_in(trains) == segments
        assert node.pump.encap_counters.frames == times * len(segments)
        assert node.pump.encap_counters.bytes == times * sum(map(len, segments))
        assert (node.pump.segment_errno, node.refusals) == (errno.EINVAL, [("udp_segment", "Invalid argument")])
        refuse_segments(gro, refused=False)  # the kernel would take trains again, and is not asked
    assert not any(node.pump.encap_counters.by_reason().values())


def test_a_refused_train_of_small_frames_is_sent_one_by_one(gro: Lone) -> None:
    """With a short one at its end, and more behind it."""
    refuse_segments(gro, refused=True)
    frames = [small(i, nbytes) for i, nbytes in enumerate([40] * 10 + [32] + [40] * 3)]
    trains = sent(gro, [(PLAIN, frame) for frame in frames], len(frames))
    assert frames_in(trains) == frames
    assert [len(train) for train in trains] == [1] * len(frames)
    assert gro[0].refusals == [("udp_segment", "Invalid argument")]


def test_a_train_of_one_is_no_refusal(gro: Lone) -> None:
    """A single datagram needs no UDP_SEGMENT, and says nothing about it."""
    refuse_segments(gro, refused=True)
    assert frames_in(sent(gro, [(PLAIN, ping())], 1)) == [ping()]
    assert (gro[0].pump.segment_errno, gro[0].refusals) == (0, [])
    refuse_segments(gro, refused=False)
    assert [len(train) for train in sent(gro, [(PLAIN, ping()), (PLAIN, ping())], 2)] == [2]


def test_a_send_that_fails_either_way_is_no_refusal(gro: Lone) -> None:
    """EINVAL for trains and single datagrams alike, here for a port of 0: trains are sent again once there is a way."""
    node, _ = gro
    table, frames = node.pump.table, [small(i) for i in range(10)]
    node.pump.table = table_of(subnets_of_b(), 0)
    for frame in frames:
        node.put(frame, PLAIN)
    node.pump.on_tap_readable()
    assert {k: v for k, v in node.pump.encap_counters.by_reason().items() if v} == {"send_failed": len(frames)}
    assert node.pump.last_send_errno == errno.EINVAL
    assert (node.pump.segment_errno, node.refusals) == (0, [])
    node.pump.table = table
    assert [len(train) for train in sent(gro, [(PLAIN, frame) for frame in frames], len(frames))] == [len(frames)]


def test_without_the_offload_everything_leaves_one_by_one() -> None:
    """A kernel without UDP_SEGMENT: superframes are cut all the same."""
    with lone_node(offload=False) as (node, peer):
        peer.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        payload = numbered(10 * MSS)
        trains = sent(
            (node, peer), [(TCP4.virtio(MSS), TCP4.superframe(payload)), (PLAIN, ping()), (PLAIN, ping())], 12
        )
        assert [len(train) for train in trains] == [1] * 12
        assert frames_in(trains) == [*TCP4.segments(payload, MSS), ping(), ping()]
