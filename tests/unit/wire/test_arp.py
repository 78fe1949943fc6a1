"""ARP requests and the replies made of them, RFC 826; scapy judges."""

from __future__ import annotations

import pytest
from scapy.layers import l2
from scapy.layers.l2 import Ether

from tests.frames import ARP, BROADCAST, CANARIES, HOST_MAC, MAC_B, arp, ethernet, exact, number
from vxland.wire.arp import is_request, put_reply, target_at

REQUEST = ethernet(BROADCAST, HOST_MAC, ARP, arp(1, HOST_MAC, "10.244.0.0", "10.244.1.0"))


def test_a_request_is_known_and_its_target_read() -> None:
    """At any place in the buffer."""
    buf = bytearray(b"\xa5" * 7 + REQUEST)
    assert is_request(buf, 7, len(REQUEST))
    assert target_at(buf, 7) == number("10.244.1.0")


def test_cut_short_at_every_length_it_is_no_request() -> None:
    """Whatever lies behind; padding to Ethernet's minimum is no harm."""
    for length in range(len(REQUEST)):
        assert not is_request(exact(REQUEST[:length]), 0, length)
        assert not any(is_request(bytearray(REQUEST[:length] + canary), 0, length) for canary in CANARIES)
    assert is_request(bytearray(REQUEST + bytes(18)), 0, 60)


@pytest.mark.parametrize(("at", "value"), [(14, 1), (15, 6), (16, 0x86), (17, 1), (18, 8), (19, 16), (20, 1), (21, 2)])
def test_other_hardware_protocols_and_operations_are_no_requests(at: int, value: int) -> None:
    """Each byte of the fixed part, changed alone; 2 as operation is a reply."""
    frame = bytearray(REQUEST)
    frame[at] = value
    assert not is_request(frame, 0, len(frame))


def test_the_reply_answers_the_request() -> None:
    """To the asker alone, from the VTEP's MAC, sender and target exchanged; the bytes around it stay."""
    buf = bytearray(b"\xa5" * 3 + REQUEST + b"\xa5" * 3)
    assert put_reply(buf, 3, MAC_B) == len(REQUEST)
    assert bytes(buf[:3] + buf[-3:]) == b"\xa5" * 6
    reply = Ether(bytes(buf[3:-3]))
    assert (reply.dst, reply.src) == ("e6:62:4d:8e:51:21", "3a:87:cf:81:6a:ce")
    assert (reply[l2.ARP].op, reply[l2.ARP].hwtype, reply[l2.ARP].ptype) == (2, 1, 0x0800)
    assert (reply[l2.ARP].hwsrc, reply[l2.ARP].psrc) == ("3a:87:cf:81:6a:ce", "10.244.1.0")
    assert (reply[l2.ARP].hwdst, reply[l2.ARP].pdst) == ("e6:62:4d:8e:51:21", "10.244.0.0")


def test_the_reply_goes_to_the_sender_that_arp_names() -> None:
    """RFC 826 takes the sender's address from the packet, not from the frame around it."""
    request = bytearray(ethernet(BROADCAST, 0x020000000001, ARP, arp(1, HOST_MAC, "10.244.0.0", "10.244.1.0")))
    put_reply(request, 0, MAC_B)
    assert Ether(bytes(request)).dst == "e6:62:4d:8e:51:21"
