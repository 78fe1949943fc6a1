"""Small frames that leave together in trains over UDP_SEGMENT."""

from __future__ import annotations

import socket
import struct

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
    subnets_of_b,
    wait_readable,
)
from tests.frames import (
    MAC_B,
    MAC_C,
    PLAIN,
    POD_A,
    POD_B,
    UDP,
    frame_of,
    lease,
    packet_of,
    udp,
    vxlan,
)
from tests.stream import MSS, TCP4, numbered
from tests.trains import frames_in, sent, small
from vxland.datapath.table import table_of


def test_small_frames_of_one_size_are_one_train(gro: Lone) -> None:
    """To one VTEP, in one burst, in their order."""
    frames = [small(i) for i in range(50)]
    trains = sent(gro, [(PLAIN, frame) for frame in frames], 50)
    assert [len(train) for train in trains] == [50]
    assert frames_in(trains) == frames


def test_a_shorter_frame_ends_a_train(gro: Lone) -> None:
    """And a longer one begins the next: order before size."""
    frames = [small(i, nbytes) for i, nbytes in enumerate([40, 40, 32, 32, 40, 40, 41, 40])]
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
        raw, control, _, source = peer.recvmsg(1 << 17, 64)
        sizes = [value for level, kind, value in control if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO)]
        size = struct.unpack("=i", sizes[0])[0] if sizes else len(raw)
        ports.update({raw[at : at + size]: source[1] for at in range(0, len(raw), size)})
    assert set(ports) == {vxlan(frame) for frame in flows}
    assert len(set(ports.values())) == 4


def test_a_train_is_for_one_vtep(gro: Lone) -> None:
    """Frames to B and C alternate: each arrives where it belongs, in its order."""
    node, peer = gro
    port = node.udp.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((ELSEWHERE, port))
        other.setblocking(False)
        node.pump.table = table_of([*subnets_of_b(), lease("10.244.2.0/24", ELSEWHERE, MAC_C)], port)
        for i in range(20):
            node.put(small(i, dst_mac=MAC_C if i % 3 == 2 else MAC_B))
        node.pump.on_tap_readable()
        assert received_in_all(other, 6) == [vxlan(small(i, dst_mac=MAC_C)) for i in range(2, 20, 3)]
    # B's pairs may come as trains of two
    got = b"".join(raw for raw, _ in received_trains(peer))
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
