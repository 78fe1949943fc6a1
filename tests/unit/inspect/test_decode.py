"""Copied frames taken apart, beside scapy's reading of them; and cut short at every length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet as ScapyPacket

from vxland.inspect.decode import decode
from vxland.inspect.records import parse

MACS = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="10.244.0.2", dst="10.244.1.3"), IPv6(src="fd00::1", dst="fd00::2")
SEEN = [
    (MACS / V4 / TCP(sport=40000, dport=80), "10.244.0.2:40000 > 10.244.1.3:80 tcp"),
    (MACS / V6 / UDP(sport=53, dport=5353), "[fd00::1]:53 > [fd00::2]:5353 udp"),
    (MACS / V4 / ICMP(), "10.244.0.2 > 10.244.1.3 icmp type 8"),
    (MACS / V6 / ICMPv6EchoRequest(), "fd00::1 > fd00::2 icmp6 type 128"),
    (MACS / V6 / IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2), "[fd00::1]:1 > [fd00::2]:2 udp"),
    (MACS / V6 / AH(nh=17, payloadlen=1) / UDP(sport=1, dport=2), "[fd00::1]:1 > [fd00::2]:2 udp"),
    (MACS / V6 / IPv6ExtHdrFragment(offset=0, m=1, nh=17) / UDP(sport=1, dport=2), "[fd00::1]:1 > [fd00::2]:2 udp"),
    (MACS / V6 / IPv6ExtHdrFragment(offset=5, nh=17) / (b"x" * 16), "fd00::1 > fd00::2 udp"),
    (MACS / IP(src="10.244.0.2", dst="10.244.1.3", frag=9, proto=6) / (b"x" * 20), "10.244.0.2 > 10.244.1.3 tcp"),
    (MACS / IP(src="10.244.0.2", dst="10.244.1.3", proto=132) / b"sctp", "10.244.0.2 > 10.244.1.3 132"),
    (MACS / ARP(psrc="10.244.0.2", pdst="10.244.1.3"), "10.244.0.2 > 10.244.1.3 arp"),
    (Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88B5), None),
]


@pytest.mark.parametrize(("frame", "text"), SEEN, ids=lambda value: str(value)[:40])
def test_frames_as_text(frame: ScapyPacket, text: str | None) -> None:
    """Addresses, ports, protocol; later fragments have no ports."""
    text = text or "02:00:00:00:00:01 > 02:00:00:00:00:02 ethertype 0x88b5"
    assert str(decode(bytes(frame))) == text


@pytest.mark.parametrize("frame", [frame for frame, _ in SEEN], ids=repr)
def test_a_short_copy_shows_less(frame: ScapyPacket) -> None:
    """At every length: what is said is what the whole frame says, or nothing."""
    whole = decode(bytes(frame))
    for length in range(len(bytes(frame))):
        some = decode(bytes(frame)[:length])
        for name in ("src_mac", "dst_mac", "ethertype", "src", "dst", "sport", "dport", "icmp_type"):
            assert getattr(some, name) in {None, getattr(whole, name)}
    assert str(decode(b"x" * 13)) == "no whole Ethernet header"


@given(st.binary(max_size=120))
def test_any_bytes_are_no_error(raw: bytes) -> None:
    """Nor are records that end early."""
    assert str(decode(raw))
    assert str(decode(bytes(12) + b"\x86\xdd" + raw))
    assert str(decode(bytes(12) + b"\x08\x00" + raw))
    assert list(parse(raw[:7])) == []
