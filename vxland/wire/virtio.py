"""virtio_net_hdr as a TAP with IFF_VNET_HDR reads and writes it: include/uapi/linux/virtio_net.h.

flags 8, gso_type 8, hdr_len 16, gso_size 16, csum_start 16, csum_offset 16 bits; little-endian,
as forwarding/io/tap.py requests with TUNSETVNETLE. csum_start counts from the first byte of the frame.
"""

from __future__ import annotations

import cython

from vxland.wire.bigendian import Buffer

if not cython.compiled:
    from vxland.wire.l4 import TCP, UDP

HDR_LEN = 10

F_NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80  # the first segment carries CWR


def le16_at(buf: Buffer, at: int) -> int:
    """Return the little-endian 16-bit number at `at`."""
    return buf[at] | buf[at + 1] << 8


def put_le16(buf: Buffer, at: int, value: int) -> None:
    """Write a little-endian 16-bit number."""
    buf[at] = value & 0xFF
    buf[at + 1] = value >> 8


def needs_csum(buf: Buffer, at: int) -> bool:
    """Whether the frame's checksum field holds only a partial sum, which has to be finished."""
    return buf[at] & F_NEEDS_CSUM != 0


def gso_type_at(buf: Buffer, at: int) -> int:
    """Return the kind of superframe without its CWR flag, GSO_NONE for a plain frame."""
    return buf[at + 1] & ~GSO_ECN


def gso_type_of(version: int, proto: int) -> int:
    """Return the kind of superframe for this IP version and protocol, GSO_NONE for other protocols."""
    if proto == UDP:
        return GSO_UDP_L4
    if proto != TCP:
        return GSO_NONE
    return GSO_TCPV4 if version == 4 else GSO_TCPV6


def gso_size_at(buf: Buffer, at: int) -> int:
    """Return the bytes of payload in each segment of a superframe."""
    return le16_at(buf, at + 4)


def csum_start_at(buf: Buffer, at: int) -> int:
    """Return the start of the checksummed part, counted from the first byte of the frame."""
    return le16_at(buf, at + 6)


def csum_offset_at(buf: Buffer, at: int) -> int:
    """Return the position of the checksum field, counted from csum_start."""
    return le16_at(buf, at + 8)


def put_header(
    buf: Buffer, at: int, flags: int, gso_type: int, hdr_len: int, gso_size: int, csum_start: int, csum_offset: int
) -> None:
    """Write the 10 bytes."""
    buf[at] = flags
    buf[at + 1] = gso_type
    put_le16(buf, at + 2, hdr_len)
    put_le16(buf, at + 4, gso_size)
    put_le16(buf, at + 6, csum_start)
    put_le16(buf, at + 8, csum_offset)
