"""ICMP echo, as scapy reads and writes it; truncated at every length."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6

from vxland.wire.echo import Echo, build_request, parse_quoted_request, parse_reply

ECHO = Echo(0x1234, 7, b"a token of sixteen")


def test_a_request_is_whole() -> None:
    """Type, identifier, number and payload; the checksum, which IPv4 leaves to the sender, is right."""
    found = ICMP(build_request(4, ECHO))
    assert (found.type, found.code, found.id, found.seq) == (8, 0, 0x1234, 7)
    assert bytes(found.payload) == ECHO.payload
    checksum = found.chksum
    del found.chksum
    assert ICMP(bytes(found)).chksum == checksum
    found6 = ICMPv6EchoRequest(build_request(6, ECHO))
    assert (found6.type, found6.code, found6.id, found6.seq, found6.data) == (128, 0, 0x1234, 7, ECHO.payload)


@pytest.mark.parametrize("header", [b"", bytes(IP(options=b"\x94\x04\0\0"))], ids=["ping socket", "raw socket"])
def test_a_reply_is_read(header: bytes) -> None:
    """With the IPv4 header before it, options too, as raw sockets give it, or without."""
    message = header + bytes(ICMP(type=0, id=0x1234, seq=7)) + ECHO.payload
    assert parse_reply(4, message) == ECHO
    for length in range(len(message) - len(ECHO.payload)):
        assert parse_reply(4, message[:length]) is None


def test_a_reply_of_ipv6_is_read() -> None:
    """There is never a header before it."""
    message = bytes(ICMPv6EchoReply(id=0x1234, seq=7, data=ECHO.payload))
    assert parse_reply(6, message) == ECHO
    for length in range(8):
        assert parse_reply(6, message[:length]) is None


@pytest.mark.parametrize("version", [4, 6])
def test_other_messages_are_no_replies(version: int) -> None:
    """A request is none, nor what has another type or code, nor nothing."""
    assert parse_reply(version, build_request(version, ECHO)) is None
    assert parse_reply(version, b"\x03\x01" + bytes(30)) is None
    assert parse_reply(version, b"\x00\x01" + bytes(30)) is None
    assert parse_reply(version, b"") is None


def test_a_quoted_request_is_read() -> None:
    """From an error's quotation, with the IP header or without."""
    for version, header in ((4, b""), (6, b""), (6, bytes(IPv6(nh=58)))):
        assert parse_quoted_request(version, header + build_request(version, ECHO)) == ECHO
    assert parse_quoted_request(4, bytes(8)) is None
