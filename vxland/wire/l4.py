"""TCP (RFC 9293 section 3.1), UDP (RFC 768) and GRE (RFC 2784) headers: positions of ports, lengths and checksums."""

from __future__ import annotations

from vxland.wire.bigendian import Buffer

TCP = 6
UDP = 17
IPIP = 4  # RFC 2003
IPV6 = 41  # RFC 4213
GRE = 47
MPLS = 137  # RFC 4023
TCP_CSUM_OFF = 16
UDP_CSUM_OFF = 6
TCP_MIN_LEN = 20
UDP_LEN = 8
TCP_CWR = 0x80
TCP_ALONE = 0x26  # URG, RST, SYN
GRE_CSUM_OFF = 4
GRE_HAS_CSUM = 0x80  # of the first byte


def has_ports(proto: int) -> bool:
    """Whether the header starts with source and destination port."""
    return proto in (TCP, UDP)


def carries_packets(proto: int) -> bool:
    """Whether a packet of this protocol may carry another packet, as a tunnel does."""
    return proto in (UDP, IPIP, IPV6, GRE, MPLS)


def header_len(buf: Buffer, at: int, room: int, proto: int) -> int:
    """Return the length of the TCP or UDP header at `at`; 0 if it exceeds `room` bytes, and for other protocols."""
    if proto == UDP:
        return UDP_LEN if room >= UDP_LEN else 0
    if proto != TCP or room < TCP_MIN_LEN:
        return 0
    length = (buf[at + 12] >> 4) * 4
    return length if TCP_MIN_LEN <= length <= room else 0


def csum_off(proto: int) -> int:
    """Return the offset of the checksum in a TCP or UDP header."""
    return TCP_CSUM_OFF if proto == TCP else UDP_CSUM_OFF


def has_csum_at(buf: Buffer, at: int, room: int, proto: int, offset: int) -> bool:
    """Whether the TCP, UDP or GRE header at `at` has its checksum at `offset`, within `room` bytes.

    No stack leaves the checksums of other protocols to a device: Linux sums ICMP, ICMPv6 and UDP-Lite itself, and
    SCTP's is a CRC, which a TAP does not offer.
    """
    if offset + 2 > room:
        return False
    if has_ports(proto):
        return offset == csum_off(proto)
    return proto == GRE and offset == GRE_CSUM_OFF and buf[at] & GRE_HAS_CSUM != 0


def has_cwr(buf: Buffer, at: int) -> bool:
    """Whether a TCP header has CWR set, RFC 3168 section 6.1."""
    return buf[at + 13] & TCP_CWR != 0


def may_be_cut(buf: Buffer, at: int) -> bool:
    """Whether a TCP packet may be a superframe: not with SYN, RST or URG, which belong to one segment."""
    return buf[at + 13] & TCP_ALONE == 0
