"""Offloads through the real pump: superframes and trains over UDP_SEGMENT, buffers of UDP_GRO, and falling back.

In either gear, though the interpreted one asks for none of them when it is the daemon's: the code is one. A socket
pair stands in for the TAP, loopback for the underlay; it delivers a train in one piece, as a network card with the
offload does, to a socket that asks for UDP_GRO, and to others as single datagrams.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import replace

import pytest

from tests.fabric import (
    ELSEWHERE,
    IP_RECVTOS,
    UDP_GRO,
    FullSender,
    Lone,
    fill_up,
    lone_node,
    received_in_all,
    received_trains,
    run,
    subnets_of_b,
    two_nodes,
    wait_readable,
)
from tests.frames import (
    ICMP,
    MAC_B,
    MAC_C,
    PLAIN,
    POD_A,
    POD_B,
    UDP,
    echo,
    frame_of,
    ipv4,
    lease,
    packet_of,
    ping,
    udp,
    vxlan,
)
from tests.stream import EACH, TCP4, TCP6, Stream, numbered
from vxland.datapath.table import Table

MSS = 1398
each_stream = pytest.mark.parametrize("stream", EACH.values(), ids=EACH)
SO_NO_CHECK = 11  # asm-generic/socket.h


@pytest.fixture
def gro(offloading: Lone) -> Lone:
    """The same with UDP_GRO at the peer, whose every buffer is what one send carried."""
    offloading[1].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    return offloading


def sent(lone: Lone, frames: list[tuple[bytes, bytes]], datagrams: int) -> list[list[bytes]]:
    """The trains that arrive when one wake-up meets frames with their virtio headers, each as a list of datagrams."""
    node, peer = lone
    for virtio, frame in frames:
        node.put(frame, virtio)
    node.pump.on_tap_readable()
    trains: list[list[bytes]] = []
    while sum(map(len, trains)) < datagrams:
        for buffer, stride in received_trains(peer):
            size = stride or len(buffer)
            trains.append([buffer[at : at + size] for at in range(0, len(buffer), size)])
    assert sum(map(len, trains)) == datagrams
    return trains


def frames_in(trains: list[list[bytes]]) -> list[bytes]:
    """The inner frames in the order of their arrival."""
    assert all(datagram[:8] == vxlan(b"") for train in trains for datagram in train)
    return [datagram[8:] for train in trains for datagram in train]


def small(i: int, octets: int = 32, dst_mac: int = MAC_B) -> bytes:
    """A numbered frame of some octets of payload."""
    return frame_of(ipv4(POD_A, POD_B, ICMP, echo(i.to_bytes(4, "big") + bytes(octets - 4))), dst_mac)


# Superframes from the TAP.


@each_stream
@pytest.mark.parametrize("length", [MSS, MSS + 1, 10 * MSS, 10 * MSS - 1])
def test_a_superframe_leaves_as_its_segments(offloading: Lone, stream: Stream, length: int) -> None:
    """A peer without UDP_GRO receives each segment in a datagram of its own, octet for octet as a device cuts them."""
    node, peer = offloading
    payload = numbered(length)
    segments = stream.segments(payload, MSS)
    node.put(stream.superframe(payload), stream.virtio(MSS))
    node.pump.on_tap_readable()
    assert received_in_all(peer, len(segments)) == [vxlan(segment) for segment in segments]
    counters = node.pump.encap_counters
    assert (counters.frames, counters.bytes) == (len(segments), sum(map(len, segments)))
    assert not any(counters.by_reason().values())


@each_stream
def test_a_superframe_is_one_train(gro: Lone, stream: Stream) -> None:
    """One send for all of its segments, the short one last."""
    payload = numbered(10 * MSS + 7)
    trains = sent(gro, [(stream.virtio(MSS), stream.superframe(payload))], 11)
    assert len(trains) == 1
    assert frames_in(trains) == stream.segments(payload, MSS)


@each_stream
def test_64_kib_are_sent_twice(gro: Lone, stream: Stream) -> None:
    """Their datagrams come to more than the 65,507 octets of one send."""
    payload = numbered(65_535 - stream.headers_len + 14)
    segments = stream.segments(payload, MSS)
    trains = sent(gro, [(stream.virtio(MSS), stream.superframe(payload))], len(segments))
    most = 65_507 // (8 + stream.headers_len + MSS)
    assert [len(train) for train in trains] == [most, len(segments) - most]
    assert frames_in(trains) == segments


def test_many_small_segments_are_sent_as_the_kernel_takes_them(gro: Lone) -> None:
    """No more than what was probed at start."""
    segments = TCP4.segments(numbered(10_800), 36)
    trains = sent(gro, [(TCP4.virtio(36), TCP4.superframe(numbered(10_800)))], len(segments))
    most = gro[0].udp.max_datagrams
    assert [len(train) for train in trains][:-1] == [most] * (len(segments) // most)
    assert frames_in(trains) == segments


def test_a_flows_next_superframe_goes_on_in_the_train(gro: Lone) -> None:
    """Both were whole multiples of the segment size; what does not fit makes the next train."""
    one, two = numbered(30 * MSS), numbered(60 * MSS)[30 * MSS :]
    later = replace(TCP4, seq=TCP4.seq + len(one), ident=TCP4.ident + 30)
    frames = [(TCP4.virtio(MSS), TCP4.superframe(one)), (later.virtio(MSS), later.superframe(two))]
    trains = sent(gro, frames, 60)
    assert [len(train) for train in trains] == [44, 16]
    assert frames_in(trains) == TCP4.segments(one + two, MSS)


def test_long_headers_and_short_ones_go_in_trains_of_their_own(gro: Lone) -> None:
    """Copies of long headers take more room than others' in the memory that both share."""
    long = replace(TCP6, extensions=1, extension_len=1024)
    payload, size = numbered(4 * MSS), long.headers_len + 300
    short_mss, at = size - TCP6.headers_len, 12 * 300
    later = replace(TCP6, seq=TCP6.seq + at)
    frames = [
        (long.virtio(300), long.superframe(payload[:at])),
        (later.virtio(short_mss), later.superframe(payload)),
        (long.virtio(300), long.superframe(payload[:at])),
    ]
    segments = long.segments(payload[:at], 300)
    want = segments + later.segments(payload, short_mss) + segments
    assert frames_in(sent(gro, frames, len(want))) == want


