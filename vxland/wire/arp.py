"""ARP for IPv4 over Ethernet, RFC 826, in the Ethernet frame that carries it."""

from __future__ import annotations

import cython

from vxland.wire.bigendian import Buffer, put_u16, put_u32, u32_at, u64_at
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import mac_at, put_mac

if not cython.compiled:
    from vxland.wire.ethernet import SRC_OFF as ETH_SRC_OFF

FRAME_LEN = ETH_LEN + 28

ETHERNET_IPV4_REQUEST = 0x0001_0800_0604_0001  # hardware 1, protocol 0x0800, lengths 6 and 4, operation 1
OP_REPLY = 2
OP_OFF = ETH_LEN + 6
SENDER_MAC_OFF = ETH_LEN + 8
SENDER_IP_OFF = ETH_LEN + 14
TARGET_MAC_OFF = ETH_LEN + 18
TARGET_IP_OFF = ETH_LEN + 24


def is_ipv4(buf: Buffer, frame_at: int, frame_len: int) -> bool:
    """Whether the ARP frame is complete and about IPv4 on Ethernet, with any operation."""
    return frame_len >= FRAME_LEN and u64_at(buf, frame_at + ETH_LEN) >> 16 == ETHERNET_IPV4_REQUEST >> 16


def is_request(buf: Buffer, frame_at: int, frame_len: int) -> bool:
    """Whether the ARP frame is a complete request for an IPv4 address."""
    return frame_len >= FRAME_LEN and u64_at(buf, frame_at + ETH_LEN) == ETHERNET_IPV4_REQUEST


def sender_at(buf: Buffer, frame_at: int) -> int:
    """Return the IPv4 address that the sender claims."""
    return u32_at(buf, frame_at + SENDER_IP_OFF)


def target_at(buf: Buffer, frame_at: int) -> int:
    """Return the requested IPv4 address."""
    return u32_at(buf, frame_at + TARGET_IP_OFF)


def put_reply(buf: Buffer, frame_at: int, mac: int) -> int:
    """Turn the request in place into the reply that its target is at `mac`; return the frame length in bytes."""
    target_ip = target_at(buf, frame_at)
    sender_mac = mac_at(buf, frame_at + SENDER_MAC_OFF)
    put_mac(buf, frame_at, sender_mac)
    put_mac(buf, frame_at + ETH_SRC_OFF, mac)
    put_u16(buf, frame_at + OP_OFF, OP_REPLY)
    put_mac(buf, frame_at + TARGET_MAC_OFF, sender_mac)
    put_u32(buf, frame_at + TARGET_IP_OFF, u32_at(buf, frame_at + SENDER_IP_OFF))
    put_mac(buf, frame_at + SENDER_MAC_OFF, mac)
    put_u32(buf, frame_at + SENDER_IP_OFF, target_ip)
    return FRAME_LEN
