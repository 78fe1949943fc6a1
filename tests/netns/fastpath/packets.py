"""Packets as they arrive at node A's underlay, and a table with everything that distinguishes VTEPs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, ip_address
from struct import pack
from typing import Literal, get_args

from tests.frames import (
    IPV4,
    MAC_B,
    MAC_C,
    OUTER_A,
    OUTER_B,
    OUTER_C,
    PORT,
    UDP,
    VNI,
    ethernet,
    ipv4,
    lease,
    with_checksum,
)
from vxland.datapath.table import table_of
from vxland.model.lease import Address

OUTER_D, OUTER_E, OUTER_F = "192.168.111.131", "192.168.111.132", "192.168.111.133"
MAC_D, MAC_SHARED = 0x02_00_00_00_00_0D, 0x02_00_00_00_00_EF
NAT, NAT_D, OUTER_STRANGER = "198.51.100.1", "198.51.100.7", "192.168.111.250"
POD_D, POD_E = "10.244.3.3", "10.244.4.4"
POD_D_OF_B = "10.244.1.200"
"""Within B's subnet, and within a longer prefix of D."""
PLAIN_HEADER = pack("!II", 0x0800_0000, VNI << 8)
LONGEST = 3600
"""Bytes of the longest frame that the kernel runs a program on."""

MANY = (
    lease("10.244.1.0/24", OUTER_B, MAC_B),
    lease("fd00:244:0:1::/64", OUTER_B, MAC_B),
    replace(lease("10.244.2.0/24", OUTER_C, MAC_C), sources=(IPv4Network("198.51.100.0/24"),)),
    lease("fd00:244:0:2::/64", OUTER_C, MAC_C),
    replace(lease("10.244.3.0/24", OUTER_D, MAC_D), sources=(IPv4Network(NAT_D), IPv4Network(OUTER_E))),
    lease("10.244.1.128/25", OUTER_D, MAC_D),
    lease("10.244.4.0/24", OUTER_E, MAC_SHARED),
    lease("10.244.5.0/24", OUTER_F, MAC_SHARED),
    lease("10.244.6.0/24", OUTER_E, MAC_SHARED),
)
"""C is behind NAT, and D behind a part of it. D says that E's address is its own. E and F have one MAC."""
MANY_TABLE = table_of(MANY, PORT)
NARROW: dict[Address, int] = {ip_address(OUTER_C): 700, ip_address(OUTER_D): 1300}
"""Bytes of a packet that the paths carry."""

Check = Literal["none", "right", "left", "inner", "wrong"]
"""The outer UDP checksum: none; right; left to a device; right once the inner one is finished; wrong."""
CHECKS: tuple[Check, ...] = get_args(Check)


def arriving(
    frame: bytes,
    src: str = OUTER_B,
    dst: str = OUTER_A,
    *,
    tos: int = 0,
    check: Check = "none",
    finished: bytes = b"",
    header: bytes = PLAIN_HEADER,
    sport: int = 50_000,
    dport: int = PORT,
    fragment: int = 0,
    options: bytes = b"",
    udp_len: int = 0,
    outer_mac: int = 0,
) -> bytes:
    """Return the packet with a frame from `src`; 0 is loopback's MAC, at which the kernel runs the program.

    With check `inner`, `finished` is the frame with the checksum that a device would write.
    """
    ports = pack("!HH", sport, dport)

    def udp(inner: bytes, value: int = 0) -> bytes:
        return ports + pack("!HH", udp_len or 16 + len(inner), value) + header + inner

    datagram = udp(frame)
    if check in {"right", "left", "wrong"}:
        datagram = with_checksum(src, dst, UDP, datagram, 6, partial=check == "left")
    elif check == "inner":
        datagram = with_checksum(src, dst, UDP, udp(finished), 6, partial=False)[:8] + datagram[8:]
    if check == "wrong":
        datagram = datagram[:7] + bytes([datagram[7] ^ 1]) + datagram[8:]
    return ethernet(outer_mac, 0, IPV4, ipv4(src, dst, UDP, datagram, tos=tos, fragment=fragment, options=options))
