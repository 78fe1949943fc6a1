"""The VXLAN header, RFC 7348 section 5: flags 8, reserved 24 | VNI 24, reserved 8 bits."""

from __future__ import annotations

from vxland.wire.bigendian import Buffer, put_u32, u32_at

HDR_LEN = 8

FLAG_I = 0x08  # the VNI is valid
FLAG_P = 0x04  # VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe section 3.1): the fourth byte names the next protocol
GPE_ETHERNET = 3
PLAIN = 0x0800_0000
"""The first 32 bits: every reserved bit is zero, since a kernel receiver drops any other."""


def has_vni(buf: Buffer, at: int) -> bool:
    """Whether the I flag is set; RFC 7348 section 5 discards a datagram without it."""
    return buf[at] & FLAG_I != 0


def carries_ethernet(buf: Buffer, at: int) -> bool:
    """Whether an Ethernet frame follows: always, unless VXLAN-GPE's P flag says otherwise."""
    return buf[at] & FLAG_P == 0 or buf[at + 3] == GPE_ETHERNET


def vni_at(buf: Buffer, at: int) -> int:
    """Return the 24-bit VNI. Reserved bits are ignored, as RFC 7348 section 5 requires of receivers."""
    return u32_at(buf, at + 4) >> 8


def put_header(buf: Buffer, at: int, vni: int) -> None:
    """Write the 8 bytes, with all reserved bits zero."""
    put_u32(buf, at, PLAIN)
    put_u32(buf, at + 4, vni << 8)
