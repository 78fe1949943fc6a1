"""Neighbour solicitations and advertisements, RFC 4861 sections 4.3 and 4.4, in the frame that carries them."""

from __future__ import annotations

import cython

from vxland.wire.bigendian import Buffer, put_u16, put_u32, put_u64, u16_at, u64_at
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_IPV6, mac_at, put_mac
from vxland.wire.ethernet import put_header as put_ethernet
from vxland.wire.icmp import put_v6
from vxland.wire.ip import Ip

if not cython.compiled:
    from vxland.wire.ethernet import SRC_OFF as ETH_SRC_OFF
    from vxland.wire.icmp import ICMPV6
    from vxland.wire.ip import V6_LEN

SOLICITATION = 135 << 8  # type, code 0
ADVERTISEMENT = 136 << 8
TARGET_OFF = 8
SOLICITATION_LEN = 24
HOP_LIMIT = 255  # RFC 4861 section 7.1.1: proves that no router forwarded it
SOLICITED_OVERRIDE = 0x6000_0000
TARGET_MAC_OPTION = 0x0201  # type 2, length 1 unit of 8 bytes
ADVERTISEMENT_LEN = SOLICITATION_LEN + 8


def is_solicitation(buf: Buffer, ip: Ip) -> bool:
    """Whether the parsed packet is a neighbour solicitation from a specified address."""
    return (
        ip.version == 6
        and ip.proto == ICMPV6
        and ip.l4_at != 0
        and ip.end - ip.l4_at >= SOLICITATION_LEN
        and u16_at(buf, ip.l4_at) == SOLICITATION
        and buf[ip.at + 7] == HOP_LIMIT
        and (ip.src_hi != 0 or ip.src_lo != 0)  # unspecified: duplicate address detection, with no sender to answer
    )


def is_advertisement(buf: Buffer, ip: Ip) -> bool:
    """Whether the parsed packet is a neighbour advertisement, with any code and hop limit."""
    return (
        ip.version == 6
        and ip.proto == ICMPV6
        and ip.l4_at != 0
        and ip.end - ip.l4_at >= SOLICITATION_LEN
        and buf[ip.l4_at] == ADVERTISEMENT >> 8
    )


def target_hi_at(buf: Buffer, icmp_at: int) -> int:
    """Return the high half of the target address."""
    return u64_at(buf, icmp_at + TARGET_OFF)


def target_lo_at(buf: Buffer, icmp_at: int) -> int:
    """Return the low half of the target address."""
    return u64_at(buf, icmp_at + TARGET_OFF + 8)


def put_advertisement(buf: Buffer, frame_at: int, ip: Ip, mac: int) -> int:
    """Turn the solicitation in place into the advertisement of `mac`; return the frame length in bytes.

    It may be 8 bytes longer than the solicitation.
    """
    target_hi = target_hi_at(buf, ip.l4_at)
    target_lo = target_lo_at(buf, ip.l4_at)
    ip_at = frame_at + ETH_LEN
    icmp_at = ip_at + V6_LEN
    put_ethernet(buf, frame_at, mac_at(buf, frame_at + ETH_SRC_OFF), mac, TYPE_IPV6)
    put_u16(buf, icmp_at, ADVERTISEMENT)
    put_u16(buf, icmp_at + 2, 0)
    put_u32(buf, icmp_at + 4, SOLICITED_OVERRIDE)
    put_u64(buf, icmp_at + TARGET_OFF, target_hi)
    put_u64(buf, icmp_at + TARGET_OFF + 8, target_lo)
    put_u16(buf, icmp_at + SOLICITATION_LEN, TARGET_MAC_OPTION)
    put_mac(buf, icmp_at + SOLICITATION_LEN + 2, mac)
    put_v6(buf, ip_at, ADVERTISEMENT_LEN, HOP_LIMIT, target_hi, target_lo, ip.src_hi, ip.src_lo)
    return ETH_LEN + V6_LEN + ADVERTISEMENT_LEN
