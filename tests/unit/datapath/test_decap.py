"""The checks of a received datagram, each with its reason and in their order; and what is written to the TAP."""

from __future__ import annotations

from itertools import combinations

import pytest

from tests.frames import (
    ARP,
    BROADCAST,
    CANARIES,
    ETH_LEN,
    ICMP,
    MAC_B,
    OUTER_A,
    OUTER_B,
    OWN_MAC,
    PLAIN,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    TCP,
    UDP,
    VNI,
    arp,
    echo,
    ethernet,
    from_b,
    from_outer,
    ipv4,
    lease,
    packet_of,
    place,
    tcp,
    udp,
    vxlan,
)
from tests.steps import TABLE, decap_datagram, header_of, written
from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.table import table_of
from vxland.datapath.verdict import FORWARD, Drop

FAMILIES = [(POD_B, POD_A), (POD_B6, POD_A6)]


# What passes is the inner frame, behind a plain virtio header.


@pytest.mark.parametrize("frame", [
    from_b(ipv4(POD_B, POD_A, ICMP, echo(b"payload"))),
    from_b(packet_of(POD_B6, POD_A6, UDP, udp(POD_B6, POD_A6, b"payload"))),
    from_b(ipv4(POD_B, POD_A, UDP, bytes(16), fragment=0x2000)),
    ethernet(BROADCAST, MAC_B, ARP, arp(1, MAC_B, POD_B, POD_A)),
    ethernet(OWN_MAC, MAC_B, 0x88CC, b""),
])  # fmt: skip
def test_a_good_datagram_gives_its_frame(frame: bytes) -> None:
    """IP of both families, fragments, and what is not IP, as it was sent."""
    assert written(frame) == (PLAIN, frame)


# The checks, each with its own reason.


def damaged(*damages: str) -> tuple[bytes, Datagram]:
    """A datagram with some damages at once."""
    frame = bytearray(from_b(packet_of(POD_B, POD_A, UDP, udp(POD_B, POD_A, b"payload"))))
    if "own_mac" in damages:
        frame[6:12] = OWN_MAC.to_bytes(6, "big")
    if "inner_malformed" in damages:
        frame[ETH_LEN + 2 : ETH_LEN + 4] = b"\xff\xff"
    datagram = bytearray(vxlan(bytes(frame), vni=2 if "wrong_vni" in damages else VNI))
    if "next_protocol" in damages:
        datagram[0] |= 0x04
        datagram[3] = 1
    if "i_flag_clear" in damages:
        datagram[0] &= ~0x08
    metadata = from_outer(
        OUTER_A if "unknown_vtep" in damages else OUTER_B, 3 if "ecn_ce" in damages else 0, "truncated" in damages
    )
    return bytes(datagram[:7] if "too_short" in damages else datagram), metadata


CHECKS = [
    "truncated",
    "too_short",
    "i_flag_clear",
    "next_protocol",
    "wrong_vni",
    "unknown_vtep",
    "inner_malformed",
    "own_mac",
    "ecn_ce",
]


@pytest.mark.parametrize("reason", CHECKS)
def test_each_check_has_its_own_reason(reason: str) -> None:
    """One damage to a good datagram, which passes without it."""
    assert decap_datagram(*damaged())[0] == FORWARD
    assert Drop(decap_datagram(*damaged(reason))[0]).label == reason


@pytest.mark.parametrize(("first", "second"), list(combinations(CHECKS, 2)))
def test_of_two_damages_the_earlier_check_speaks(first: str, second: str) -> None:
    """The order of the checks is the order of CHECKS: from the outside in."""
    assert Drop(decap_datagram(*damaged(first, second))[0]).label == first


def test_a_refused_datagram_stays_as_it_was() -> None:
    """Up to the ECN check, which comes last, nothing is written."""
    for reason in CHECKS[:-1]:
        datagram, metadata = damaged(reason)
        assert decap_datagram(datagram, metadata)[2].buf == place(datagram).buf


@pytest.mark.parametrize("nbytes", range(8))
def test_no_header_no_reading(nbytes: int) -> None:
    """Shorter than its header, whatever lies behind."""
    for canary in (vxlan(b"")[nbytes:], *CANARIES):
        assert decap_datagram(vxlan(b"")[:nbytes], after=canary)[0] == Drop.TOO_SHORT


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
def test_cut_short_at_every_length(src: str, dst: str) -> None:
    """A frame that ends early is malformed, wherever it ends, whatever lies behind it in the arena."""
    datagram = vxlan(from_b(packet_of(src, dst, TCP, tcp(src, dst, b"payload"))))
    for length in range(8, len(datagram)):
        for canary in (datagram[length:], b"", *CANARIES):
            verdict, _, placed = decap_datagram(datagram[:length], after=canary)
            assert verdict == Drop.INNER_MALFORMED
            assert placed.buf == place(datagram[:length], after=canary).buf


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize(("proto", "build"), [(TCP, tcp), (UDP, udp)])
def test_an_l4_header_cut_short_is_no_harm(src: str, dst: str, proto: int, build: type) -> None:
    """The packet's length is honest and L4 is not whole: forwarded, unmarked, and nothing beyond is read."""
    whole = build(src, dst, b"", partial=True)
    for nbytes in range(len(whole)):
        frame = from_b(packet_of(src, dst, proto, whole[:nbytes]))
        for canary in (whole[nbytes:], b"", *CANARIES):
            verdict, decap, placed = decap_datagram(vxlan(frame), after=canary)
            assert verdict == FORWARD
            assert (decap.partial, decap.gso_type, decap.gso_size, decap.payload_at) == (False, 0, 0, 0)
            assert header_of(decap, placed) == PLAIN


