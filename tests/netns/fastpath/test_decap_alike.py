"""The program at the underlay: the daemon would have written the same frame to the TAP."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.corpus import FRAMES, damage
from tests.damage import damaged, streams
from tests.frames import (
    ETH_LEN,
    ICMP,
    MAC_B,
    OUTER_A,
    OUTER_B,
    OUTER_C,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    POD_C,
    UDP,
    VXLAN_LEN,
    checksum,
    echo,
    from_b,
    ipv4,
    packed,
    udp,
)
from tests.netns.fastpath.alike import assert_decap_alike
from tests.netns.fastpath.loaded import PUBLIC, Loaded, can_run
from tests.netns.fastpath.packets import (
    CHECKS,
    MAC_D,
    MANY,
    MANY_TABLE,
    NAT,
    NAT_D,
    OUTER_D,
    OUTER_E,
    OUTER_STRANGER,
    POD_D,
    POD_D_OF_B,
    POD_E,
    Check,
    arriving,
)
from tests.stream import Stream, each_stream, numbered, reverse
from vxland.model.lease import Vtep
from vxland.model.source_check import SourceCheck

pytestmark = pytest.mark.netns


def swapped(frame: bytes, one: str, other: str) -> bytes:
    """Return the frame with one pod's address in place of the other's, and the reverse."""
    return packed(other).join(part.replace(packed(other), packed(one)) for part in frame.split(packed(one)))


FROM_PEERS = [
    OWN_MAC.to_bytes(6, "big") + MAC_B.to_bytes(6, "big") + swapped(swapped(frame, POD_A, POD_B), POD_A6, POD_B6)[12:]
    for frame in FRAMES
]
SOURCES = (OUTER_B, OUTER_B, OUTER_C, OUTER_D, OUTER_E, NAT, NAT_D, OUTER_STRANGER)
INNER_SOURCES = (POD_B, POD_B, POD_C, POD_D, POD_D_OF_B, POD_E, "10.244.6.1", OUTER_B, POD_A)

levels = st.sampled_from(SourceCheck)
checks = st.sampled_from(CHECKS)


def judged(loaded: Loaded, packet: bytes, level: SourceCheck = SourceCheck.VTEP) -> Vtep | None:
    """Run the program with MANY; return the VTEP whose frame was carried, None for a packet that was left.

    Fail unless the daemon would have written the same frame, and would have counted as much for the same VTEP. Of a
    packet that is left, nothing may have changed.
    """
    loaded.follow(MANY)
    loaded.set(check=level)
    loaded.forget()
    loaded.restart_counts()
    outcome = loaded.decap(packet, mark=7)
    total, by_vtep = loaded.counts()
    if not outcome.carried:
        assert outcome.packet == packet
        assert outcome.mark == 7
        assert not by_vtep
        return None
    vtep = assert_decap_alike(packet, outcome.packet, MANY_TABLE, level)
    assert outcome.mark == 0
    assert total == (0, 0, 1, len(outcome.packet))
    assert by_vtep == {vtep: total}
    return vtep


def repaired(packet: bytes) -> bytes:
    """Return the packet with a correct checksum of its outer IP header."""
    ip = packet[ETH_LEN : ETH_LEN + 20]
    value = checksum(ip[:10] + b"\0\0" + ip[12:])
    return packet[: ETH_LEN + 10] + value.to_bytes(2, "big") + packet[ETH_LEN + 12 :]


@settings(max_examples=600)
@given(damaged(FROM_PEERS), st.sampled_from(SOURCES), st.integers(0, 255), checks, levels)
def test_any_frame_that_is_carried(
    loaded: Loaded, frame: bytes, src: str, tos: int, check: Check, level: SourceCheck
) -> None:
    """Damaged frames, truncated or padded, in sound datagrams of known and unknown sources."""
    judged(loaded, arriving(frame, src, tos=tos, check=check, finished=frame), level)


@settings(max_examples=600)
@given(damaged([arriving(frame, check=check) for frame in FROM_PEERS for check in CHECKS[:2]]), st.booleans(), levels)
def test_any_datagram_that_is_carried(loaded: Loaded, packet: bytes, repair: bool, level: SourceCheck) -> None:
    """Damaged from the outer Ethernet header on. A datagram with a wrong IP header checksum was carried."""
    assume(can_run(packet))
    judged(loaded, repaired(packet) if repair and len(packet) >= ETH_LEN + 20 else packet, level)


@settings(max_examples=600)
@given(
    streams(st.integers(0, 0x1FF)),
    st.integers(0, 1500),
    st.sampled_from(SOURCES),
    st.sampled_from(INNER_SOURCES),
    st.sampled_from([OUTER_A, OUTER_A, PUBLIC]),
    st.integers(0, 255),
    checks,
    levels,
)
@example(Stream(tos=2), 100, OUTER_B, POD_B, OUTER_A, 3, "inner", SourceCheck.STRICT)
def test_any_sound_datagram_that_is_carried(
    loaded: Loaded,
    stream: Stream,
    length: int,
    src: str,
    inner_src: str,
    dst: str,
    tos: int,
    check: Check,
    level: SourceCheck,
) -> None:
    """Flows of all header fields from sources of all kinds, with every kind of checksum."""
    stream = reverse(stream)
    if not stream.is_v6:
        stream = replace(stream, src=inner_src)
    whole, partial = stream.frame(numbered(length)), stream.frame(numbered(length), partial=True)
    frame = partial if check in {"left", "inner"} else whole
    vtep = judged(loaded, arriving(frame, src, dst, tos=tos, check=check, finished=whole), level)
    drop_or_copy = (tos & 3, stream.tos & 3) in {(3, 0), (1, 2)}
    plain = not stream.ip_options and not stream.extensions and not drop_or_copy and check != "wrong"
    if level == SourceCheck.VTEP:
        assert (vtep is not None) == (plain and src != OUTER_STRANGER)
    if vtep is not None:
        assert plain


@pytest.mark.parametrize("level", SourceCheck)
def test_the_corpus_is_carried_alike(loaded: Loaded, level: SourceCheck) -> None:
    """Damaged frames and datagrams of every kind. A tenth is carried, so that the tests above say something."""
    rng = random.Random(7348)  # noqa: S311  (repeatable, not secret)
    carried = 0
    for _ in range(1500):
        frame, tos = rng.choice(FROM_PEERS), rng.randrange(4)
        packet = (
            damage(arriving(frame, tos=tos), rng) if rng.random() < 1 / 2 else arriving(damage(frame, rng), tos=tos)
        )
        if can_run(packet) and len(packet) > ETH_LEN + 20:
            carried += judged(loaded, repaired(packet) if rng.random() < 3 / 4 else packet, level) is not None
    assert carried > 150


@each_stream
def test_ecn_is_merged(loaded: Loaded, stream: Stream) -> None:
    """Every pair of fields, RFC 6040 section 4.2: congestion on the way reaches the inner header."""
    for outer_ecn, inner_ecn in product(range(4), range(4)):
        frame = reverse(replace(stream, tos=0xB8 | inner_ecn)).frame(b"payload")
        vtep = judged(loaded, arriving(frame, tos=0x28 | outer_ecn))
        assert (vtep is None) == ((outer_ecn, inner_ecn) in {(3, 0), (1, 2)})


def test_a_wrong_inner_checksum_stays_wrong(loaded: Loaded) -> None:
    """The program replaced it when it marked congestion: pods received a corrupt header as a valid one."""
    packet = ipv4(POD_B, POD_A, UDP, udp(POD_B, POD_A, b"x"), tos=2)
    for at in (8, 10, 11, 15):  # TTL, checksum, source
        corrupt = packet[:at] + bytes([packet[at] ^ 4]) + packet[at + 1 :]
        assert judged(loaded, arriving(from_b(corrupt), tos=3)) is not None


@pytest.mark.parametrize("check", CHECKS)
@each_stream
def test_outer_checksums(loaded: Loaded, stream: Stream, check: Check) -> None:
    """Of every length: the program sums up a packet piece by piece."""
    for length in [*range(12), 418, 419, 420, 421, 512, 940, 1024, 1398, 3000, 3401]:
        payload = numbered(length)
        whole, partial = (reverse(stream).frame(payload, partial=left) for left in (False, True))
        packet = arriving(partial if check in {"left", "inner"} else whole, check=check, finished=whole)
        assert (judged(loaded, packet) is not None) == (check != "wrong")


def test_corruption_on_the_way_is_left(loaded: Loaded) -> None:
    """A flipped bit anywhere behind the IP header: the kernel drops such a datagram at the daemon's socket."""
    packet = arriving(from_b(ipv4(POD_B, POD_A, ICMP, echo(numbered(600)))), check="right")
    assert judged(loaded, packet) is not None
    for at in range(ETH_LEN + 20, len(packet)):
        assert judged(loaded, packet[:at] + bytes([packet[at] ^ 0x10]) + packet[at + 1 :]) is None