def test_superframes_and_frames_keep_their_order(gro: Lone) -> None:
    """A short segment ends a train; a frame of the segments' size rides behind them; ACKs of the flow stay in place."""
    payload = numbered(2 * MSS + 100)
    ack = TCP4.frame(b"", 0, 0)
    full = TCP4.frame(numbered(MSS), 50_000, 50)
    frames = [
        (PLAIN, ack),
        (TCP4.virtio(MSS), TCP4.superframe(payload)),
        (PLAIN, ack),
        (TCP4.virtio(MSS), TCP4.superframe(payload[: 2 * MSS])),
        (PLAIN, full),
        (PLAIN, ack),
    ]
    trains = sent(gro, frames, 9)
    cut = TCP4.segments(payload, MSS)
    assert frames_in(trains) == [ack, *cut, ack, *TCP4.segments(payload[: 2 * MSS], MSS), full, ack]
    assert [len(train) for train in trains] == [1, 3, 1, 4]


@pytest.mark.parametrize("ecn", range(4))
def test_every_datagram_of_a_train_has_the_inner_ecn(offloading: Lone, ecn: int) -> None:
    """RFC 6040: the field is that of the superframe."""
    node, peer = offloading
    stream = replace(TCP4, tos=ecn)
    node.put(stream.superframe(numbered(5 * MSS)), stream.virtio(MSS))
    node.pump.on_tap_readable()
    fields: list[int] = []
    while len(fields) < 5:
        wait_readable(peer)
        _, control, _, _ = peer.recvmsg(2000, 64)
        fields += [value[0] for level, kind, value in control if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)]
    assert fields == [ecn] * 5


