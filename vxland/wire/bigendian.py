"""Big-endian integers in a buffer. Callers check the length first: nothing here does."""

from __future__ import annotations

from typing import TypeAlias

Buffer: TypeAlias = bytearray | memoryview
"""A buffer that holds packets in the interpreted gear; the compiled gear has a pointer."""


M32 = 0xFFFF_FFFF  # typed in the .pxd: a bare literal of 32 bits would be a Python object to Cython


def u16_at(buf: Buffer, at: int) -> int:
    """Return the 16-bit number at `at`."""
    return buf[at] << 8 | buf[at + 1]


def u32_at(buf: Buffer, at: int) -> int:
    """Return the 32-bit number at `at`."""
    high = u16_at(buf, at)
    return high << 16 | u16_at(buf, at + 2)


def u64_at(buf: Buffer, at: int) -> int:
    """Return the 64-bit number at `at`."""
    high = u32_at(buf, at)
    return high << 32 | u32_at(buf, at + 4)


def copy_bytes(buf: Buffer, dst_at: int, src_at: int, length: int) -> None:
    """Copy a header's bytes within the buffer; the two ranges do not overlap."""
    for i in range(length):
        buf[dst_at + i] = buf[src_at + i]


def same_bytes(buf: Buffer, a_at: int, b_at: int, length: int) -> bool:
    """Whether two ranges of the buffer hold the same bytes."""
    for i in range(length):  # noqa: SIM110  (a generator is an object: not for the burst loop)
        if buf[a_at + i] != buf[b_at + i]:
            return False
    return True


def put_u16(buf: Buffer, at: int, value: int) -> None:
    """Write a 16-bit number."""
    buf[at] = value >> 8
    buf[at + 1] = value & 0xFF


def put_u32(buf: Buffer, at: int, value: int) -> None:
    """Write a 32-bit number."""
    put_u16(buf, at, value >> 16)
    put_u16(buf, at + 2, value & 0xFFFF)


def put_u64(buf: Buffer, at: int, value: int) -> None:
    """Write a 64-bit number."""
    put_u16(buf, at, value >> 48)
    put_u16(buf, at + 2, value >> 32 & 0xFFFF)
    put_u32(buf, at + 4, value & M32)
