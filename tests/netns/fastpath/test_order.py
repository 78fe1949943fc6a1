"""Order: a flow changes from the daemon to the programs only when nothing of it can be in the daemon's queues.

The tests report when the daemon's queues are empty, as its workers do.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frames import (
    ARP,
    BROADCAST,
    MAC_B,
    OUTER_A,
    OWN_MAC,
    POD_A,
    POD_B,
    PORT,
    UDP,
    VNI,
    arp,
    ethernet,
    frame_of,
    ipv4,
)
from tests.netns.fastpath.loaded import Loaded
from tests.netns.fastpath.packets import MANY, OUTER_STRANGER, PLAIN_HEADER, arriving
from tests.netns.fastpath.unusual import UNUSUAL
from tests.stream import TCP4, TCP6, UDP4, UDP6, Stream, numbered, reverse
from vxland.fastpath.choice import ON_THE_WAY_NS

pytestmark = pytest.mark.netns

HOUR = 3_600_000_000_000
HUNG, UNATTENDED = 10 * HOUR, 100 * HOUR
LONG = numbered(3000)
FRAGMENT = frame_of(ipv4(POD_A, POD_B, UDP, bytes(64), fragment=0x2000), MAC_B)
FLOWS = [TCP4, replace(TCP4, sport=40001), UDP4, TCP6, replace(UDP6, sport=9), replace(UDP4, dst="10.244.1.99")]


@pytest.fixture
def daemon(loaded: Loaded) -> Iterator[socket.socket]:  # noqa: ARG001  (the programs go first)
    """A socket as the daemon's receiver."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((OUTER_A, PORT))
        yield receiver


@pytest.fixture(autouse=True)
def _ready(loaded: Loaded) -> None:
    ready(loaded)


def ready(loaded: Loaded) -> None:
    """Begin with no flow, with a daemon that takes superframes and aggregates."""
    loaded.follow(MANY)
    loaded.set(superframes=False, hung_ns=HUNG, unattended_ns=UNATTENDED, flood=0xFFFF_FFFF)
    loaded.forget()


def carries(loaded: Loaded, stream: Stream, payload: bytes = b"x") -> bool:
    """Return whether a packet of the flow is carried from the TAP."""
    return loaded.encap(stream.frame(payload)).carried


def carries_back(loaded: Loaded, stream: Stream) -> bool:
    """Return whether a packet of the opposite direction is carried to the TAP."""
    return loaded.decap(arriving(reverse(stream).frame(b"x"))).carried


def hand_over(loaded: Loaded, stream: Stream) -> None:
    """Give the daemon a superframe of the flow."""
    assert not loaded.encap(stream.superframe(LONG), 1398).carried


@pytest.mark.usefixtures("daemon")
def test_a_superframe_holds_its_flow(loaded: Loaded) -> None:
    """Its later packets would overtake it in the queue of the TAP. Other flows are carried, and its answers."""
    hand_over(loaded, TCP4)
    assert [carries(loaded, flow) for flow in FLOWS] == [False, True, True, True, True, True]
    assert carries_back(loaded, TCP4)
    loaded.drain()
    assert carries(loaded, TCP4)


@pytest.mark.usefixtures("daemon")
def test_an_aggregate_holds_its_flow(loaded: Loaded) -> None:
    """The same from the underlay."""
    outcome = loaded.decap(arriving(reverse(TCP4).superframe(LONG)), 1398)
    assert not outcome.carried
    assert [carries_back(loaded, flow) for flow in FLOWS] == [False, True, True, True, True, True]
    assert carries(loaded, TCP4)
    loaded.drain()
    assert carries_back(loaded, TCP4)


@pytest.mark.usefixtures("daemon")
def test_a_train_holds_all_of_its_flows(loaded: Loaded) -> None:
    """Only the first one is seen in it: a packet of the second overtook the train. They share the sender's port."""
    flows = (UDP4, replace(UDP4, sport=40002), replace(UDP4, src="10.244.0.77", dst="10.244.1.77"))
    size = len(PLAIN_HEADER) + len(UDP4.frame(bytes(100)))
    request = ethernet(BROADCAST, MAC_B, ARP, arp(1, MAC_B, POD_B, POD_A)).ljust(size - len(PLAIN_HEADER), b"\0")
    for first in (reverse(UDP4).frame(bytes(100)), request):
        ready(loaded)
        frames = [first, *(reverse(flow).frame(bytes(100)) for flow in flows)]
        assert not loaded.decap(arriving(PLAIN_HEADER.join(frames)), size).carried
        assert [carries_back(loaded, flow) for flow in flows] == [False, False, False]
        assert loaded.decap(arriving(reverse(TCP6).frame(b"x"), sport=50_001)).carried
        loaded.drain()
        assert all(carries_back(loaded, flow) for flow in flows)


