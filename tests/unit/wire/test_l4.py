"""TCP and UDP headers: where they end and where their checksums lie."""

from __future__ import annotations

import pytest

from tests.frames import CANARIES, ICMP, TCP, UDP, exact, tcp, udp
from vxland.wire.l4 import csum_off, has_cwr, has_ports, header_len

SRC, DST = "10.244.0.1", "10.244.1.2"


def test_only_tcp_and_udp_have_ports() -> None:
    """ICMP, fragments and tunnels have none; UDP-Lite, DCCP and SCTP are not examined."""
    assert [proto for proto in range(256) if has_ports(proto)] == [TCP, UDP]


@pytest.mark.parametrize("options", [b"", b"\x01" * 4, b"\x01" * 40])
def test_a_tcp_header_is_as_long_as_its_data_offset_says(options: bytes) -> None:
    """20 to 60 bytes, and 0 at every length that it does not fit into, whatever lies behind."""
    packet = tcp(SRC, DST, b"payload", options=options)
    want = 20 + len(options)
    for room in range(len(packet) + 1):
        found = {header_len(bytearray(packet[:room] + canary), 0, room, TCP) for canary in CANARIES}
        assert found == {want if room >= want else 0}
        assert header_len(exact(packet[:room]), 0, room, TCP) in found


@pytest.mark.parametrize("offset", range(5))
def test_a_data_offset_below_five_words_is_no_header(offset: int) -> None:
    """RFC 9293: the fixed part alone has five."""
    packet = bytearray(tcp(SRC, DST, b""))
    packet[12] = offset << 4
    assert header_len(packet, 0, len(packet), TCP) == 0


def test_a_udp_header_is_8_bytes_or_none() -> None:
    """0 at every shorter length."""
    packet = udp(SRC, DST, b"")
    assert [header_len(exact(packet[:room]), 0, room, UDP) for room in range(9)] == [0] * 8 + [8]


def test_other_protocols_have_no_header_here() -> None:
    """ICMP has neither ports nor a data offset."""
    assert header_len(bytearray(64), 0, 64, ICMP) == 0


def test_where_checksums_lie() -> None:
    """RFC 9293 section 3.1 and RFC 768."""
    assert (csum_off(TCP), csum_off(UDP)) == (16, 6)


@pytest.mark.parametrize("flags", [0x00, 0x7F, 0x80, 0xFF])
def test_cwr_is_the_highest_flag(flags: int) -> None:
    """RFC 3168 section 6.1."""
    assert has_cwr(bytearray(tcp(SRC, DST, b"", flags=flags)), 0) == (flags & 0x80 != 0)
