"""The Internet checksum, RFC 1071: one's complement sums of 16-bit words, kept in 64 bits and folded at the end."""

from __future__ import annotations

import cython

from vxland.wire.bigendian import Buffer, put_u16

if not cython.compiled:

    def sum_words(buf: Buffer, at: int, length: int) -> int:
        """The folded sum of an even number of octets; checksum.pxd has the loop over wide loads."""
        value = int.from_bytes(memoryview(buf)[at : at + length], "big")
        return value % 0xFFFF or (0xFFFF if value else 0)  # 2**16 is 1 modulo 2**16 - 1, so words just add up


def fold(total: int) -> int:
    """A 64-bit sum folded to 16 bits, carries added back (RFC 1071 section 1)."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def sum_octets(buf: Buffer, at: int, length: int, start: int) -> int:
    """`start` plus the words of `length` octets, unfolded; an odd last octet counts as the high one of a word."""
    even = length & ~1
    total = start + sum_words(buf, at, even)
    if even != length:
        total += buf[at + even] << 8
    return total


def sum_u64(value: int) -> int:
    """The four words of a 64-bit number, summed."""
    return (value >> 48) + (value >> 32 & 0xFFFF) + (value >> 16 & 0xFFFF) + (value & 0xFFFF)


def complement(total: int) -> int:
    """The checksum of an unfolded sum."""
    return fold(total) ^ 0xFFFF


def adjust(checksum: int, old: int, new: int) -> int:
    """The checksum after one 16-bit word went from `old` to `new`: equation 3 of RFC 1624."""
    return complement((checksum ^ 0xFFFF) + (old ^ 0xFFFF) + new)


def finish(buf: Buffer, at: int, length: int, csum_offset: int) -> None:
    """Finish a partial checksum: the field at `csum_offset` holds the pseudo-header sum of the `length` octets."""
    checksum = complement(sum_octets(buf, at, length, 0))
    put_u16(buf, at + csum_offset, checksum or 0xFFFF)  # to UDP zero means none, RFC 768; to others both are the same
