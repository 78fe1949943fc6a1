"""Packets from the underlay that are the daemon's, or nobody's: the program there leaves each kind, untouched."""

from __future__ import annotations

from struct import pack

import pytest

from tests.frames import (
    ARP,
    BROADCAST,
    ETH_LEN,
    HOST_MAC,
    ICMPV6,
    IPV4,
    LLDP,
    MAC_B,
    MAC_C,
    OUTER_A,
    OUTER_B,
    OUTER_C,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    POD_C,
    POD_C6,
    TCP,
    UDP,
    VNI,
    arp,
    ethernet,
    frame_of,
    from_b,
    icmpv6,
    ipv6,
    packed,
    packet_of,
    udp,
)
from tests.netns.fastpath.loaded import PUBLIC, Loaded
from tests.netns.fastpath.packets import CHECKS, MANY, NAT, OUTER_STRANGER, POD_D_OF_B, arriving
from tests.netns.fastpath.unusual import UNUSUAL, changed
from tests.stream import TCP4, numbered, reverse
from vxland.datapath.datagram import segment_size_of
from vxland.model.source_check import SourceCheck

pytestmark = pytest.mark.netns

VLAN = 0x8100
OUTER_AT, UDP_AT = ETH_LEN, ETH_LEN + 20


def datagram(inner_src: str = POD_B, inner_dst: str = POD_A, ecn: int = 0) -> bytes:
    """Return the frame with a UDP packet."""
    return from_b(packet_of(inner_src, inner_dst, UDP, udp(inner_src, inner_dst, b"payload"), ecn))


FRAME = datagram()
WHOLE = arriving(FRAME)


def discovery(icmp_type: int) -> bytes:
    """Return a message of neighbour discovery to our own MAC."""
    body = bytes(4) + packed(POD_A6) + packed(POD_B6)
    return from_b(ipv6(POD_B6, POD_A6, ICMPV6, icmpv6(POD_B6, POD_A6, icmp_type, body), hop_limit=255))


def header(flags: int, vni: int = VNI, low: int = 0) -> bytes:
    """Return a VXLAN header: the first 32 bits, the VNI, the last 8 bits."""
    return pack("!II", flags, vni << 8 | low)


def ip_changed(at: int, value: int) -> bytes:
    """Return WHOLE with another byte in the outer IP header, whose checksum is adjusted."""
    ip = changed(WHOLE[OUTER_AT:UDP_AT], at, value)
    total = sum(ip[i] << 8 | ip[i + 1] for i in range(0, 20, 2) if i != 10)
    value = (total % 0xFFFF) ^ 0xFFFF
    return WHOLE[:OUTER_AT] + ip[:10] + pack("!H", value) + ip[12:] + WHOLE[UDP_AT:]


