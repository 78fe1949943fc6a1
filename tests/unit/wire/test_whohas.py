"""The question who has an address, and its answer, as scapy reads and writes them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from vxland.model.lease import Mac
from vxland.wire.whohas import ANSWER, ANSWER_LEN, TYPE_OFF, build_question, read_answer

OWN, PEER = Mac.parse("ce:5f:f6:73:cf:b9"), Mac.parse("3a:87:cf:81:6a:ce")


def test_arp() -> None:
    """A VXLAN header, then a broadcast request from our address for the other."""
    raw = build_question(1, OWN, ip_address("10.244.0.0"), ip_address("10.244.1.0"))
    assert raw[:8] == bytes([8, 0, 0, 0, 0, 0, 1, 0])
    frame = Ether(raw[8:])
    assert (frame.dst, frame.src) == ("ff:ff:ff:ff:ff:ff", str(OWN))
    asked = frame[ARP]
    assert (asked.op, asked.hwsrc, asked.psrc, asked.pdst) == (1, str(OWN), "10.244.0.0", "10.244.1.0")
    assert len(raw) == 8 + 42


def test_neighbour_solicitation() -> None:
    """To the solicited-node group, with hop limit 255, our MAC and a right checksum."""
    raw = build_question(1, OWN, ip_address("fd00:244::"), ip_address("fd00:244:1::ab:cdef"))
    frame = Ether(raw[8:])
    assert (frame.dst, frame[IPv6].dst, frame[IPv6].hlim) == ("33:33:ff:ab:cd:ef", "ff02::1:ffab:cdef", 255)
    assert frame[ICMPv6ND_NS].tgt == "fd00:244:1::ab:cdef"
    assert frame[ICMPv6NDOptSrcLLAddr].lladdr == str(OWN)
    checksum = frame[ICMPv6ND_NS].cksum
    del frame[ICMPv6ND_NS].cksum
    assert Ether(bytes(frame))[ICMPv6ND_NS].cksum == checksum


@pytest.mark.parametrize(
    ("frame", "address"),
    [
        (Ether() / ARP(op=2, hwsrc=str(PEER), psrc="10.244.1.0"), "10.244.1.0"),
        (
            Ether() / IPv6(hlim=255) / ICMPv6ND_NA(tgt="fd00:244:1::", S=1) / ICMPv6NDOptDstLLAddr(lladdr=str(PEER)),
            "fd00:244:1::",
        ),
    ],
    ids=["ipv4", "ipv6"],
)
def test_answers(frame: Ether, address: str) -> None:
    """Found where it starts, and read; of a frame that was cut short there is none."""
    raw = bytes(frame)
    found = ANSWER.search(raw)
    assert found is not None
    assert found.start() == TYPE_OFF
    assert found.end() <= ANSWER_LEN
    assert read_answer(found) == (ip_address(address), PEER)
    for length in range(found.end()):
        assert ANSWER.search(raw[:length]) is None


def test_questions_are_no_answers() -> None:
    """Our own ones are in the capture too."""
    for own, target in (("10.244.0.0", "10.244.1.0"), ("fd00:244::", "fd00:244:1::")):
        assert ANSWER.search(build_question(1, OWN, ip_address(own), ip_address(target))) is None
