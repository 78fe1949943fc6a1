"""Flows as a pod's stack makes them: superframes after their virtio header, and the segments that a device cuts.

Segments are built one by one from their fields with tests/frames.py, without code of the package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import pack

import pytest

from tests.frames import (
    ETH_LEN,
    IPV4,
    IPV6,
    MAC_B,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    TCP,
    UDP,
    ethernet,
    ipv4,
    ipv6,
    tcp,
    udp,
)

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = (1 << bit for bit in range(9))
FIRST_ONLY, LAST_ONLY = CWR, FIN | PSH
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80
NOP = b"\x01"
TIMESTAMPS = NOP * 2 + bytes([8, 10]) + bytes(range(8))


def extension(next_header: int, length: int) -> bytes:
    """Return destination options (RFC 8200 section 4.6) that pad: PadN of 4 bytes, then as many Pad1 as needed."""
    return bytes([next_header, length // 8 - 1, 1, 4]).ljust(length, b"\0")


def numbered(length: int) -> bytes:
    """Return bytes in which no two nearby pieces are equal."""
    return b"".join(i.to_bytes(3, "big") for i in range(length // 3 + 1))[:length]


@dataclass(frozen=True)
class Stream:
    """One direction of a flow between two pods, TCP or UDP by `proto`; IPv6 if `src` is."""

    src: str = POD_A
    dst: str = POD_B
    proto: int = TCP
    options: bytes = b""
    ip_options: bytes = b""
    extensions: int = 0
    extension_len: int = 8
    tos: int = 0
    ttl: int = 63
    ident: int = 7
    fragment: int = 0x4000
    seq: int = 1000
    ack: int = 2000
    window: int = 501
    urgent: int = 0
    flags: int = ACK
    sport: int = 40000
    dst_mac: int = MAC_B
    src_mac: int = OWN_MAC

    @property
    def is_v6(self) -> bool:
        """True for IPv6."""
        return ":" in self.src

    @property
    def l4_at(self) -> int:
        """The offset of the TCP or UDP header in a frame."""
        return ETH_LEN + (40 + self.extension_len * self.extensions if self.is_v6 else 20 + len(self.ip_options))

    @property
    def headers_len(self) -> int:
        """The number of bytes before the payload."""
        return self.l4_at + (20 + len(self.options) if self.proto == TCP else 8)

    def packet(self, payload: bytes, sent: int, number: int, flags: int, partial: bool) -> bytes:
        """Return the packet `number` of its superframe, after `sent` bytes of payload."""
        if self.proto == TCP:
            l4 = tcp(
                self.src,
                self.dst,
                payload,
                sport=self.sport,
                flags=flags,
                options=self.options,
                partial=partial,
                seq=self.seq + sent & 0xFFFF_FFFF,
                ack=self.ack,
                window=self.window,
                urgent=self.urgent,
            )
        else:
            l4 = udp(self.src, self.dst, payload, sport=self.sport, partial=partial)
        if self.is_v6:
            chain = [60] * self.extensions + [self.proto]
            l4 = b"".join(extension(number, self.extension_len) for number in chain[1:]) + l4
            return ipv6(self.src, self.dst, chain[0], l4, self.tos, self.ttl)
        ident = self.ident + number & 0xFFFF
        return ipv4(self.src, self.dst, self.proto, l4, self.tos, self.fragment, self.ip_options, self.ttl, ident)

    def frame(
        self, payload: bytes, sent: int = 0, number: int = 0, flags: int | None = None, partial: bool = False
    ) -> bytes:
        """Return the frame of such a packet."""
        packet = self.packet(payload, sent, number, self.flags if flags is None else flags, partial)
        return ethernet(self.dst_mac, self.src_mac, IPV6 if self.is_v6 else IPV4, packet)

    def superframe(self, payload: bytes) -> bytes:
        """Return the stack's packet for a device that cuts: its checksum is only the pseudo-header's sum."""
        return self.frame(payload, partial=True)

    def virtio(self, mss: int, hdr_len: int | None = None) -> bytes:
        """Return the virtio header of a superframe; kernels differ in hdr_len, which vxland ignores."""
        gso_type = (GSO_TCPV6 if self.is_v6 else GSO_TCPV4) if self.proto == TCP else GSO_UDP_L4
        if self.proto == TCP and self.flags & CWR:
            gso_type |= GSO_ECN
        headers = self.headers_len if hdr_len is None else hdr_len
        return pack("<BBHHHH", 1, gso_type, headers, mss, self.l4_at, 16 if self.proto == TCP else 6)

    def segments(self, payload: bytes, mss: int) -> list[bytes]:
        """Return the segments that a device cuts from the superframe, each with its own headers and checksums."""
        out = []
        for number, sent in enumerate(range(0, len(payload), mss)):
            flags = self.flags
            if sent:
                flags &= ~FIRST_ONLY
            if sent + mss < len(payload):
                flags &= ~LAST_ONLY
            out.append(self.frame(payload[sent : sent + mss], sent, number, flags))
        return out


TCP4, TCP6 = Stream(), Stream(POD_A6, POD_B6)
UDP4, UDP6 = Stream(proto=UDP), Stream(POD_A6, POD_B6, proto=UDP)
EACH = {
    "TCP4": replace(TCP4, options=TIMESTAMPS, flags=ACK | PSH),
    "TCP6": replace(TCP6, tos=2),
    "UDP4": UDP4,
    "UDP6": UDP6,
}
"""One of each kind, with options, a flag and an ECN field among them."""
each_stream = pytest.mark.parametrize("stream", EACH.values(), ids=EACH)
MSS = 1398
"""TCP payload of a segment with timestamps at an overlay MTU of 1450."""


def reverse(stream: Stream) -> Stream:
    """Return the same from B's pod to A's."""
    return replace(stream, src=stream.dst, dst=stream.src, src_mac=stream.dst_mac, dst_mac=stream.src_mac)