LEFT: dict[str, bytes] = {
    **{f"inner {name}": arriving(from_b(packet)) for name, packet in UNUSUAL.items()},
    "ARP inside": arriving(ethernet(OWN_MAC, MAC_B, ARP, arp(1, MAC_B, POD_B, POD_A))),
    **{f"discovery {icmp_type}": arriving(discovery(icmp_type)) for icmp_type in range(133, 138)},
    "group inside": arriving(b"\x01\x00\x5e\0\0\1" + FRAME[6:]),
    "broadcast inside": arriving(BROADCAST.to_bytes(6, "big") + FRAME[6:]),
    "frame to another MAC": arriving(HOST_MAC.to_bytes(6, "big") + FRAME[6:]),
    "frame to the sender's MAC": arriving(MAC_B.to_bytes(6, "big") + FRAME[6:]),
    "our MAC as its source": arriving(FRAME[:6] + OWN_MAC.to_bytes(6, "big") + FRAME[12:]),
    "no IP inside": arriving(ethernet(OWN_MAC, MAC_B, LLDP, b"lldp".ljust(60))),
    "VLAN tag inside": arriving(ethernet(OWN_MAC, MAC_B, VLAN, pack("!HH", 7, IPV4) + FRAME[ETH_LEN:])),
    "VXLAN-GPE": arriving(FRAME, header=header(0x0C00_0003)),
    "VXLAN-GPE without Ethernet": arriving(FRAME, header=header(0x0C00_0001)),
    "group policy": arriving(FRAME, header=header(0x8800_0007)),
    "no I flag": arriving(FRAME, header=header(0)),
    **{f"flag {1 << bit:#x}": arriving(FRAME, header=header(0x0800_0000 ^ 1 << bit)) for bit in range(32)},
    **{f"reserved bit {bit}": arriving(FRAME, header=header(0x0800_0000, low=1 << bit)) for bit in range(8)},
    "other VNI": arriving(FRAME, header=header(0x0800_0000, 2)),
    "VNI of other byte order": arriving(FRAME, header=header(0x0800_0000, 0x01_0000)),
    "other port": arriving(FRAME, dport=4789),
    "our port as its source only": arriving(FRAME, dport=50_000),
    "to another address": arriving(FRAME, dst="192.168.111.200"),
    "to a peer's address": arriving(FRAME, dst=OUTER_C),
    "unknown source": arriving(FRAME, OUTER_STRANGER),
    "from ourselves": arriving(FRAME, OUTER_A),
    "frame for another host": arriving(FRAME, outer_mac=0x02_00_00_00_00_99),
    "group on the underlay": arriving(FRAME, outer_mac=0x01005E000001),
    "VLAN tag": WHOLE[:12] + pack("!HH", VLAN, 7) + WHOLE[12:],
    "first outer fragment": arriving(FRAME, fragment=0x2000),
    "later outer fragment": arriving(FRAME, fragment=9),
    "outer IP options": arriving(FRAME, options=b"\x01" * 4),
    "outer IP header too short": ip_changed(0, 0x44),
    "outer version 5": ip_changed(0, 0x55),
    "outer version 6": ip_changed(0, 0x65),
    "outer protocol TCP": ip_changed(9, TCP),
    "outer protocol UDP-Lite": ip_changed(9, 136),
    "wrong outer IP checksum": changed(WHOLE, OUTER_AT + 10, WHOLE[OUTER_AT + 10] ^ 1),
    "padding behind the datagram": WHOLE + bytes(18),
    "UDP length too short": arriving(FRAME, udp_len=15 + len(FRAME)),
    "UDP length too long": arriving(FRAME, udp_len=17 + len(FRAME)),
    "UDP length 0": changed(changed(WHOLE, UDP_AT + 4, 0), UDP_AT + 5, 0),
    "IP length too short": ip_changed(3, WHOLE[OUTER_AT + 3] - 1),
    "IP length too long": ip_changed(3, WHOLE[OUTER_AT + 3] + 1),
    "wrong UDP checksum": arriving(FRAME, check="wrong"),
    "wrong UDP checksum of a long one": arriving(reverse(TCP4).frame(numbered(3000)), check="wrong"),
    "CE over Not-ECT": arriving(FRAME, tos=3),
    "CE over Not-ECT, IPv6": arriving(datagram(POD_B6, POD_A6), tos=3),
    "ECT(1) over ECT(0)": arriving(datagram(ecn=2), tos=1),
    "ECT(1) over ECT(0), IPv6": arriving(datagram(POD_B6, POD_A6, 2), tos=1),
    **{f"cut to {length} bytes": WHOLE[:length] for length in range(OUTER_AT + 20, len(WHOLE))},
}
FOREIGN: dict[str, bytes] = {
    "of C": arriving(datagram(POD_C)),
    "of C, IPv6": arriving(datagram(POD_C6, POD_A6)),
    "of D, within a prefix of B": arriving(datagram(POD_D_OF_B)),
    "of B, from C": arriving(frame_of(FRAME[ETH_LEN:], OWN_MAC, MAC_C), OUTER_C),
    "of B, from C behind NAT": arriving(frame_of(FRAME[ETH_LEN:], OWN_MAC, MAC_C), NAT),
    "of nobody": arriving(datagram("10.245.0.1")),
    "of nobody, IPv6": arriving(datagram("fe80::1", POD_A6)),
    "of our own": arriving(datagram(POD_A)),
    "of B's own underlay address": arriving(datagram(OUTER_B)),
}
"""Frames whose inner source is no address of B's subnets, though the daemon allows the last one."""


