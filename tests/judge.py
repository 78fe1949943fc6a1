"""Checks of frames by scapy."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP, UDP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.layers.l2 import Ether
from scapy.utils import checksum


def approved(frame: bytes) -> Ether:
    """Return the frame as parsed by scapy, after a check that scapy would write the same lengths and checksums."""
    read, judged = Ether(frame), Ether(frame)
    layers = {IP: ("len", "chksum"), IPv6: ("plen",), TCP: ("chksum",), UDP: ("len", "chksum")}
    for layer, fields in layers.items():
        if layer in judged:
            for field in fields:
                delattr(judged[layer], field)
    assert bytes(judged) == frame
    return read


def checksums_are_right(frame: bytes, l4_at: int, proto: int) -> bool:
    """Return whether IPv4 header and L4 checksums are correct for scapy, whatever options and extension headers."""
    packet, l4 = frame[14:], frame[l4_at:]
    if packet[0] >> 4 == 6:
        return int(in6_chksum(proto, IPv6(packet[:40]), l4)) == 0
    return checksum(packet[: l4_at - 14]) == 0 and int(in4_chksum(proto, IP(packet[:20]), l4)) == 0
