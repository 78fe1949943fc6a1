"""The VXLAN header, RFC 7348 section 5."""

from __future__ import annotations

import pytest

from vxland.wire.vxlan import carries_ethernet, has_vni, put_header, vni_at


@pytest.mark.parametrize("vni", [0, 1, 0x123456, 0xFFFFFF])
def test_the_header_is_the_rfcs_and_reads_back(vni: int) -> None:
    """I flag, 24 reserved zeros, VNI, 8 reserved zeros; the neighbours of the 8 bytes stay."""
    buf = bytearray(b"\xff" * 10)
    put_header(buf, 1, vni)
    assert buf == b"\xff" + bytes.fromhex("08000000") + vni.to_bytes(3, "big") + b"\0\xff"
    assert has_vni(buf, 1)
    assert carries_ethernet(buf, 1)
    assert vni_at(buf, 1) == vni


@pytest.mark.parametrize("flags", range(256))
def test_only_the_i_flag_makes_the_vni_valid(flags: int) -> None:
    """Every value of the first byte; the others are reserved to us."""
    buf = bytearray([flags, 0xFF, 0xFF, 0xFF, 0, 0, 1, 0xFF])
    assert has_vni(buf, 0) == (flags & 0x08 != 0)
    assert vni_at(buf, 0) == 1


@pytest.mark.parametrize("next_protocol", [0, 1, 2, 3, 4, 255])
def test_the_fourth_byte_counts_only_with_the_p_flag(next_protocol: int) -> None:
    """VXLAN-GPE: with P set the byte names the next protocol, and 3 is Ethernet; without P it is reserved."""
    assert carries_ethernet(bytearray([0x08, 0, 0, next_protocol]), 0)
    assert carries_ethernet(bytearray([0x0C, 0, 0, next_protocol]), 0) == (next_protocol == 3)
