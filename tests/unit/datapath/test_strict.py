"""`security.source_check: strict`: whose frames a known VTEP may send, of every kind that names a sender."""

from __future__ import annotations

from ipaddress import ip_network
from struct import pack

import pytest

from tests.frames import (
    ARP,
    BROADCAST,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
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
    STRANGER,
    STRANGER6,
    TCP,
    UDP,
    arp,
    echo,
    ethernet,
    from_b,
    from_outer,
    icmpv6,
    ipv4,
    ipv6,
    lease,
    packed,
    packet_of,
    solicitation,
    tcp,
    udp,
    vxlan,
)
from tests.steps import CHECK_VTEP, TABLE, decap_datagram
from vxland.datapath.table import Table, table_of
from vxland.datapath.verdict import FORWARD, Drop
from vxland.model.lease import Lease
from vxland.model.source_check import SourceCheck

FOREIGN = Drop.INNER_SOURCE_FOREIGN
STRICT = SourceCheck.STRICT
OTHERS = [POD_C, POD_A, STRANGER, "10.244.0.255", "10.244.2.0", "0.0.0.1", "127.0.0.1", "255.255.255.255", OUTER_C]
OTHERS6 = [POD_C6, POD_A6, STRANGER6, "::", "::1", "fe80::1", "fd00:244:0:2::", "::c0a8:6f81", "::ffff:10.244.1.13"]
"""Nobody's, another node's, our own, and what has no owner; the last but one is OUTER_B's number."""


def verdict(frame: bytes, outer: str = OUTER_B, table: Table = TABLE, check: int = STRICT) -> int:
    """The decision about a frame from a VTEP."""
    return decap_datagram(vxlan(frame), from_outer(outer), check=check, table=table)[0]


def from_pod(src: str) -> bytes:
    """A UDP packet of `src`."""
    dst = POD_A if "." in src and ":" not in src else POD_A6
    return from_b(packet_of(src, dst, UDP, bytes(16)))


def advertisement(target: str, src: str, headers: bytes = b"") -> bytes:
    """A neighbour advertisement; `headers` are extension headers, of which the first is of kind 60."""
    body = icmpv6(src, POD_A6, 136, pack("!I", 0x6000_0000) + packed(target))
    return from_b(ipv6(src, POD_A6, 60 if headers else ICMPV6, headers + body, hop_limit=255))


@pytest.mark.parametrize("src", [POD_B, "10.244.1.0", "10.244.1.255", POD_B6, "fd00:244:0:1::", OUTER_B])
def test_a_nodes_own_pass(src: str) -> None:
    """A pod, the device's own address, the last one, and the node's address on the underlay."""
    assert verdict(from_pod(src)) == FORWARD


@pytest.mark.parametrize("src", OTHERS + OTHERS6)
def test_others_are_refused_by_strict_alone(src: str) -> None:
    """From a VTEP that is known; `vtep` takes them."""
    assert verdict(from_pod(src)) == FOREIGN
    assert verdict(from_pod(src), check=CHECK_VTEP) == FORWARD


def test_each_vtep_for_itself() -> None:
    """C may not send what B may, and vice versa; an unknown sender fails as such."""
    for outer, good, bad in ((OUTER_B, POD_B, POD_C), (OUTER_C, POD_C, POD_B), (OUTER_B, OUTER_B, OUTER_C)):
        assert (verdict(from_pod(good), outer), verdict(from_pod(bad), outer)) == (FORWARD, FOREIGN)
    assert verdict(from_pod(POD_B), OUTER_A) == Drop.UNKNOWN_VTEP


@pytest.mark.parametrize("operation", [1, 2, 3, 9])
def test_arp_counts_by_its_senders_address(operation: int) -> None:
    """Requests, replies, gratuitous ones and others; a probe names no sender, and is no node's."""
    for src, expected in ((POD_B, FORWARD), ("10.244.1.0", FORWARD), *((other, FOREIGN) for other in OTHERS)):
        for target in (POD_A, src):
            frame = ethernet(BROADCAST, MAC_B, ARP, arp(operation, MAC_B, src, target))
            assert verdict(frame) == expected
            assert verdict(frame, check=CHECK_VTEP) == FORWARD


def test_arp_of_another_kind_names_nobody() -> None:
    """Cut short, of another protocol, or with other lengths."""
    whole = arp(1, MAC_B, POD_B, POD_A)
    for length in range(len(whole)):
        assert verdict(ethernet(BROADCAST, MAC_B, ARP, whole[:length])) == FOREIGN
    for at in range(6):
        assert verdict(ethernet(BROADCAST, MAC_B, ARP, whole[:at] + b"\x55" + whole[at + 1 :])) == FOREIGN


@pytest.mark.parametrize("ethertype", [0x8100, 0x88A8, 0x8847, 0x88CC, 0x0806 ^ 1, 46])
def test_other_protocols_are_refused(ethertype: int) -> None:
    """The kernel takes a frame tagged with VLAN 0 for an untagged one, and would read on."""
    tagged = ethernet(OWN_MAC, MAC_B, ethertype, pack("!HH", 0, IPV4) + ipv4(POD_C, POD_A, UDP, bytes(16)))
    assert (verdict(tagged), verdict(tagged, check=CHECK_VTEP)) == (FOREIGN, FORWARD)


