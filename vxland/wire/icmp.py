"""ICMP errors, RFC 792, RFC 1191 and RFC 4443, written in place in front of the packet that they report on.

The quoted packet stays in place: new Ethernet, IP and ICMP headers go before it, over its old Ethernet header and the
headroom. In both families the source of the error is the address that could not be reached. An address of this host
would be dropped by its own kernel as a martian source, net/ipv4/fib_frontend.c.
"""

from __future__ import annotations

import cython

from vxland.wire.bigendian import Buffer, put_u16, put_u32, put_u64
from vxland.wire.checksum import complement, sum_bytes
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_IPV4, TYPE_IPV6
from vxland.wire.ethernet import put_header as put_ethernet
from vxland.wire.ip import Ip

if not cython.compiled:
    from vxland.wire.ip import V4_LEN, V6_LEN

ICMP = 1
ICMPV6 = 58
ICMP_LEN = 8
TTL = 64

V4_UNREACHABLE = 3 << 8  # type 3, code 0: net unreachable
V6_UNREACHABLE = 1 << 8  # type 1, code 0: no route to destination
V4_TOO_BIG = 3 << 8 | 4  # fragmentation needed and DF set
V6_TOO_BIG = 2 << 8  # packet too big
V4_MAX_LEN = 576  # RFC 1812 section 4.3.2.3: quote as much as fits into 576 bytes
V6_MAX_LEN = 1280  # RFC 4443 section 3.1: as much as fits the minimum MTU
V4_TOS = 0xC0  # RFC 1812 section 4.3.2.5: internetwork control

HEADROOM = ETH_LEN + 40 + 8  # for the headers of the larger error, IPv6's


def is_error(buf: Buffer, ip: Ip) -> bool:
    """Whether the packet is or may be an ICMP error: none is sent about another, RFC 1122 section 3.2.2."""
    if ip.proto == ICMP:
        return ip.l4_at == 0 or ip.l4_at >= ip.end or buf[ip.l4_at] in (3, 4, 5, 11, 12)
    if ip.proto == ICMPV6:
        return ip.l4_at == 0 or ip.l4_at >= ip.end or buf[ip.l4_at] < 128
    return False


def may_answer(buf: Buffer, ip: Ip) -> bool:
    """Whether an error about the packet is allowed: RFC 1122 section 3.2.2, RFC 4443 section 2.4(e)."""
    if ip.later_fragment or is_error(buf, ip):
        return False
    if ip.version == 4:
        return 0 < ip.src_lo >> 24 < 224 and ip.src_lo >> 24 != 127 and ip.dst_lo >> 24 < 224
    return (ip.src_hi != 0 or ip.src_lo != 0) and ip.src_hi >> 56 != 0xFF and ip.dst_hi >> 56 != 0xFF


def put_unreachable(buf: Buffer, ip: Ip, dst_mac: int, src_mac: int) -> int:
    """Write the error that no node has the destination of the parsed packet; return the frame length in bytes.

    The frame ends with the quoted packet, so it starts at `ip.at + quoted_len(ip) - length`.
    """
    if ip.version == 4:
        return _put_v4(buf, ip, V4_UNREACHABLE, 0, dst_mac, src_mac)
    return _put_v6(buf, ip, V6_UNREACHABLE, 0, dst_mac, src_mac)


def put_too_big(buf: Buffer, ip: Ip, mtu: int, dst_mac: int, src_mac: int) -> int:
    """Write the error that packets of `mtu` bytes would get through; return the frame length in bytes.

    RFC 1191 section 4, RFC 4443 section 3.2. The position of the frame is that of put_unreachable().
    """
    if ip.version == 4:
        return _put_v4(buf, ip, V4_TOO_BIG, mtu, dst_mac, src_mac)
    return _put_v6(buf, ip, V6_TOO_BIG, mtu, dst_mac, src_mac)


def quoted_len(ip: Ip) -> int:
    """Return the number of bytes of the packet that its error quotes."""
    room = V4_MAX_LEN - V4_LEN - ICMP_LEN if ip.version == 4 else V6_MAX_LEN - V6_LEN - ICMP_LEN
    return min(ip.end - ip.at, room)


def _put_v4(buf: Buffer, ip: Ip, kind: int, mtu: int, dst_mac: int, src_mac: int) -> int:
    icmp_at = ip.at - ICMP_LEN
    ip_at = icmp_at - V4_LEN
    icmp_len = ICMP_LEN + quoted_len(ip)
    put_u16(buf, icmp_at, kind)
    put_u16(buf, icmp_at + 2, 0)
    put_u32(buf, icmp_at + 4, mtu)
    put_u16(buf, icmp_at + 2, complement(sum_bytes(buf, icmp_at, icmp_len, 0)))
    put_u16(buf, ip_at, 0x4500 | V4_TOS)
    put_u16(buf, ip_at + 2, V4_LEN + icmp_len)
    put_u32(buf, ip_at + 4, 0)
    put_u16(buf, ip_at + 8, TTL << 8 | ICMP)
    put_u16(buf, ip_at + 10, 0)
    put_u32(buf, ip_at + 12, ip.dst_lo)
    put_u32(buf, ip_at + 16, ip.src_lo)
    put_u16(buf, ip_at + 10, complement(sum_bytes(buf, ip_at, V4_LEN, 0)))
    put_ethernet(buf, ip_at - ETH_LEN, dst_mac, src_mac, TYPE_IPV4)
    return ETH_LEN + V4_LEN + icmp_len


def _put_v6(buf: Buffer, ip: Ip, kind: int, mtu: int, dst_mac: int, src_mac: int) -> int:
    icmp_at = ip.at - ICMP_LEN
    icmp_len = ICMP_LEN + quoted_len(ip)
    put_u16(buf, icmp_at, kind)
    put_u16(buf, icmp_at + 2, 0)
    put_u32(buf, icmp_at + 4, mtu)
    put_v6(buf, icmp_at - V6_LEN, icmp_len, TTL, ip.dst_hi, ip.dst_lo, ip.src_hi, ip.src_lo)
    put_ethernet(buf, icmp_at - V6_LEN - ETH_LEN, dst_mac, src_mac, TYPE_IPV6)
    return ETH_LEN + V6_LEN + icmp_len


def put_v6(
    buf: Buffer, at: int, icmp_len: int, hop_limit: int, src_hi: int, src_lo: int, dst_hi: int, dst_lo: int
) -> None:
    """Write the IPv6 header at `at`, then the checksum of the ICMPv6 message after it."""
    put_u32(buf, at, 6 << 28)
    put_u16(buf, at + 4, icmp_len)
    put_u16(buf, at + 6, ICMPV6 << 8 | hop_limit)
    put_u64(buf, at + 8, src_hi)
    put_u64(buf, at + 16, src_lo)
    put_u64(buf, at + 24, dst_hi)
    put_u64(buf, at + 32, dst_lo)
    icmp_at = at + V6_LEN
    total = sum_bytes(buf, icmp_at - 32, 32 + icmp_len, ICMPV6 + icmp_len)  # addresses and message: RFC 4443 2.3
    put_u16(buf, icmp_at + 2, complement(total))