@pytest.mark.usefixtures("daemon")
def test_an_outer_fragment_holds_its_senders_port(loaded: Loaded) -> None:
    """The kernel joins fragments for the daemon's socket; a shorter packet of the same flow overtook them."""
    frame = reverse(UDP4).frame(numbered(1600))
    first = arriving(frame[:1400], fragment=0x2000, udp_len=16 + len(frame))
    assert not loaded.decap(first).carried
    assert not carries_back(loaded, UDP4)
    assert loaded.decap(arriving(reverse(TCP4).frame(b"x"), sport=50_001)).carried
    loaded.drain()
    assert carries_back(loaded, UDP4)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("header", [pack("!II", 0x8800_0007, VNI << 8), pack("!II", 0x0800_0000, VNI << 8 | 1)])
def test_other_bits_in_the_header_hold_the_flow(loaded: Loaded, header: bytes) -> None:
    """A neighbour with group policies sets them in packets that have a mark; the next one without overtook them."""
    assert not loaded.decap(arriving(reverse(UDP4).frame(b"x"), header=header)).carried
    assert not carries_back(loaded, UDP4)
    assert carries_back(loaded, TCP4)
    loaded.drain()
    assert carries_back(loaded, UDP4)
    train = arriving(reverse(UDP4).frame(bytes(100)), header=header)
    assert not loaded.decap(train, 8 + len(reverse(UDP4).frame(bytes(100)))).carried
    assert not carries_back(loaded, TCP4)


@pytest.mark.usefixtures("daemon")
def test_a_packet_after_the_queues_were_empty_waits_again(loaded: Loaded) -> None:
    """A report that the queues are empty is about the packets before it."""
    hand_over(loaded, UDP4)
    before = time.monotonic_ns()
    for _ in range(30):
        assert not carries(loaded, UDP4)
    loaded.programs.drained(before, before)
    assert not carries(loaded, UDP4)
    loaded.drain()
    assert carries(loaded, UDP4)


@pytest.mark.usefixtures("daemon")
def test_a_packet_on_its_way_into_the_queue_counts(loaded: Loaded) -> None:
    """The queue may be seen empty before a packet gets there that was left to the daemon already."""
    hand_over(loaded, UDP4)
    loaded.drain(-ON_THE_WAY_NS)
    assert not carries(loaded, UDP4)


@pytest.mark.usefixtures("daemon")
def test_a_queue_that_is_not_empty_keeps_its_flows(loaded: Loaded) -> None:
    """Each direction has queues of its own."""
    hand_over(loaded, TCP4)
    assert not loaded.decap(arriving(reverse(TCP4).superframe(LONG)), 1398).carried
    later = time.monotonic_ns() + HOUR
    loaded.programs.drained(later, 0)
    assert carries(loaded, TCP4)
    assert not carries_back(loaded, TCP4)
    loaded.programs.drained(0, later)
    assert carries_back(loaded, TCP4)


@pytest.mark.usefixtures("daemon")
def test_a_fragment_holds_all_flows_of_its_pair(loaded: Loaded) -> None:
    """It shows no ports, so it may belong to any of them."""
    assert not loaded.encap(FRAGMENT).carried
    assert [carries(loaded, flow) for flow in FLOWS] == [False, False, False, True, True, True]
    assert carries_back(loaded, UDP4)
    loaded.drain()
    assert all(carries(loaded, flow) for flow in FLOWS)


@pytest.mark.usefixtures("daemon")
def test_an_unusual_shape_holds_its_flow(loaded: Loaded) -> None:
    """A packet that is too big, which the daemon fragments or answers, and headers of unusual shapes."""
    assert not carries(loaded, UDP4, numbered(1500))
    assert not carries(loaded, UDP4)
    assert carries(loaded, TCP4)
    for name in ("IP options", "later fragment", "padding behind the packet"):
        ready(loaded)
        assert not loaded.encap(frame_of(UNUSUAL[name], MAC_B)).carried
        assert loaded.left_any()


