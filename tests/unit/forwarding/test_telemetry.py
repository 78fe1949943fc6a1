"""Records of a working pump: traffic by peer across changes of the table, the last drops, and captures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fabric import ELSEWHERE, HERE, THERE, Lone, Node, lone_node, received, run, subnets_of_b, two_nodes
from tests.frames import (
    ARP,
    BROADCAST,
    MAC_B,
    MAC_C,
    OWN_MAC,
    PLAIN,
    POD_A,
    POD_B,
    STRANGER,
    UDP,
    arp,
    ethernet,
    from_b,
    lease,
    packet_of,
    ping,
    pong,
    udp,
    udp_frame,
    vxlan,
)
from tests.stream import TCP4
from vxland.datapath.table import table_of
from vxland.forwarding.counts import PeerTraffic
from vxland.forwarding.io.ring import Mode
from vxland.forwarding.pump import COMPILED
from vxland.forwarding.telemetry import DEPARTED, DeviceTelemetry
from vxland.inspect.records import FrameRecord, parse

(OF_B, _) = subnets_of_b()
OF_C = lease("10.244.2.0/24", ELSEWHERE, MAC_C)
LEN = len(ping())


@pytest.fixture
def lone() -> Iterator[Lone]:
    """A, and a plain socket for its peer."""
    with lone_node() as made:
        yield made


def send(node: Node, *frames: bytes) -> None:
    """Let the TAP give frames, and the pump take them."""
    for frame in frames:
        node.put(frame)
    node.pump.on_tap_readable()


def records(raw: list[bytes]) -> list[FrameRecord]:
    """All records of one pump."""
    (queue,) = raw
    return list(parse(queue))


# Traffic by peer.


def test_traffic_outlives_the_table() -> None:
    """Indices change with each table, counts do not; a peer that comes back has what it had."""
    with two_nodes() as (a, b):
        telemetry = DeviceTelemetry([a.pump])
        port = b.udp.port
        for number, leases in enumerate(([OF_B], [OF_C, OF_B], [OF_C], [OF_B, OF_C], [OF_B])):
            a.pump.table = table_of(leases, port)
            if OF_B in leases:
                a.put(ping(number))
                run([a, b], lambda: len(b.came) > 0)
                b.came.clear()
            assert set(telemetry.peers()) == {lease.vtep for lease in leases}
        assert telemetry.peers() == {OF_B.vtep: PeerTraffic(4, 4 * LEN, 0, 0)}


def test_traffic_of_a_peer_that_sends(lone: Lone) -> None:
    """Frames that the TAP took, by their outer source; with source_check off as well; refused ones are not."""
    node, peer = lone
    telemetry = DeviceTelemetry([node.pump])
    for check in (True, False):
        node.pump.check_source = check
        peer.sendto(vxlan(pong()), (HERE, node.udp.port))
        run([node], lambda: len(node.came) == 1)
        node.came.clear()
    node.pump.check_source = True
    peer.sendto(vxlan(b"nonsense"), (HERE, node.udp.port))
    run([node], lambda: node.pump.decap_counters.by_reason()["inner_malformed"] == 1)
    assert telemetry.peers()[OF_B.vtep] == PeerTraffic(0, 0, 2, 2 * len(pong()))


def test_an_unknown_sender_is_no_peers_traffic(lone: Lone) -> None:
    """With source_check off its frames pass, and are counted for no peer."""
    node, peer = lone
    node.pump.check_source = False
    node.pump.table = table_of([OF_C], node.udp.port)
    peer.sendto(vxlan(pong()), (HERE, node.udp.port))
    run([node], lambda: len(node.came) == 1)
    assert DeviceTelemetry([node.pump]).peers() == {OF_C.vtep: PeerTraffic()}


def test_the_departed_are_forgotten_in_the_end(lone: Lone) -> None:
    """Counts of VTEPs that are in no table any more are kept, but not without end; those in the table always are."""
    node, peer = lone
    telemetry = DeviceTelemetry([node.pump])
    for number in range(DEPARTED // 256 + 3):
        leases = [lease(f"10.{number + 1}.{i}.0/24", THERE, MAC_C + 256 * number + i) for i in range(256)]
        node.pump.table = table_of([*leases, OF_B], node.udp.port)
        for i in range(0, 256, 32):
            for k in range(i, i + 32):
                node.put(ping(dst_mac=MAC_C + 256 * number + k))
            send(node, ping())
        received(peer)
        telemetry.tidy()
    telemetry.peers()
    assert len(telemetry._past) <= DEPARTED + 257
    assert telemetry.peers()[OF_B.vtep].encap_frames == 8 * (DEPARTED // 256 + 3)


# How it came to its numbers.


def test_batches_and_wakeups(lone: Lone) -> None:
    """Frames of one size for one peer are one send in the compiled gear, and one each in the other."""
    node, peer = lone
    send(node, *[ping(i) for i in range(10)])
    received(peer)
    counters = node.pump.encap_counters
    assert (counters.frames, counters.reads, counters.wakeups) == (10, 10, 1)
    assert counters.batches == (1 if COMPILED else 10)
    if COMPILED:
        node.put(TCP4.superframe(bytes(3000)), TCP4.virtio(1000))
        node.pump.on_tap_readable()
        assert (counters.superframes, counters.batches, counters.frames) == (1, 2, 13)


# The last drops.


def test_drops_are_kept_as_they_were(lone: Lone) -> None:
    """A frame whose place an ICMP error took; a datagram without a VNI, whole, with where it came from."""
    node, peer = lone
    frame = udp_frame(POD_A, STRANGER)
    send(node, frame)
    datagram = bytes(8) + pong()
    peer.sendto(datagram, (HERE, node.udp.port))
    run([node], lambda: node.pump.decap_counters.by_reason()["i_flag_clear"] == 1)
    first, second = records(DeviceTelemetry([node.pump]).drops())
    assert (first.direction, first.verdict, first.frame, first.outer) == ("encap", "no_vtep", frame, None)
    assert (second.direction, second.verdict, str(second.outer)) == ("decap", "i_flag_clear", THERE)
    assert (second.vxlan + second.frame, second.port) == (datagram, node.udp.port)


def test_a_flood_of_garbage_is_not_copied(lone: Lone) -> None:
    """8 of a wake-up, the last 64 in all, 128 bytes of each."""
    node, peer = lone
    telemetry = DeviceTelemetry([node.pump])
    garbage = ethernet(BROADCAST, OWN_MAC, 0x88B5, bytes(1000))
    send(node, *[garbage] * 40)
    assert len(records(telemetry.drops())) == 8
    assert {(len(record.frame), record.length) for record in records(telemetry.drops())} == {(128, len(garbage))}
    for _ in range(20):
        send(node, *[garbage] * 10)
    kept = [record.number for record in records(telemetry.drops())]
    assert kept == list(range(168 - len(kept), 168))
    assert 60 <= len(kept) <= 64
    assert node.pump.encap_counters.by_reason()["bum"] == 240
    peer.sendto(b"short", (HERE, node.udp.port))
    run([node], lambda: node.pump.decap_counters.by_reason()["too_short"] == 1)
    assert records(telemetry.drops())[-1].verdict == "too_short"


# Captures.


def test_inner_frames_with_their_verdicts(lone: Lone) -> None:
    """Forwarded, dropped and answered, of both directions; the verdict on each, and its peer."""
    node, peer = lone
    capture = DeviceTelemetry([node.pump]).capture(Mode.INNER, 9000)
    question = ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B))
    send(node, ping(), ethernet(BROADCAST, OWN_MAC, 0x88B5, bytes(46)), question)
    peer.sendto(vxlan(pong()), (HERE, node.udp.port))
    run([node], lambda: len(node.came) == 2)
    found = records(capture.read())
    assert [(record.direction, record.verdict, record.frame[:14]) for record in found] == [
        ("encap", "forwarded", ping()[:14]),
        ("encap", "bum", ethernet(BROADCAST, OWN_MAC, 0x88B5, b"")),
        ("decap", "answered", ethernet(OWN_MAC, MAC_B, ARP, b"")),
        ("decap", "forwarded", pong()[:14]),
    ]
    assert [str(record.outer) for record in found] == [THERE, "None", "None", THERE]
    assert {ping(), pong()} <= {record.frame for record in found}
    capture.close()
    send(node, ping())
    assert capture.read() == [b""]


def test_a_superframe_goes_in_whole_and_out_in_pieces(lone: Lone) -> None:
    """Inner: as the TAP gave it, with the size it is to be cut to. Outer: the datagrams that were sent."""
    if not COMPILED:
        pytest.skip("the interpreted gear asks for no superframes")
    node, peer = lone
    capture = DeviceTelemetry([node.pump]).capture(Mode.INNER | Mode.OUTER, 70_000)
    node.put(TCP4.superframe(bytes(2500)), TCP4.virtio(1000))
    node.pump.on_tap_readable()
    sent = received(peer)
    inner, *outer = sorted(records(capture.read()), key=lambda record: record.is_datagram)
    assert (inner.gso_size, inner.length) == (1000, len(TCP4.superframe(bytes(2500))))
    assert [record.vxlan + record.frame for record in outer] == sent
    assert [node.udp.senders[record.port].getsockname()[1] for record in outer] == [
        node.udp.senders[outer[0].port].getsockname()[1]
    ] * 3


def test_a_superframe_is_older_than_its_segments(lone: Lone) -> None:
    """A segment may be answered before the last one is cut: the answer stood before the frame in a capture."""
    if not COMPILED:
        pytest.skip("the interpreted gear asks for no superframes")
    node, peer = lone
    capture = DeviceTelemetry([node.pump]).capture(Mode.INNER | Mode.OUTER, 256)
    node.put(TCP4.superframe(bytes(60_000)), TCP4.virtio(600))
    node.pump.on_tap_readable()
    received(peer)
    first, *rest = records(capture.read())
    assert not first.is_datagram
    assert len({record.time_ns for record in rest}) < len(rest) == 100  # the time of each train, before it was sent


def test_only_what_is_dropped(lone: Lone) -> None:
    """Without what passes; a snaplen cuts the copy, and the record still has the length."""
    node, peer = lone
    capture = DeviceTelemetry([node.pump]).capture(Mode.DROPPED, 60)
    garbage = ethernet(BROADCAST, OWN_MAC, 0x88B5, bytes(1000))
    send(node, ping(), *[garbage] * 20)
    peer.sendto(vxlan(pong()), (HERE, node.udp.port))
    run([node], lambda: len(node.came) == 1)
    found = records(capture.read())
    assert [(record.verdict, len(record.frame), record.length) for record in found] == [("bum", 60, len(garbage))] * 20


def test_several_captures_share_a_ring(lone: Lone) -> None:
    """Each gets what it asked for, in whatever order they end; the ring gets all that any of them asked for."""
    node, _ = lone
    telemetry = DeviceTelemetry([node.pump])
    drops, frames = telemetry.capture(Mode.DROPPED, 60), telemetry.capture(Mode.INNER, 9000)
    send(node, ping())
    assert [record.frame for record in records(frames.read())] == [ping()]
    assert [record.verdict for record in records(drops.read())] == ["forwarded"]
    frames.close()
    send(node, ping(), ethernet(BROADCAST, OWN_MAC, 0x88B5, bytes(46)))
    assert [record.verdict for record in records(drops.read())] == ["bum"]
    drops.close()
    send(node, ethernet(BROADCAST, OWN_MAC, 0x88B5, bytes(46)))
    assert drops.read() == [b""]


def test_frames_the_kernel_refuses(lone: Lone) -> None:
    """A TAP that takes no run, and a path that takes no datagram: both are among the drops, with what they were."""
    node, peer = lone
    node.pump.table = table_of([lease("10.244.1.0/24", "127.255.255.255", MAC_B)], node.udp.port)
    send(node, ping())
    node.pump.check_source = False
    node.host.close()
    frame = from_b(packet_of(POD_B, POD_A, UDP, udp(POD_B, POD_A, b"")))
    peer.sendto(vxlan(frame), (HERE, node.udp.port))
    run_once = node.pump.on_udp_readable
    while node.pump.decap_counters.by_reason()["tap_write_failed"] == 0:
        run_once()
    found = {record.verdict: record for record in records(DeviceTelemetry([node.pump]).drops())}
    assert found["send_failed"].frame == ping()
    assert found["tap_write_failed"].frame == frame
    assert PLAIN not in {record.frame[:10] for record in found.values()}
