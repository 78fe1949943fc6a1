"""virtio_net_hdr, little-endian: bytes in, values out, and back."""

from __future__ import annotations

from struct import pack

import pytest

from vxland.wire.virtio import csum_offset_at, csum_start_at, le16_at, needs_csum, put_header, put_le16


@pytest.mark.parametrize("value", [0, 1, 0x1234, 0x8000, 0xFFFF])
def test_numbers_are_little_endian(value: int) -> None:
    """Least significant byte first, two bytes and no other."""
    buf = bytearray(b"\xa5" * 4)
    put_le16(buf, 1, value)
    assert buf == b"\xa5" + value.to_bytes(2, "little") + b"\xa5"
    assert le16_at(buf, 1) == value


def test_the_header_has_the_kernels_layout() -> None:
    """flags, gso_type, hdr_len, gso_size, csum_start, csum_offset: struct virtio_net_hdr, and back."""
    buf = bytearray(b"\xa5" * 12)
    put_header(buf, 1, 1, 0x81, 54, 1410, 34, 16)
    assert buf == b"\xa5" + pack("<BBHHHH", 1, 0x81, 54, 1410, 34, 16) + b"\xa5"
    assert needs_csum(buf, 1)
    assert csum_start_at(buf, 1) == 34
    assert csum_offset_at(buf, 1) == 16


@pytest.mark.parametrize("flags", range(8))
def test_only_bit_0_asks_for_a_checksum(flags: int) -> None:
    """DATA_VALID and RSC_INFO are other bits."""
    assert needs_csum(bytearray([flags]), 0) == (flags & 1 != 0)