def test_a_superframe_that_makes_no_sense_is_dropped(gro: Lone) -> None:
    """Once, as malformed; what waits in the train and what follows it cross."""
    virtio = bytearray(TCP4.virtio(MSS))
    virtio[6] += 1
    frames = [(PLAIN, ping(1)), (bytes(virtio), TCP4.superframe(numbered(5000))), (PLAIN, ping(2))]
    assert frames_in(sent(gro, frames, 2)) == [ping(1), ping(2)]
    assert {k: v for k, v in gro[0].pump.encap_counters.by_reason().items() if v} == {"inner_malformed": 1}


def test_a_segment_that_no_datagram_carries_ends_nothing(gro: Lone) -> None:
    """gso_size 65,535: refused, and the burst goes on."""
    frame = TCP4.superframe(numbered(65_480))
    assert frames_in(sent(gro, [(TCP4.virtio(0xFFFF), frame), (PLAIN, ping())], 1)) == [ping()]
    assert gro[0].pump.encap_counters.by_reason()["inner_malformed"] == 1


def test_superframes_fill_the_arena_and_all_cross(gro: Lone) -> None:
    """Twelve of 60 KB in one burst, more than the arena's 512 KB: none overwrites what a train still refers to."""
    node, peer = gro
    try:
        node.host.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE: a TAP's queue holds as much
        peer.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    except PermissionError:
        pytest.skip("needs root: the socket that stands in for the TAP does not hold so much otherwise")
    payload = numbered(12 * 60_000)
    streams = [replace(TCP4, seq=TCP4.seq + at, ident=at // 1000) for at in range(0, len(payload), 60_000)]
    parts = [payload[at : at + 60_000] for at in range(0, len(payload), 60_000)]
    frames = [(s.virtio(1000), s.superframe(part)) for s, part in zip(streams, parts, strict=True)]
    want = [segment for s, part in zip(streams, parts, strict=True) for segment in s.segments(part, 1000)]
    assert frames_in(sent(gro, frames, 720)) == want


# Small frames.


def test_small_frames_of_one_size_are_one_train(gro: Lone) -> None:
    """To one VTEP, in one burst, in their order."""
    frames = [small(i) for i in range(50)]
    trains = sent(gro, [(PLAIN, frame) for frame in frames], 50)
    assert [len(train) for train in trains] == [50]
    assert frames_in(trains) == frames


def test_a_shorter_frame_ends_a_train(gro: Lone) -> None:
    """And a longer one begins the next: order before size."""
    frames = [small(i, octets) for i, octets in enumerate([40, 40, 32, 32, 40, 40, 41, 40])]
    trains = sent(gro, [(PLAIN, frame) for frame in frames], len(frames))
    assert [len(train) for train in trains] == [3, 1, 2, 2]
    assert frames_in(trains) == frames


def test_a_train_has_one_ecn_field(offloading: Lone) -> None:
    """Frames of one size and flow with different ones leave apart, each with its own."""
    node, peer = offloading
    peer.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
    marks = [0, 0, 2, 3, 3, 0]
    for ecn in marks:
        node.put(frame_of(packet_of(POD_A, POD_B, UDP, udp(POD_A, POD_B, b"payload"), ecn), MAC_B))
    node.pump.on_tap_readable()
    fields: list[int] = []
    while len(fields) < len(marks):
        wait_readable(peer)
        fields += [value[0] for _, _, value in peer.recvmsg(2000, 64)[1]]
    assert fields == marks


def test_other_flows_leave_from_their_own_ports(gro: Lone) -> None:
    """Frames of one size but two flows: each keeps to its source port, so they are not one train."""
    node, peer = gro
    flows = [frame_of(packet_of(POD_A, POD_B, UDP, udp(POD_A, POD_B, b"", sport=32_768 + i)), MAC_B) for i in range(32)]
    for frame in flows:
        node.put(frame)
    node.pump.on_tap_readable()
    ports: dict[bytes, int] = {}
    while len(ports) < len(flows):
        wait_readable(peer)
        octets, control, _, source = peer.recvmsg(1 << 17, 64)
        told = [value for level, kind, value in control if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO)]
        size = struct.unpack("=i", told[0])[0] if told else len(octets)
        ports.update({octets[at : at + size]: source[1] for at in range(0, len(octets), size)})
    assert set(ports) == {vxlan(frame) for frame in flows}
    assert len(set(ports.values())) == 4


def test_a_train_is_for_one_vtep(gro: Lone) -> None:
    """Frames to B and C alternate: each arrives where it belongs, in its order."""
    node, peer = gro
    port = node.udp.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((ELSEWHERE, port))
        other.setblocking(False)
        node.pump.table = Table([*subnets_of_b(), lease("10.244.2.0/24", ELSEWHERE, MAC_C)], port)
        for i in range(20):
            node.put(small(i, dst_mac=MAC_C if i % 3 == 2 else MAC_B))
        node.pump.on_tap_readable()
        assert received_in_all(other, 6) == [vxlan(small(i, dst_mac=MAC_C)) for i in range(2, 20, 3)]
    # B's pairs may come as trains of two
    got = b"".join(octets for octets, _ in received_trains(peer))
    assert got == b"".join(vxlan(small(i)) for i in range(20) if i % 3 != 2)


def test_a_full_send_buffer_drops_the_whole_train() -> None:
    """Counted as the datagrams that it was."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with lone_node(source_ports=1, offload=True) as (node, _), FullSender(fileno=near.detach()) as full, far:
        full.setblocking(False)
        node.udp.senders[0].close()
        node.udp.senders[0] = full
        pump = node.new_pump(node.pump.table)
        fill_up(full)
        for i in range(5):
            node.put(small(i))
        node.put(TCP4.superframe(numbered(10 * MSS)), TCP4.virtio(MSS))
        pump.on_tap_readable()
        assert {k: v for k, v in pump.encap_counters.by_reason().items() if v} == {"send_buffer_full": 15}
        assert (pump.encap_counters.frames, pump.segment_errno, node.refusals) == (0, 0, [])


# Falling back.


def refuse_segments(lone: Lone, refused: bool) -> None:
    """Make the kernel refuse UDP_SEGMENT with EINVAL, or take it again: it wants checksums on, net/ipv4/udp.c."""
    for sender in lone[0].udp.senders:
        sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, int(refused))


@each_stream
def test_what_the_kernel_refuses_is_sent_one_by_one(gro: Lone, stream: Stream) -> None:
    """A superframe's train: nothing is lost, the reason is kept and told once, and UDP_SEGMENT is not tried again."""
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
    frames = [small(i, octets) for i, octets in enumerate([40] * 10 + [32] + [40] * 3)]
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
    node.pump.table = Table(subnets_of_b(), 0)
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


# Both ways.


@each_stream
def test_what_one_node_cuts_the_other_joins(stream: Stream) -> None:
    """Superframes come out of B's TAP as they went into A's, virtio headers and all; and single frames between them."""
    with two_nodes(offload=True) as (a, b):
        payload = numbered(42 * MSS)
        whole = [replace(stream, seq=stream.seq + i * len(payload), ident=i).superframe(payload) for i in range(3)]
        for frame in whole:
            a.put(frame, stream.virtio(MSS))
            a.put(ping())
        run([a, b], lambda: len(b.came) == 6)
    assert b.came[1::2] == [PLAIN + ping()] * 3
    assert b.came[::2] == [stream.virtio(MSS) + frame for frame in whole]
    assert a.pump.encap_counters.frames == b.pump.decap_counters.frames == 3 * 43
