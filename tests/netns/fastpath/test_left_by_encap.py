"""Frames from pods that are the daemon's: the program at the TAP leaves each kind to it, untouched."""

from __future__ import annotations

from dataclasses import replace
from struct import pack

import pytest

from tests.frames import (
    ARP,
    BROADCAST,
    GROUP_MAC,
    HOST_MAC,
    ICMPV6,
    IPV4,
    IPV6,
    LLDP,
    MAC_B,
    MAC_C,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    POD_C,
    STRANGER,
    TCP,
    UDP,
    arp,
    ethernet,
    frame_of,
    icmpv6,
    ipv4,
    ipv6,
    packed,
    packet_of,
    solicitation,
    tcp,
    udp,
    udp_frame,
)
from tests.netns.fastpath.loaded import Loaded
from tests.netns.fastpath.packets import MAC_SHARED, MANY, NARROW
from tests.netns.fastpath.unusual import UNUSUAL
from tests.stream import TCP4, TCP6, UDP4, UDP6, numbered

pytestmark = pytest.mark.netns

VLAN = 0x8100
GROUP_V4_MAC = 0x01005E0000FB


def discovery(icmp_type: int) -> bytes:
    """Return a message of neighbour discovery to a peer's own MAC."""
    body = bytes(4) + packed(POD_B6) + packed(POD_A6)
    return frame_of(ipv6(POD_A6, POD_B6, ICMPV6, icmpv6(POD_A6, POD_B6, icmp_type, body), hop_limit=255), MAC_B)


LEFT: dict[str, bytes] = {
    **{name: frame_of(packet, MAC_B) for name, packet in UNUSUAL.items()},
    "ARP request": ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B)),
    "ARP request to a peer": ethernet(MAC_B, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B)),
    "ARP reply to a peer": ethernet(MAC_B, OWN_MAC, ARP, arp(2, OWN_MAC, POD_A, POD_B, MAC_B)),
    "router solicitation": discovery(133),
    "router advertisement": discovery(134),
    "neighbour solicitation": discovery(135),
    "neighbour advertisement": discovery(136),
    "redirect": discovery(137),
    "neighbour solicitation to a group": frame_of(solicitation(POD_B6, POD_A6), GROUP_MAC),
    "group of IPv4": frame_of(packet_of(POD_A, "224.0.0.251", UDP, udp(POD_A, "224.0.0.251", b"x")), GROUP_V4_MAC),
    "group of IPv6": frame_of(packet_of(POD_A6, "ff02::fb", UDP, udp(POD_A6, "ff02::fb", b"x")), 0x3333000000FB),
    "broadcast": frame_of(packet_of(POD_A, "255.255.255.255", UDP, udp(POD_A, "255.255.255.255", b"x")), BROADCAST),
    "unknown MAC": udp_frame(POD_A, POD_B, dst_mac=HOST_MAC),
    "unknown MAC and address": udp_frame(POD_A, STRANGER, dst_mac=HOST_MAC),
    "our own MAC": udp_frame(POD_A, POD_B, dst_mac=OWN_MAC),
    "MAC 0": udp_frame(POD_A, POD_B, dst_mac=0),
    "MAC of two VTEPs": udp_frame(POD_A, "10.244.4.1", dst_mac=MAC_SHARED),
    "no IP": ethernet(MAC_B, OWN_MAC, LLDP, b"lldp"),
    "nothing behind the header": ethernet(MAC_B, OWN_MAC, LLDP, b""),
    "VLAN tag": ethernet(MAC_B, OWN_MAC, VLAN, pack("!HH", 7, IPV4) + packet_of(POD_A, POD_B, 253, b"x")),
    "IPv6 as IPv4": ethernet(MAC_B, OWN_MAC, IPV4, packet_of(POD_A6, POD_B6, 253, b"x")),
    "IPv4 as IPv6": ethernet(MAC_B, OWN_MAC, IPV6, packet_of(POD_A, POD_B, 253, bytes(60))),
    "too big for the device": TCP4.frame(numbered(1411)),
    "too big for the device, IPv6": UDP6.frame(numbered(1403)),
    "too big for the path": replace(UDP4, dst=POD_C, dst_mac=MAC_C).frame(numbered(673)),
    "too big for the path, IPv6": replace(TCP6, dst_mac=MAC_C).frame(numbered(641)),
}


@pytest.fixture(autouse=True)
def _ready(loaded: Loaded) -> None:
    loaded.follow(MANY, NARROW)
    loaded.set()
    loaded.forget()


@pytest.mark.parametrize("frame", LEFT.values(), ids=LEFT)
def test_a_frame_of_the_daemons_is_left(loaded: Loaded, frame: bytes) -> None:
    """Nothing has changed in it, and nothing is counted."""
    loaded.restart_counts()
    outcome = loaded.encap(frame, mark=7)
    assert (outcome.carried, outcome.packet, outcome.mark) == (False, frame, 7)
    assert loaded.counts() == ((0, 0, 0, 0), {})


def test_frames_that_fit_are_carried(loaded: Loaded) -> None:
    """One byte less than those above."""
    for frame in (
        TCP4.frame(numbered(1410)),
        UDP6.frame(numbered(1402)),
        replace(UDP4, dst=POD_C, dst_mac=MAC_C).frame(numbered(672)),
        replace(TCP6, dst_mac=MAC_C).frame(numbered(640)),
    ):
        assert loaded.encap(frame).carried


SUPERFRAMES = {
    "no payload": (frame_of(packet_of(POD_A, POD_B, TCP, tcp(POD_A, POD_B, b"", partial=True)), MAC_B), 1000),
    "of a protocol without segments": (frame_of(packet_of(POD_A, POD_B, 253, bytes(3000)), MAC_B), 1000),
    "cut too fine": (TCP4.superframe(numbered(3000)), 255),
    "segments too big for the device": (TCP4.superframe(numbered(3000)), 1411),
    "segments too big for the path": (replace(UDP6, dst_mac=MAC_C).superframe(numbered(3000)), 653),
    "fragment": (frame_of(ipv4(POD_A, POD_B, UDP, bytes(3000), fragment=0x2000), MAC_B), 1000),
}


@pytest.mark.parametrize(("frame", "gso_size"), SUPERFRAMES.values(), ids=SUPERFRAMES)
def test_a_superframe_of_the_daemons_is_left(loaded: Loaded, frame: bytes, gso_size: int) -> None:
    """The kernel does not carry any in this kind of run: test_superframes.py has those that are carried."""
    outcome = loaded.encap(frame, gso_size)
    assert not outcome.carried
    assert outcome.packet == frame