@pytest.mark.usefixtures("daemon")
def test_all_is_the_daemons_at_first(loaded: Loaded) -> None:
    """Its queues may still hold frames from before the programs were attached."""
    loaded.forget(carry_after_ns=HOUR)
    for flow in FLOWS:
        assert not carries(loaded, flow)
        assert not carries_back(loaded, flow)
    loaded.drain(HOUR)
    assert carries(loaded, TCP4)


@pytest.mark.usefixtures("daemon")
def test_a_capture_sees_all(loaded: Loaded) -> None:
    """Until it ends, and then as at the start."""
    loaded.programs.divert(True)
    loaded.drain()
    for flow in FLOWS:
        assert not carries(loaded, flow)
        assert not carries_back(loaded, flow)
    loaded.programs.divert(False)
    assert not carries(loaded, TCP4)
    loaded.drain()
    assert carries(loaded, TCP4)


@pytest.mark.usefixtures("daemon")
def test_a_tap_that_is_made_again(loaded: Loaded) -> None:
    """Later packets overtook those that had waited in the daemon's sockets for the new TAP. A capture goes on."""
    assert carries_back(loaded, TCP4)
    loaded.programs.attach(0, ())
    assert not carries_back(loaded, TCP4)
    loaded.programs.attach(loaded.tap, ())
    for flow in FLOWS:
        assert not carries(loaded, flow)
        assert not carries_back(loaded, flow)
    loaded.drain()
    assert carries_back(loaded, TCP4)
    loaded.programs.attach(loaded.tap, ())
    assert carries_back(loaded, TCP4)
    loaded.programs.divert(True)
    loaded.programs.attach(0, ())
    loaded.programs.attach(loaded.tap, ())
    loaded.drain()
    assert not carries_back(loaded, TCP4)
    loaded.programs.divert(False)


@pytest.mark.usefixtures("daemon")
def test_nobody_else_holds_a_flow(loaded: Loaded) -> None:
    """Datagrams that the daemon drops, and frames that are in no flow, leave the programs as they are."""
    frame = reverse(UDP4).frame(b"x")
    for packet in (
        arriving(frame, OUTER_STRANGER),
        arriving(frame, header=bytes.fromhex("0800000000000200")),
        arriving(frame, header=bytes.fromhex("0c00000100000100")),
        arriving(frame, dport=53),
        arriving(frame, dst="192.168.111.200"),
        arriving(frame, outer_mac=0x02_00_00_00_00_99),
        arriving(frame, check="wrong"),
    ):
        assert not loaded.decap(packet).carried
        assert not loaded.left_any()
    for frame in (ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B)), b"\2" + UDP4.frame(b"x")[1:]):
        assert not loaded.encap(frame).carried
        assert not loaded.left_any()


@pytest.mark.usefixtures("daemon")
def test_a_flood_goes_to_the_daemon(loaded: Loaded) -> None:
    """Small UDP packets of one flow beyond a rate, of which the daemon makes trains; nothing else."""
    ready(loaded)
    loaded.set(hung_ns=HUNG, unattended_ns=UNATTENDED, flood=0)
    assert not carries(loaded, UDP4, bytes(512 - 28))
    assert not carries(loaded, UDP6)
    assert carries(loaded, replace(UDP4, sport=1), bytes(513 - 28))
    assert carries(loaded, TCP4)
    assert carries_back(loaded, UDP4)
    assert not carries(loaded, UDP4, bytes(1000))


Event = tuple[str, int]


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("packet"), st.sampled_from([0, 0, 0, 1, 2, 5])),
            st.tuples(st.just("superframe"), st.sampled_from([0, 1, 2, 5])),
            st.tuples(st.just("fragment"), st.just(0)),
            st.tuples(st.just("drain"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_no_packet_overtakes_another(loaded: Loaded, events: list[Event]) -> None:
    """Any sequence: a packet is carried if, and only if, the queues were empty after the last one that was left."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((OUTER_A, PORT))
        ready(loaded)
        left: set[int] = set()
        fragment = False
        for what, which in events:
            flow = FLOWS[which]
            if what == "drain":
                loaded.drain()
                left, fragment = set(), False
            elif what == "superframe":
                hand_over(loaded, flow)
                left.add(which)
            elif what == "fragment":
                assert not loaded.encap(FRAGMENT).carried
                fragment = True
            else:
                stays = which in left or (fragment and (flow.src, flow.dst) == (POD_A, POD_B))
                assert carries(loaded, flow) != stays
                if stays:
                    left.add(which)
