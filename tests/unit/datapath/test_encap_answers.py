"""Requests that encap answers, and ICMP errors about packets without a lease."""

from __future__ import annotations

import pytest
from scapy.layers import inet, l2
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from tests.frames import (
    ARP,
    BROADCAST,
    CANARIES,
    ETH_LEN,
    GROUP_MAC,
    HOST_MAC,
    ICMP,
    LLDP,
    MAC_B,
    MAC_C,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    STRANGER,
    STRANGER6,
    UDP,
    VNI,
    arp,
    echo,
    ethernet,
    frame_of,
    ipv4,
    packet_of,
    place,
    solicitation,
    udp,
    udp_frame,
)
from tests.steps import ANSWERED, NOW_US, C, encap_frame
from vxland.datapath.encap import Encap
from vxland.datapath.table import table_of
from vxland.datapath.verdict import FORWARD, Drop


def answer(frame: bytes, verdict: int = ANSWERED) -> bytes:
    """Return the answer to a frame; its virtio header fits before it."""
    got, encap, placed = encap_frame(frame)
    assert got == verdict
    assert encap.answer_len > 0
    assert encap.answer_at >= 10
    return placed.bytes_at(encap.answer_at, encap.answer_len)


def unanswered(frame: bytes) -> int:
    """Return the verdict on a frame that gets no answer."""
    verdict, encap, _ = encap_frame(frame)
    assert encap.answer_len == 0
    return verdict


# Rule 1: questions about leased subnets are answered from the table.


