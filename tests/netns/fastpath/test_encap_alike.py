"""The program at the TAP: the daemon would have sent what it sends, to the same VTEP behind the same headers."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from typing import Literal

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.corpus import FRAMES, damage
from tests.damage import SUPERFRAMES, damaged, streams
from tests.frames import (
    ICMP,
    ICMPV6,
    MAC_B,
    MAC_C,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    UDP,
    echo,
    frame_of,
    icmpv6,
    ipv4,
    ipv6,
    packet_of,
    udp,
)
from tests.netns.fastpath.alike import assert_encap_alike
from tests.netns.fastpath.loaded import Loaded, can_run
from tests.netns.fastpath.packets import MAC_D, MAC_SHARED, MANY, NARROW
from tests.stream import EACH, TCP4, TCP6, UDP4, UDP6, Stream, each_stream, numbered
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Mac, Vtep

pytestmark = pytest.mark.netns

TTLS, DSCPS = (None, 1, 64, 255), (None, 0, 46, 63)
DFS: tuple[Literal["unset", "set", "inherit"], ...] = ("unset", "set", "inherit")
SETTINGS = [OuterHeader(ttl, dscp, df) for ttl, dscp, df in product(TTLS, DSCPS, DFS)]
KNOWN_MACS = (MAC_B, MAC_C, MAC_D, MAC_SHARED)
TO_PEERS = [mac.to_bytes(6, "big") + frame[6:] for mac in KNOWN_MACS[:2] for frame in FRAMES + SUPERFRAMES]

outers = st.sampled_from(SETTINGS)
lengths = st.one_of(st.integers(0, 90), st.integers(600, 760), st.integers(1200, 1500), st.integers(0, 3000))


def judged(loaded: Loaded, frame: bytes, outer: OuterHeader = OuterHeader()) -> Vtep | None:  # noqa: B008  (frozen)
    """Run the program with MANY and NARROW; return the VTEP that a frame was carried to, None for one that was left.

    Fail unless the daemon would have sent the same, and would have counted as much. Of a frame that is left, nothing
    may have changed.
    """
    known = loaded.follow(MANY, NARROW)
    loaded.set(outer)
    loaded.forget()
    loaded.restart_counts()
    outcome = loaded.encap(frame)
    total, by_vtep = loaded.counts()
    if not outcome.carried:
        assert outcome.packet == frame
        assert not by_vtep
        return None
    vtep, frames, nbytes = assert_encap_alike(frame, outcome.packet, known, outer)
    assert total == (frames, nbytes, 0, 0)
    assert by_vtep == {vtep: total}
    return vtep


@settings(max_examples=500)
@given(damaged(TO_PEERS), outers)
def test_any_frame_that_is_carried(loaded: Loaded, frame: bytes, outer: OuterHeader) -> None:
    """Damaged frames, truncated or padded."""
    assume(can_run(frame))
    judged(loaded, frame, outer)


@settings(max_examples=500)
@given(streams(st.integers(0, 0x1FF)), lengths, st.sampled_from(KNOWN_MACS), outers)
@example(TCP4, 1410, MAC_B, OuterHeader())
@example(UDP6, 652, MAC_C, OuterHeader(df="set"))
def test_any_sound_frame_that_is_carried(
    loaded: Loaded, stream: Stream, length: int, mac: int, outer: OuterHeader
) -> None:
    """Flows of all header fields, to VTEPs of all kinds. Those with plain headers that fit are carried."""
    frame = replace(stream, dst_mac=mac).frame(numbered(length))
    vtep = judged(loaded, frame, outer)
    most = {MAC_B: 1450, MAC_C: 700, MAC_D: 1300, MAC_SHARED: 0}[mac]
    plain = not stream.ip_options and not stream.extensions
    assert (vtep is not None) == (plain and len(frame) - 14 <= most)
    if vtep is not None:
        assert vtep.mac.value == mac


def test_the_corpus_is_carried_alike(loaded: Loaded) -> None:
    """Damaged frames of every kind. A sixth of them is carried, so that the tests above say something."""
    rng = random.Random(7348)  # noqa: S311  (repeatable, not secret)
    carried = 0
    for outer in SETTINGS:
        frames = [damage(rng.choice(TO_PEERS), rng) for _ in range(100)]
        carried += sum(judged(loaded, frame, outer) is not None for frame in frames if can_run(frame))
    assert carried > 800


@pytest.mark.parametrize("outer", SETTINGS, ids=lambda outer: f"ttl {outer.ttl} dscp {outer.dscp} df {outer.df}")
def test_every_setting_of_the_outer_header(loaded: Loaded, outer: OuterHeader) -> None:
    """An inner TTL of 0 was inherited; the daemon's sockets then use their own."""
    for stream, tos, ttl, fragment in product((TCP4, UDP6), (0, 1, 0xBA, 0xFF), (0, 1, 255), (0, 0x4000)):
        frame = replace(stream, tos=tos, ttl=ttl, fragment=fragment).frame(b"payload")
        assert judged(loaded, frame, outer) is not None


