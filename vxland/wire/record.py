"""A captured frame in memory: a header of 56 bytes, the kept bytes of the frame, and up to 7 bytes of padding.

     0  u32  bytes of the whole record, a multiple of 8
     4  u8   direction: ENCAP, DECAP, or FILLER for a record that only fills the end of its ring
     5  u8   verdict: 0 forwarded, ANSWERED_VERDICT for a request and its answer, or the Drop
     6  u8   flags: VXLAN_FIRST if the kept bytes start with the VXLAN header, not with the inner frame
     7  u8   0
     8  u64  number of the record in its ring, from 0: a gap shows how many were lost
    16  u64  nanoseconds since 1970
    24  u64  underlay address of the other VTEP, high half     32  u64  low half; 0 without one
    40  u16  source port of a received datagram; number of the sending socket for a sent one
    42  u16  gso_size of a superframe, 0 of any other frame
    44  u32  bytes kept                                       48  u32  bytes of the frame        52  u32  0

All numbers are big-endian. A filler has at least 8 bytes, and only the first two fields.
"""

from __future__ import annotations

from struct import Struct

from vxland.wire.bigendian import Buffer, put_u16, put_u32, put_u64

HDR_LEN, FILLER_LEN = 56, 8
LAYOUT = Struct(">IBBBxQQQQHHIIxxxx")

DIRECTIONS = ("encap", "decap")
ANSWERED_VERDICT = 255
VXLAN_FIRST = 1

ENCAP, DECAP, FILLER = 0, 1, 255  # pxd types these: the burst loop handles C integers only
FROM_VXLAN = VXLAN_FIRST


def put_filler(buf: Buffer, at: int, length: int) -> None:
    """Write an empty record of `length` bytes."""
    put_u32(buf, at, length)
    put_u32(buf, at + 4, FILLER << 24)


def put_header(
    buf: Buffer,
    at: int,
    length: int,
    direction: int,
    verdict: int,
    flags: int,
    number: int,
    time_ns: int,
    outer_hi: int,
    outer_lo: int,
    port: int,
    gso_size: int,
    kept: int,
    frame_len: int,
) -> None:
    """Write the header of a record of `length` bytes; the verdict is a Drop, 0, or -1 for a request or answer."""
    put_u32(buf, at, length)
    put_u32(buf, at + 4, (direction << 24 | (verdict & 0xFF) << 16 | flags << 8))
    put_u64(buf, at + 8, number)
    put_u64(buf, at + 16, time_ns)
    put_u64(buf, at + 24, outer_hi)
    put_u64(buf, at + 32, outer_lo)
    put_u16(buf, at + 40, port)
    put_u16(buf, at + 42, gso_size)
    put_u32(buf, at + 44, kept)
    put_u32(buf, at + 48, frame_len)
    put_u32(buf, at + 52, 0)
