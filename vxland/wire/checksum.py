"""The Internet checksum, RFC 1071: one's complement sums of 16-bit words, kept in 64 bits and folded at the end."""

from __future__ import annotations

import cython

from vxland.wire.bigendian import Buffer, put_u16

if not cython.compiled:

    def sum_words(buf: Buffer, at: int, length: int) -> int:
        """Return the folded sum of an even number of bytes; checksum.pxd has a loop over wide loads."""
        value = int.from_bytes(memoryview(buf)[at : at + length], "big")
        return value % 0xFFFF or (0xFFFF if value else 0)  # 2**16 is 1 modulo 2**16 - 1, so words just add up


def fold(total: int) -> int:
    """Fold a 64-bit sum to 16 bits by adding the carries back (RFC 1071 section 1)."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def sum_bytes(buf: Buffer, at: int, length: int, start: int) -> int:
    """Return `start` plus the 16-bit words of `length` bytes, unfolded; a single last byte is a high one."""
    even = length & ~1
    total = start + sum_words(buf, at, even)
    if even != length:
        total += buf[at + even] << 8
    return total


def sum_u64(value: int) -> int:
    """Return the sum of the four 16-bit words of a number."""
    return (value >> 48) + (value >> 32 & 0xFFFF) + (value >> 16 & 0xFFFF) + (value & 0xFFFF)


def complement(total: int) -> int:
    """Return the checksum for an unfolded sum."""
    return fold(total) ^ 0xFFFF


def adjust(checksum: int, old: int, new: int) -> int:
    """Return the checksum after a change of one 16-bit word from `old` to `new`: RFC 1624, equation 3."""
    return complement((checksum ^ 0xFFFF) + (old ^ 0xFFFF) + new)


def finish(buf: Buffer, at: int, length: int, csum_offset: int) -> None:
    """Finish a partial checksum: the field at `csum_offset` holds the pseudo-header sum of the `length` bytes."""
    checksum = complement(sum_bytes(buf, at, length, 0))
    put_u16(
        buf, at + csum_offset, checksum or 0xFFFF
    )  # zero means no checksum in UDP, RFC 768; elsewhere both are the same