@pytest.mark.parametrize("outer", [OuterHeader(), OuterHeader(df="inherit")])
@pytest.mark.parametrize("senders", [1, 2, 7, 32, 33, 64])
def test_flows_leave_from_the_daemons_ports(loaded: Loaded, senders: int, outer: OuterHeader) -> None:
    """With `df: inherit` and more than 32 sockets, the program sent from other ones, those without DF among them."""
    ports = [40_000 + 3 * i for i in range(senders * (2 if outer.df == "inherit" else 1))]
    known = loaded.follow(MANY, NARROW)
    loaded.set(outer, ports=ports)
    loaded.forget()
    used = set()
    for sport, fragment in product(range(1000, 1600), (0, 0x4000)):
        frame = replace(TCP4, sport=sport, fragment=fragment).frame(b"")
        outcome = loaded.encap(frame)
        assert outcome.carried
        assert_encap_alike(frame, outcome.packet, known, outer, ports)
        used.add(outcome.packet[34:36])
    assert used == {port.to_bytes(2, "big") for port in ports}


PLAIN_PACKETS = {
    **{name: stream.packet(b"payload", 0, 0, 0x10, partial=False) for name, stream in EACH.items()},
    "ping": ipv4(POD_A, POD_B, ICMP, echo(b"payload")),
    "ping of IPv6": ipv6(POD_A6, POD_B6, ICMPV6, icmpv6(POD_A6, POD_B6, 128, bytes(8))),
    "error of IPv6": ipv6(POD_A6, POD_B6, ICMPV6, icmpv6(POD_A6, POD_B6, 2, bytes(48))),
    "UDP without a checksum": ipv4(POD_A, POD_B, UDP, udp(POD_A, POD_B, b"x")[:6] + bytes(2) + b"x"),
    "SCTP": packet_of(POD_A, POD_B, 132, bytes(12)),
    "ESP": packet_of(POD_A6, POD_B6, 50, bytes(32)),
    "IP in IP": packet_of(POD_A, POD_B, 4, ipv4(POD_A, POD_B, UDP, bytes(8))),
    "an unknown protocol": packet_of(POD_A6, POD_B6, 253, b"x"),
    "no payload": packet_of(POD_A, POD_B, 253, b""),
    "no payload of IPv6": packet_of(POD_A6, POD_B6, 59, b""),
}


@pytest.mark.parametrize("packet", PLAIN_PACKETS.values(), ids=PLAIN_PACKETS)
def test_plain_packets_are_carried(loaded: Loaded, packet: bytes) -> None:
    """Of every protocol: a program needs to know no more than the IP header."""
    vtep = judged(loaded, frame_of(packet, MAC_B))
    assert vtep is not None
    assert vtep.mac.value == MAC_B


@each_stream
def test_a_pods_mark_chooses_no_route(loaded: Loaded, stream: Stream) -> None:
    """A rule for marked packets took those of marked flows elsewhere; the daemon's sockets have no mark."""
    loaded.follow(MANY)
    loaded.set()
    loaded.forget()
    outcome = loaded.encap(stream.frame(b"x"), mark=0x4000)
    assert (outcome.carried, outcome.mark) == (True, 0)


@each_stream
def test_the_mtu_of_the_device_is_a_limit(loaded: Loaded, stream: Stream) -> None:
    """A packet of exactly this size is carried."""
    room = 1450 - (stream.headers_len - 14)
    assert judged(loaded, stream.frame(numbered(room))) is not None
    assert judged(loaded, stream.frame(numbered(room + 1))) is None


def test_a_table_that_changes_is_followed(loaded: Loaded) -> None:
    """A VTEP that goes is no longer sent to, nor is one whose MAC a second one takes."""
    frame = UDP4.frame(b"x")
    loaded.set()
    loaded.forget()
    for leases, carried in [
        (MANY, True),
        ([each for each in MANY if each.vtep.mac.value != MAC_B], False),
        (MANY, True),
        ([replace(each, vtep=replace(each.vtep, mac=Mac(MAC_B))) for each in MANY], False),
        ([], False),
    ]:
        loaded.follow(leases)
        assert loaded.encap(frame).carried == carried


def test_a_device_that_cannot_be_reached_is_left(loaded: Loaded) -> None:
    """A VTEP without a known interface is the daemon's."""
    loaded.set()
    loaded.forget()
    loaded.follow(MANY, unreachable={MANY[0].vtep.address})
    assert not loaded.encap(TCP6.frame(b"x")).carried
