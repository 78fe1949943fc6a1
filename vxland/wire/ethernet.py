"""The Ethernet II header: destination 48, source 48, type 16 bits. MACs are integers of 48 bits."""

from __future__ import annotations

from vxland.wire.bigendian import Buffer, put_u16, u16_at, u32_at

HDR_LEN = 14
SRC_OFF = 6
TYPE_OFF = 12

TYPE_IPV4 = 0x0800
TYPE_ARP = 0x0806
TYPE_VLAN = 0x8100  # IEEE 802.1Q
TYPE_VLAN_OUTER = 0x88A8  # 802.1ad, a provider's
TYPE_IPV6 = 0x86DD


def mac_at(buf: Buffer, at: int) -> int:
    """Return the MAC at `at`."""
    high = u16_at(buf, at)
    return high << 32 | u32_at(buf, at + 2)


def put_mac(buf: Buffer, at: int, mac: int) -> None:
    """Write a MAC."""
    put_u16(buf, at, mac >> 32)
    put_u16(buf, at + 2, mac >> 16 & 0xFFFF)
    put_u16(buf, at + 4, mac & 0xFFFF)


def is_group(mac: int) -> bool:
    """Whether a MAC is multicast or broadcast: the lowest bit of its first byte."""
    return mac >> 40 & 1 != 0


def put_header(buf: Buffer, at: int, dst: int, src: int, ethertype: int) -> None:
    """Write the 14 bytes."""
    put_mac(buf, at, dst)
    put_mac(buf, at + SRC_OFF, src)
    put_u16(buf, at + TYPE_OFF, ethertype)