def test_vteps_are_distinguished_by_their_sources(loaded: Loaded) -> None:
    """By the longest prefix behind NAT, and by an address that is a VTEP's own rather than by one that another has."""
    found = {src: judged(loaded, arriving(from_b(ipv4(POD_B, POD_A, ICMP, echo(b""))), src)) for src in SOURCES}
    assert {src: vtep and str(vtep.address) for src, vtep in found.items()} == {
        OUTER_B: OUTER_B,
        OUTER_C: OUTER_C,
        OUTER_D: OUTER_D,
        OUTER_E: OUTER_E,
        NAT: OUTER_C,
        NAT_D: OUTER_D,
        OUTER_STRANGER: None,
    }


def test_the_strict_check(loaded: Loaded) -> None:
    """By the longest prefix inside as well. What only the daemon's rules allow is left to it."""
    for inner_src, src in product(INNER_SOURCES, SOURCES):
        frame = replace(Stream(inner_src, POD_A, UDP), dst_mac=OWN_MAC, src_mac=MAC_D).frame(b"x")
        own = {POD_B: {OUTER_B}, POD_C: {OUTER_C, NAT}, POD_D: {OUTER_D, NAT_D}, POD_D_OF_B: {OUTER_D, NAT_D}}
        own |= {POD_E: {OUTER_E}, "10.244.6.1": {OUTER_E}}
        carried = judged(loaded, arriving(frame, src), SourceCheck.STRICT) is not None
        assert carried == (src in own.get(inner_src, ()))


def test_the_header_is_where_it_is_expected() -> None:
    """The tests change bytes by position."""
    packet = arriving(from_b(ipv4(POD_B, POD_A, ICMP, echo(b""))))
    assert packet[ETH_LEN + 28 :][:VXLAN_LEN].hex() == "0800000000000100"