@pytest.mark.parametrize(
    ("src", "expected"), [(POD_B6, FORWARD), ("::", FOREIGN), ("fe80::1", FOREIGN), (POD_C6, FOREIGN)]
)
def test_solicitations_count_by_their_source(src: str, expected: int) -> None:
    """Address detection has none; link-local ones prove nothing."""
    assert verdict(ethernet(0x3333FF000013, MAC_B, IPV6, solicitation(POD_A6, src))) == expected


def test_an_advertisement_speaks_for_its_node_alone() -> None:
    """Its source and its target both count, with extension headers before it too."""
    options = bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0])
    for headers in (b"", options):
        assert verdict(advertisement(POD_B6, POD_B6, headers)) == FORWARD
        for target, src in ((POD_C6, POD_B6), (POD_A6, POD_B6), (POD_B6, POD_C6), ("fe80::1", POD_B6)):
            assert verdict(advertisement(target, src, headers)) == FOREIGN


def test_a_header_chain_too_long_to_follow_is_refused() -> None:
    """An advertisement may lie behind it."""
    chain = bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 9 + bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0])
    frame = advertisement(POD_C6, POD_B6, chain)
    assert (verdict(frame), verdict(frame, check=CHECK_VTEP)) == (FOREIGN, FORWARD)


@pytest.mark.parametrize(("src", "dst"), [(POD_B, POD_A), (POD_B6, POD_A6)])
def test_fragments_and_other_protocols_of_ip_pass(src: str, dst: str) -> None:
    """Wherever L4 begins, or does not; an ICMP error about a packet is its sender's."""
    frames = [packet_of(src, dst, TCP, tcp(src, dst, b"payload")), packet_of(src, dst, 132, bytes(12))]
    if "." in src:
        frames += [ipv4(src, dst, UDP, bytes(64), fragment=word) for word in (0x2000, 0x2008, 8)]
        frames += [ipv4(src, dst, ICMP, echo(b"")), ipv4(src, dst, UDP, udp(src, dst, b""), options=b"\x01" * 8)]
    else:
        frames += [ipv6(src, dst, 44, pack("!BBHI", UDP, 0, word, 7) + bytes(64)) for word in (1, 9, 8)]
        frames += [ipv6(src, dst, 59, b""), ipv6(src, dst, ICMPV6, icmpv6(src, dst, 1, bytes(48)))]
    assert [verdict(from_b(packet)) for packet in frames] == [FORWARD] * len(frames)


def test_behind_nat_a_node_may_send_from_its_sources() -> None:
    """B behind a pool, C behind one address of it, which both may have then; nobody else's pods for either."""

    def behind(given: Lease, *sources: str) -> Lease:
        return Lease(given.subnet, given.vtep, tuple(map(ip_network, sources)))

    table = table_of(
        [
            behind(lease("10.244.1.0/24", OUTER_B, MAC_B), "198.51.100.0/28", "203.0.113.7/32"),
            behind(lease("10.244.2.0/24", OUTER_C, MAC_C), "198.51.100.5/32"),
        ],
        8472,
    )
    senders = {
        OUTER_B: [POD_B, OUTER_B, "198.51.100.9"],
        OUTER_C: [POD_C, OUTER_C],
        "198.51.100.4": [POD_B, OUTER_B, "198.51.100.9"],
        "198.51.100.5": [POD_B, POD_C, OUTER_B, OUTER_C, "198.51.100.5", "198.51.100.9"],
        "203.0.113.7": [POD_B, OUTER_B, "198.51.100.9"],
    }
    for outer, good in senders.items():
        for src in (POD_B, POD_C, OUTER_B, OUTER_C, OUTER_A, POD_A, STRANGER, "198.51.100.9"):
            assert verdict(from_pod(src), outer, table) == (FORWARD if src in good else FOREIGN), (outer, src)
    for outer in ("198.51.100.16", "203.0.113.6", OUTER_A):
        assert verdict(from_pod(POD_B), outer, table) == Drop.UNKNOWN_VTEP


def test_an_ipv6_underlay_has_sources_too() -> None:
    """A prefix across the halves of an address, and one in the lower half."""
    given = lease("10.244.1.0/24", "2001:db8::1", MAC_B)
    table = table_of(
        [Lease(given.subnet, given.vtep, (ip_network("2001:db8:1::/48"), ip_network("2001:db8:2::8/125")))], 8472
    )
    for outer, expected in (
        ("2001:db8::1", FORWARD),
        ("2001:db8:1:ffff::7", FORWARD),
        ("2001:db8:2::f", FORWARD),
        ("2001:db8:2::10", Drop.UNKNOWN_VTEP),
        ("2001:db8:2::7", Drop.UNKNOWN_VTEP),
        (OUTER_B, Drop.UNKNOWN_VTEP),
    ):
        assert verdict(from_pod(POD_B), outer, table) == expected
    assert verdict(from_pod("2001:db8:1::9"), "2001:db8:1:ffff::7", table) == FORWARD
    assert verdict(from_pod("2001:db8::2"), "2001:db8::1", table) == FOREIGN
