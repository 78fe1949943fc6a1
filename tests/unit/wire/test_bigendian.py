"""Big-endian integers: bytes in, values out, and back."""

from __future__ import annotations

import pytest

from vxland.wire.bigendian import put_u16, put_u32, put_u64, u16_at, u32_at, u64_at

BYTES = bytes.fromhex("ffeeddccbbaa998877")


@pytest.mark.parametrize("at", [0, 1])
def test_numbers_are_read_most_significant_byte_first(at: int) -> None:
    """Every width, aligned or not, with its highest bit set: nothing is taken for negative."""
    buf = bytearray(BYTES)
    assert u16_at(buf, at) == int.from_bytes(BYTES[at : at + 2], "big")
    assert u32_at(buf, at) == int.from_bytes(BYTES[at : at + 4], "big")
    assert u64_at(buf, at) == int.from_bytes(BYTES[at : at + 8], "big")


@pytest.mark.parametrize("value", [0, 1, 0x80, 0x1234, 0xFFFF])
def test_u16_is_written_where_asked_and_nowhere_else(value: int) -> None:
    """Two bytes change."""
    buf = bytearray(b"\xa5" * 6)
    put_u16(buf, 2, value)
    assert buf == b"\xa5\xa5" + value.to_bytes(2, "big") + b"\xa5\xa5"
    assert u16_at(buf, 2) == value


@pytest.mark.parametrize("value", [0, 1, 0x8000_0000, 0x1234_5678, 0xFFFF_FFFF])
def test_u32_is_written_where_asked_and_nowhere_else(value: int) -> None:
    """Four bytes change."""
    buf = bytearray(b"\xa5" * 8)
    put_u32(buf, 2, value)
    assert buf == b"\xa5\xa5" + value.to_bytes(4, "big") + b"\xa5\xa5"
    assert u32_at(buf, 2) == value


@pytest.mark.parametrize("value", [0, 1, 1 << 63, 0x0123_4567_89AB_CDEF, (1 << 64) - 1])
def test_u64_is_written_where_asked_and_nowhere_else(value: int) -> None:
    """Eight bytes change."""
    buf = bytearray(b"\xa5" * 12)
    put_u64(buf, 2, value)
    assert buf == b"\xa5\xa5" + value.to_bytes(8, "big") + b"\xa5\xa5"
    assert u64_at(buf, 2) == value
