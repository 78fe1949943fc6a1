"""The real pump over file descriptors: a socket pair for the TAP, UDP on loopback for the underlay (tests/fabric.py).

Two claims that need more than inputs and outputs have separate files: test_pump_copies.py, test_pump_objects.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.fabric import (
    ELSEWHERE,
    HERE,
    Lone,
    Node,
    received,
    received_in_all,
    run,
    two_nodes,
    wait_readable,
)
from tests.frames import (
    BROADCAST,
    ICMP,
    MAC_B,
    MAC_C,
    OUTER_C,
    OWN_MAC,
    PLAIN,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    TCP,
    UDP,
    echo,
    ethernet,
    frame_of,
    from_b,
    ipv4,
    lease,
    packet_of,
    ping,
    pong,
    tcp,
    udp,
    vxlan,
)
from vxland.datapath.table import table_of

BURST = 64


@pytest.fixture
def pair() -> Iterator[tuple[Node, Node]]:
    """A and B."""
    with two_nodes() as both:
        yield both


# Frames cross, and are counted.


def test_a_burst_crosses_both_ways(pair: tuple[Node, Node]) -> None:
    """40 frames each way, in order, behind plain virtio headers; counters of both nodes agree."""
    a, b = pair
    there, back = [ping(i) for i in range(40)], [pong(i) for i in range(40)]
    for out, home in zip(there, back, strict=True):
        a.put(out)
        b.put(home)
    run([a, b], lambda: len(a.came) == len(b.came) == 40)
    assert a.came == [PLAIN + frame for frame in back]
    assert b.came == [PLAIN + frame for frame in there]
    for node in (a, b):
        for counters in (node.pump.encap_counters, node.pump.decap_counters):
            assert (counters.frames, counters.bytes) == (40, sum(map(len, there)))
            assert not any(counters.by_reason().values())
    assert a.faults == b.faults == []


def test_the_datagram_on_the_wire(lone: Lone) -> None:
    """VXLAN header and frame, from the VTEP's address, to the VXLAN port."""
    node, peer = lone
    node.put(ping())
    node.pump.on_tap_readable()
    wait_readable(peer)
    datagram, source = peer.recvfrom(2000)
    assert datagram == vxlan(ping())
    assert source[0] == HERE
    assert source[1] in {sender.getsockname()[1] for sender in node.udp.senders}


@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)])
def test_the_outer_header_carries_the_inner_ecn(lone: Lone, ecn: int, src: str, dst: str) -> None:
    """And nothing else of the inner traffic class: DSCP stays 0, as a kernel device without `tos inherit` sends it."""
    node, peer = lone
    node.put(frame_of(packet_of(src, dst, UDP, udp(src, dst, b""), ecn=46 << 2 | ecn), MAC_B))
    node.pump.on_tap_readable()
    wait_readable(peer)
    _, control, _, _ = peer.recvmsg(2000, socket.CMSG_SPACE(4))
    assert [data[0] for _, _, data in control] == [ecn]


@pytest.mark.parametrize(("inner", "outer", "merged"), [(2, 3, 3), (2, 1, 1), (1, 0, 1), (0, 2, 0)])
def test_the_outer_ecn_is_merged_into_the_frame(lone: Lone, inner: int, outer: int, merged: int) -> None:
    """The receiving socket reports the field of each datagram, not that of the last one."""
    node, peer = lone
    l4 = udp(POD_B, POD_A, b"payload")
    for tos in (outer, 0):
        peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        peer.sendto(vxlan(from_b(packet_of(POD_B, POD_A, UDP, l4, inner))), (HERE, node.udp.port))
    run([node], lambda: len(node.came) == 2)
    want = [from_b(packet_of(POD_B, POD_A, UDP, l4, ecn)) for ecn in (merged, inner)]
    assert node.frames() == want


def test_flows_keep_to_a_port_and_spread_over_all(lone: Lone) -> None:
    """The sockets' ports are the outer source ports: one for each flow, each used."""
    node, peer = lone
    for sport in range(32768, 32768 + 48):
        frame = frame_of(packet_of(POD_A, POD_B, UDP, udp(POD_A, POD_B, b"", sport=sport)), MAC_B)
        node.put(frame)
        node.put(frame)
    node.pump.on_tap_readable()
    node.pump.on_tap_readable()
    ports: list[int] = []
    while len(ports) < 96:
        wait_readable(peer)
        ports.append(peer.recvfrom(2000)[1][1])
    own = {sender.getsockname()[1] for sender in node.udp.senders}
    assert set(ports) == own
    assert len(own) == 4
    assert sorted(ports[::2]) == sorted(ports[1::2])