@pytest.mark.parametrize("nbytes", range(ETH_LEN))
def test_a_frame_shorter_than_ethernet_is_malformed(nbytes: int) -> None:
    """A VXLAN header with nothing, or next to nothing, behind it."""
    assert decap_datagram(vxlan(bytes(nbytes)))[0] == Drop.INNER_MALFORMED


def test_the_source_check_can_be_off_and_turned_on() -> None:
    """`security.source_check: off`; the flag may change while frames move."""
    datagram, metadata = damaged("unknown_vtep")
    decap, placed = Decap(VNI, OWN_MAC, False), place(datagram)
    assert decap.decap(placed.buf, placed.at, placed.length, metadata, TABLE) == FORWARD
    decap.check_source = True
    placed = place(datagram)
    assert decap.decap(placed.buf, placed.at, placed.length, metadata, TABLE) == Drop.UNKNOWN_VTEP


def test_sources_of_an_ipv6_underlay_are_checked_whole() -> None:
    """One other bit of either half makes an unknown sender."""
    table = table_of([lease("10.244.1.0/24", "2001:db8::1", MAC_B)], 8472)
    for outer, verdict in (
        ("2001:db8::1", FORWARD),
        ("2001:db8::2", Drop.UNKNOWN_VTEP),
        ("2001:db8:1::1", Drop.UNKNOWN_VTEP),
        (OUTER_B, Drop.UNKNOWN_VTEP),
    ):
        assert decap_datagram(damaged()[0], from_outer(outer), table=table)[0] == verdict


@pytest.mark.parametrize("flags", [flags for flags in range(256) if flags & 0x0C == 0x08])
def test_reserved_bits_are_ignored(flags: int) -> None:
    """RFC 7348 section 5: ignored on receipt, be they in the flags, behind them or behind the VNI."""
    datagram = bytearray(damaged()[0])
    datagram[:4] = bytes([flags, 0xFF, 0xFF, 0xFF])
    datagram[7] = 0xFF
    assert decap_datagram(bytes(datagram))[0] == FORWARD


def test_gpe_with_ethernet_inside_is_accepted() -> None:
    """P flag and next protocol 3."""
    datagram = bytearray(damaged()[0])
    datagram[0], datagram[3] = 0x0C, 3
    assert decap_datagram(bytes(datagram))[0] == FORWARD


@pytest.mark.parametrize("vni", [0, 2, 0x100, 0x10000, 0xFFFFFF])
def test_every_bit_of_the_vni_counts(vni: int) -> None:
    """Ours is 1."""
    assert decap_datagram(vxlan(from_b(ipv4(POD_B, POD_A, ICMP, echo(b""))), vni))[0] == Drop.WRONG_VNI


def test_our_own_mac_is_refused_in_what_is_not_ip_too() -> None:
    """A loop brings back broadcasts first."""
    frame = ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B))
    assert decap_datagram(vxlan(frame))[0] == Drop.OWN_MAC


# ECN: RFC 6040 section 4.2, figure 4.

NOT_ECT, ECT_1, ECT_0, CE = range(4)
MERGED: dict[int, dict[int, int | None]] = {
    #         outer Not-ECT, ECT(0), ECT(1), CE
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT_0: NOT_ECT, ECT_1: NOT_ECT, CE: None},
    ECT_0: {NOT_ECT: ECT_0, ECT_0: ECT_0, ECT_1: ECT_1, CE: CE},
    ECT_1: {NOT_ECT: ECT_1, ECT_0: ECT_1, ECT_1: ECT_1, CE: CE},
    CE: {NOT_ECT: CE, ECT_0: CE, ECT_1: CE, CE: CE},
}


@pytest.mark.parametrize("outer", range(4))
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize("dscp", [0, 46])
def test_ecn_is_merged_as_figure_4_says(outer: int, inner: int, src: str, dst: str, dscp: int) -> None:
    """All 16 cells; the rest of the packet stays, and IPv4's header checksum is right for the new field."""
    l4 = udp(src, dst, b"payload")
    frame = from_b(packet_of(src, dst, UDP, l4, dscp << 2 | inner))
    merged = MERGED[inner][outer]
    metadata = from_outer(OUTER_B, outer)
    if merged is None:
        assert decap_datagram(vxlan(frame), metadata)[0] == Drop.ECN_CE
    else:
        assert written(frame, metadata) == (PLAIN, from_b(packet_of(src, dst, UDP, l4, dscp << 2 | merged)))


def test_only_ip_has_ecn() -> None:
    """ARP has no field to mark, and is not dropped for that."""
    frame = ethernet(BROADCAST, MAC_B, ARP, arp(1, MAC_B, POD_B, POD_A))
    assert written(frame, from_outer(OUTER_B, CE)) == (PLAIN, frame)
