"""The Ethernet II header: bytes in, values out, and back."""

from __future__ import annotations

import pytest

from tests.frames import ethernet
from vxland.wire.ethernet import is_group, mac_at, put_header, put_mac

MACS = [0, 1, 0x3A87CF816ACE, 0x800000000000, 0xFFFFFFFFFFFF]


@pytest.mark.parametrize("mac", MACS)
def test_macs_are_written_and_read_back(mac: int) -> None:
    """Six bytes, most significant first, at an unaligned place."""
    buf = bytearray(b"\xa5" * 9)
    put_mac(buf, 1, mac)
    assert buf == b"\xa5" + mac.to_bytes(6, "big") + b"\xa5\xa5"
    assert mac_at(buf, 1) == mac


def test_the_header_has_destination_source_type() -> None:
    """All 14 bytes and no other."""
    buf = bytearray(b"\xa5" * 16)
    put_header(buf, 1, MACS[2], MACS[4], 0x86DD)
    assert buf == b"\xa5" + ethernet(MACS[2], MACS[4], 0x86DD, b"") + b"\xa5"


@pytest.mark.parametrize(
    ("mac", "group"),
    [(0xFFFFFFFFFFFF, True), (0x01005E000001, True), (0x333300000001, True), (0xFEFFFFFFFFFF, False), (0, False)],
)
def test_the_lowest_bit_of_the_first_byte_marks_a_group(mac: int, group: bool) -> None:
    """IEEE 802: the bit that is sent first."""
    assert is_group(mac) == group
