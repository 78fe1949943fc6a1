"""Neighbour solicitations and the advertisements made of them, RFC 4861; scapy judges."""

from __future__ import annotations

from struct import pack

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from tests.frames import (
    CANARIES,
    ETH_LEN,
    GROUP_MAC,
    HOST_MAC,
    ICMPV6,
    IPV6,
    MAC_B,
    POD_A6,
    POD_B6,
    ethernet,
    exact,
    halves,
    icmpv6,
    ipv6,
    packed,
    solicitation,
)
from vxland.wire.ip import Ip
from vxland.wire.ndp import is_solicitation, put_advertisement, target_hi_at, target_lo_at

SOURCE_MAC_OPTION = b"\x01\x01" + HOST_MAC.to_bytes(6, "big")
BARE = solicitation(POD_B6, POD_A6)
USUAL = solicitation(POD_B6, POD_A6, SOURCE_MAC_OPTION)


def parsed(packet: bytes) -> tuple[bytearray, Ip]:
    """A packet in a buffer that ends with it, and its parse."""
    buf, ip = exact(packet), Ip()
    assert ip.parse(buf, 0, len(packet), 6)
    return buf, ip


@pytest.mark.parametrize("packet", [BARE, USUAL])
def test_a_solicitation_is_known_and_its_target_read(packet: bytes) -> None:
    """With the source's MAC option and without."""
    buf, ip = parsed(packet)
    assert is_solicitation(buf, ip)
    assert (target_hi_at(buf, ip.l4_at), target_lo_at(buf, ip.l4_at)) == halves(POD_B6)


def test_cut_short_at_every_length_it_is_none() -> None:
    """24 bytes of message are the least; what lies behind the packet counts for nothing."""
    for nbytes in range(24):
        packet = bytearray(BARE[: 40 + nbytes])
        packet[4:6] = pack("!H", nbytes)
        for canary in (b"", BARE[40 + nbytes :], *CANARIES):
            buf, ip = bytearray(packet + canary), Ip()
            assert ip.parse(buf, 0, len(packet), 6)
            assert not is_solicitation(buf, ip)


@pytest.mark.parametrize("at", [6, 7, 40, 41])
def test_other_messages_are_none(at: int) -> None:
    """Another next header, hop limit, type or code; a hop limit below 255 means that a router forwarded it."""
    packet = bytearray(USUAL)
    packet[at] ^= 1
    assert not is_solicitation(*parsed(bytes(packet)))


def test_duplicate_address_detection_is_left_alone() -> None:
    """From the unspecified address: an answer would claim that the sender's own address is in use."""
    assert not is_solicitation(*parsed(solicitation(POD_B6, "::")))


def test_a_fragmented_solicitation_is_none() -> None:
    """RFC 6980 section 5 has it ignored."""
    body = icmpv6(POD_A6, POD_B6, 135, bytes(4) + packed(POD_B6))
    packet = ipv6(POD_A6, POD_B6, 44, bytes([ICMPV6, 0, 0, 1, 0, 0, 0, 7]) + body, hop_limit=255)
    assert not is_solicitation(*parsed(packet))


@pytest.mark.parametrize("packet", [BARE, USUAL])
def test_the_advertisement_answers_the_solicitation(packet: bytes) -> None:
    """Solicited, override, with the VTEP's MAC, hop limit 255, a right checksum; nothing before it changes."""
    frame = ethernet(GROUP_MAC, HOST_MAC, IPV6, packet)
    buf, ip = bytearray(b"\xa5" * 3 + frame + b"\xa5" * 16), Ip()
    assert ip.parse(buf, 3 + ETH_LEN, len(packet), 6)
    length = put_advertisement(buf, 3, ip, MAC_B)
    assert length == 86
    assert buf[:3] == b"\xa5" * 3
    assert buf[3 + length :] == b"\xa5" * (len(buf) - 3 - length)
    raw = bytes(buf[3 : 3 + length])
    answer = Ether(raw)
    assert (answer.dst, answer.src) == ("e6:62:4d:8e:51:21", "3a:87:cf:81:6a:ce")
    assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim, answer[IPv6].tc) == (POD_B6, POD_A6, 255, 0)
    advertisement = answer[ICMPv6ND_NA]
    assert (advertisement.R, advertisement.S, advertisement.O, advertisement.tgt) == (0, 1, 1, POD_B6)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == "3a:87:cf:81:6a:ce"
    del answer[IPv6].plen, advertisement.cksum
    assert bytes(answer) == raw


def test_a_solicitation_behind_extension_headers_is_answered_plainly() -> None:
    """The advertisement starts right behind the IPv6 header, wherever the question lay."""
    body = icmpv6(POD_A6, POD_B6, 135, bytes(4) + packed(POD_B6))
    packet = ipv6(POD_A6, POD_B6, 0, bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0]) + body, hop_limit=255)
    plain = ipv6(POD_A6, POD_B6, ICMPV6, body, hop_limit=255)
    answers = []
    for question in (packet, plain):
        buf, ip = bytearray(ethernet(MAC_B, HOST_MAC, IPV6, question) + bytes(8)), Ip()
        assert ip.parse(buf, ETH_LEN, len(question), 6)
        assert is_solicitation(buf, ip)
        answers.append(bytes(buf[: put_advertisement(buf, 0, ip, MAC_B)]))
    assert answers[0] == answers[1]