@pytest.fixture(autouse=True)
def _ready(loaded: Loaded) -> None:
    loaded.follow(MANY)
    loaded.set()
    loaded.forget()


def assert_left(loaded: Loaded, packet: bytes) -> None:
    """Fail if the program has changed, counted or marked the packet."""
    loaded.restart_counts()
    outcome = loaded.decap(packet, mark=7)
    assert not outcome.carried
    assert outcome.packet == packet
    assert outcome.mark == 7
    assert loaded.counts() == ((0, 0, 0, 0), {})


@pytest.mark.parametrize("packet", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("level", SourceCheck)
def test_a_packet_of_the_daemons_is_left(loaded: Loaded, packet: bytes, level: SourceCheck) -> None:
    """Whatever is checked about its source."""
    loaded.set(check=level)
    assert_left(loaded, packet)


@pytest.mark.parametrize("packet", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_inner_source_is_left(loaded: Loaded, packet: bytes) -> None:
    """With the strict check only."""
    assert loaded.decap(packet).carried
    loaded.set(check=SourceCheck.STRICT)
    assert_left(loaded, packet)


@pytest.mark.parametrize("level", SourceCheck)
@pytest.mark.parametrize("dst", [OUTER_A, PUBLIC])
def test_what_these_are_made_of_is_carried(loaded: Loaded, dst: str, level: SourceCheck) -> None:
    """To either of our addresses."""
    loaded.set(check=level)
    assert loaded.decap(arriving(FRAME, dst=dst)).carried
    assert loaded.decap(arriving(datagram(POD_B6, POD_A6), dst=dst, check="right")).carried


@pytest.mark.parametrize("gso_size", [1, 36, 1398, 0x3FFF])
def test_the_segment_size_of_an_aggregate_is_reported(loaded: Loaded, gso_size: int) -> None:
    """Sockets do not get it otherwise. The frame and its checksum are the daemon's and the kernel's to check."""
    for frame in (reverse(TCP4).superframe(numbered(3000)), from_b(UNUSUAL["IP options"]), FRAME):
        for check in CHECKS:
            packet = arriving(frame, check=check, finished=frame)
            outcome = loaded.decap(packet, gso_size, mark=7)
            assert not outcome.carried
            assert outcome.packet == packet
            assert segment_size_of(outcome.mark) == gso_size


@pytest.mark.parametrize(
    ("packet", "gso_size"),
    [
        (WHOLE, 0x4000),  # kube-proxy's mark
        (WHOLE, 0xFFFF),
        (LEFT["ARP inside"], 1398),
        (LEFT["unknown source"], 1398),
        (LEFT["other VNI"], 1398),
        (LEFT["other port"], 1398),
        (LEFT["VXLAN-GPE"], 1398),
        (LEFT["first outer fragment"], 1398),
    ],
)
def test_other_packets_keep_their_marks(loaded: Loaded, packet: bytes, gso_size: int) -> None:
    """Firewalls set some."""
    outcome = loaded.decap(packet, gso_size, mark=0x4000)
    assert (outcome.carried, outcome.packet, outcome.mark) == (False, packet, 0x4000)


def test_without_a_tap_all_is_left(loaded: Loaded) -> None:
    """Another VXLAN device can take over once the TAP is deleted: the kernel removes its entry then."""
    tap = loaded.programs._object.map("tap")
    tap.delete(bytes(4))
    try:
        assert_left(loaded, WHOLE)
    finally:
        tap.put(bytes(4), loaded.tap.to_bytes(4, "little"))
    assert loaded.decap(WHOLE).carried