def test_a_partial_checksum_is_finished_on_the_way(lone: Lone) -> None:
    """The virtio header that the TAP gives is read where it lies: right before the frame."""
    node, peer = lone
    partial = frame_of(packet_of(POD_A, POD_B, TCP, tcp(POD_A, POD_B, b"payload", partial=True)), MAC_B)
    whole = frame_of(packet_of(POD_A, POD_B, TCP, tcp(POD_A, POD_B, b"payload")), MAC_B)
    node.put(partial, virtio=bytes([1, 0, 0, 0, 0, 0, 34, 0, 16, 0]))
    node.pump.on_tap_readable()
    assert received(peer) == [vxlan(whole)]


def test_a_superframe_reaches_the_tap_as_gso(lone: Lone) -> None:
    """The virtio header of its kind is what the TAP gets."""
    node, peer = lone
    packet = packet_of(POD_B, POD_A, TCP, tcp(POD_B, POD_A, bytes(9000), partial=True))
    peer.sendto(vxlan(from_b(packet)), (HERE, node.udp.port))
    run([node], lambda: len(node.came) == 1)
    assert node.came[0][:10] == bytes([1, 1, 54, 0, *(576 - 40).to_bytes(2, "little"), 34, 0, 16, 0])


# A wake-up does a bounded amount of work.


def test_a_burst_ends_after_64_frames(lone: Lone) -> None:
    """In both directions; the rest waits for the next wake-up, and nothing is lost."""
    node, peer = lone
    for i in range(100):
        node.put(ping(i))
        peer.sendto(vxlan(pong(i)), (HERE, node.udp.port))
    sent, taken = [], []
    for _ in range(3):
        node.pump.on_tap_readable()
        sent.append(node.pump.encap_counters.frames)
    assert sent == [BURST, 100, 100]
    assert received_in_all(peer, 100) == [vxlan(ping(i)) for i in range(100)]
    node.pump.on_udp_readable()
    assert node.pump.decap_counters.frames <= BURST
    while node.pump.decap_counters.frames < 100:
        wait_readable(node.udp.receiver)
        before = node.pump.decap_counters.frames
        node.pump.on_udp_readable()
        taken.append(node.pump.decap_counters.frames - before)
    assert max(taken) <= BURST
    node.read_host()
    assert node.frames() == [pong(i) for i in range(100)]


def test_refused_frames_count_for_the_burst(lone: Lone) -> None:
    """A flood of what is dropped does not keep the loop from the rest."""
    node, _ = lone
    for _ in range(100):
        node.put(ethernet(BROADCAST, OWN_MAC, 0x88CC, b""))
    for count in (BURST, 100):
        node.pump.on_tap_readable()
        assert node.pump.encap_counters.by_reason()["bum"] == count


def test_the_largest_frames_fill_the_arena_and_all_cross(lone: Lone) -> None:
    """A batch of 64 KiB frames ends where no room for another is sure; none overwrites another."""
    node, peer = lone
    frames = [frame_of(ipv4(POD_A, POD_B, ICMP, echo(bytes([i]) * 60000)), MAC_B) for i in range(3)]
    frames += [frame_of(ipv4(POD_A, POD_B, ICMP, echo(bytes([i]) * 65000)), MAC_B) for i in range(3, 7)]
    got: list[bytes] = []
    for i, frame in enumerate(frames):
        node.put(frame)
        if i == 2:
            node.pump.on_tap_readable()
            got += received_in_all(peer, 3)
    rounds = 0
    while node.pump.encap_counters.frames < len(frames):
        node.pump.on_tap_readable()
        rounds += 1
        assert rounds <= len(frames)
    got += received_in_all(peer, len(frames) - len(got))
    assert got == [vxlan(frame) for frame in frames]


# What may change while frames move.


def test_a_table_swap_takes_effect_with_the_next_burst(lone: Lone) -> None:
    """New leases are followed, old ones forgotten, in both directions."""
    node, peer = lone
    known = node.pump.table
    frame, datagram = ping(dst_mac=MAC_C), vxlan(pong())
    node.pump.table = table_of([lease("10.244.1.0/24", OUTER_C, MAC_C)], node.udp.port)
    peer.sendto(datagram, (HERE, node.udp.port))
    run([node], lambda: node.pump.decap_counters.by_reason()["unknown_vtep"] == 1)
    node.pump.table = table_of((), node.udp.port)
    node.put(frame)
    node.pump.on_tap_readable()
    assert node.pump.encap_counters.by_reason()["no_vtep"] == 1
    node.pump.table = known
    node.put(frame)
    node.pump.on_tap_readable()
    assert received(peer) == [vxlan(ping())]
    peer.sendto(datagram, (HERE, node.udp.port))
    run([node], lambda: node.frames()[-1:] == [pong()])


def test_the_source_check_is_the_pumps_to_turn(lone: Lone) -> None:
    """A reload of `security.source_check` sets it."""
    node, _ = lone
    assert node.pump.check_source
    node.pump.check_source = False
    assert not node.pump.check_source
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
        outsider.bind((ELSEWHERE, 0))
        outsider.sendto(vxlan(pong()), (HERE, node.udp.port))
        run([node], lambda: len(node.came) == 1)
    assert node.pump.decap_counters.frames == 1