@pytest.mark.parametrize("dst_mac", [BROADCAST, MAC_B, MAC_C, HOST_MAC])
def test_arp_for_a_leased_subnet_is_answered(dst_mac: int) -> None:
    """With its VTEP's MAC, whichever MAC the request has: the host's kernel probes known neighbours by unicast."""
    reply = Ether(answer(ethernet(dst_mac, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", POD_B))))
    assert (reply.dst, reply.src, reply[l2.ARP].op) == ("ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce", 2)
    assert (reply[l2.ARP].psrc, reply[l2.ARP].hwsrc) == (POD_B, "3a:87:cf:81:6a:ce")


def test_arp_for_another_subnet_is_not_answered() -> None:
    """Nobody owns the address: broadcast has nowhere to go."""
    assert unanswered(ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", STRANGER))) == Drop.BUM


def test_an_arp_reply_to_a_vtep_is_forwarded() -> None:
    """It is no request; rule 2 decides by its MAC."""
    frame = ethernet(MAC_C, OWN_MAC, ARP, arp(2, OWN_MAC, "10.244.0.0", POD_B, MAC_C))
    verdict, encap, _ = encap_frame(frame)
    assert (verdict, encap.vtep) == (FORWARD, C)


@pytest.mark.parametrize("dst_mac", [GROUP_MAC, MAC_C])
@pytest.mark.parametrize("option", [b"", b"\x01\x01" + OWN_MAC.to_bytes(6, "big")])
def test_a_solicitation_for_a_leased_subnet_is_answered(dst_mac: int, option: bytes) -> None:
    """By group or, as a probe, by unicast."""
    reply = Ether(answer(frame_of(solicitation(POD_B6, POD_A6, option), dst_mac)))
    assert (reply.dst, reply[IPv6].dst) == ("ce:5f:f6:73:cf:b9", POD_A6)
    assert (reply[ICMPv6ND_NA].tgt, reply[ICMPv6NDOptDstLLAddr].lladdr) == (POD_B6, "3a:87:cf:81:6a:ce")


def test_other_solicitations_are_dropped() -> None:
    """For an address that nobody leases, and duplicate address detection even of a leased one."""
    assert unanswered(frame_of(solicitation(STRANGER6, POD_A6), GROUP_MAC)) == Drop.BUM
    assert unanswered(frame_of(solicitation(POD_B6, "::"), GROUP_MAC)) == Drop.BUM


def test_an_answer_is_written_once() -> None:
    """The next frame's verdict does not carry the last one's answer."""
    encap = Encap(VNI, 16)
    encap_frame(ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", POD_B)), encap)
    assert encap.answer_len > 0
    for frame in (b"", udp_frame(POD_A, POD_B), ethernet(BROADCAST, OWN_MAC, LLDP, b"")):
        encap_frame(frame, encap)
        assert encap.answer_len == 0


def test_a_packet_that_no_lease_covers_is_answered_with_an_error() -> None:
    """ICMP net unreachable for the sender, at the MAC it wrote from, quoting what it sent."""
    packet = packet_of(POD_A, STRANGER, UDP, udp(POD_A, STRANGER, b"payload"))
    error = Ether(answer(frame_of(packet), Drop.NO_VTEP))
    assert (error.dst, error.src) == ("ce:5f:f6:73:cf:b9", "e6:62:4d:8e:51:21")
    assert (error[IP].dst, error[inet.ICMP].type, error[inet.ICMP].code) == (POD_A, 3, 0)
    assert bytes(error)[ETH_LEN + 28 :] == packet


def test_an_ipv6_packet_that_no_lease_covers_is_answered_with_an_error() -> None:
    """ICMPv6 no route to destination, at the least length and beyond what fits."""
    for payload in (b"", bytes(2000)):
        packet = packet_of(POD_A6, STRANGER6, UDP, udp(POD_A6, STRANGER6, payload))
        error = Ether(answer(frame_of(packet), Drop.NO_VTEP))
        assert (error[IPv6].dst, error[ICMPv6DestUnreach].code) == (POD_A6, 0)
        assert bytes(error)[ETH_LEN + 48 :] == packet[:1232]


@pytest.mark.parametrize("frame", [
    frame_of(ipv4(POD_A, STRANGER, ICMP, echo(b"", 3))),
    frame_of(ipv4(POD_A, STRANGER, UDP, bytes(16), fragment=5)),
    frame_of(packet_of("0.0.0.0", STRANGER, UDP, bytes(16))),  # noqa: S104  (nothing is bound)
    frame_of(packet_of(POD_A, "224.0.0.1", UDP, bytes(16))),
    frame_of(packet_of("::", STRANGER6, UDP, bytes(16))),
    frame_of(packet_of(POD_A6, "ff02::1", UDP, bytes(16))),
])  # fmt: skip
def test_what_may_have_no_error_is_dropped_in_silence(frame: bytes) -> None:
    """RFC 1122 section 3.2.2: errors, later fragments, groups, and senders that are no one host."""
    assert unanswered(frame) == Drop.NO_VTEP


def test_errors_are_limited_by_the_time_given() -> None:
    """A burst of 50, then 1000 a second, as the kernel's icmp_msgs_burst and icmp_msgs_per_sec; the drop is counted."""
    encap = Encap(VNI, 16)
    lost = udp_frame(POD_A, STRANGER)

    def answered(now_s: float) -> bool:
        assert encap_frame(lost, encap, now_us=int(now_s * 1_000_000))[0] == Drop.NO_VTEP
        return encap.answer_len > 0

    assert [answered(5000.0) for _ in range(52)] == [True] * 50 + [False] * 2
    assert [answered(5000.0 + 1 / 512) for _ in range(3)] == [True, False, False]
    assert [answered(6000.0) for _ in range(52)] == [True] * 50 + [False] * 2


def test_packets_that_have_no_error_cost_none() -> None:
    """A flood of them does not silence the errors of others."""
    encap = Encap(VNI, 16)
    for _ in range(100):
        encap_frame(frame_of(ipv4(POD_A, STRANGER, ICMP, echo(b"", 3))), encap)
    assert encap_frame(udp_frame(POD_A, STRANGER), encap)[0] == Drop.NO_VTEP
    assert encap.answer_len > 0


def test_an_empty_table_drops_everything() -> None:
    """A node without peers."""
    for frame, reason in (
        (udp_frame(POD_A, POD_B), Drop.NO_VTEP),
        (ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B)), Drop.BUM),
    ):
        placed = place(frame)
        assert Encap(VNI, 16).encap(placed.buf, placed.at, placed.length, table_of([], 8472), NOW_US) == reason


@pytest.mark.parametrize("question", [
    ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", POD_B)),
    frame_of(solicitation(POD_B6, POD_A6), GROUP_MAC),
])  # fmt: skip
def test_a_question_cut_short_is_none(question: bytes) -> None:
    """No answer to half a question, whatever lies behind it."""
    for length in range(len(question)):
        verdicts = set()
        for canary in (question[length:] + bytes(8), *CANARIES):
            verdict, encap, _ = encap_frame(question[:length], after=canary)
            verdicts.add(verdict)
            assert encap.answer_len == 0
        assert verdicts == {Drop.INNER_MALFORMED if length < ETH_LEN else Drop.BUM}
