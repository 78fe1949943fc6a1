"""Runs of inner segments that become one write to the TAP, as the kernel's GRO would have made them.

Theory of operation. One run is open at a time. A frame joins it if it continues the same flow: equal Ethernet, IP and
TCP or UDP headers except for the fields that segmentation changes, the next sequence number, the next IPv4 ID, and no
more payload than the first frame. Any other frame ends the run. A run is written before the frame that ended it, so
order never changes, and at the end of every batch, so nothing waits for a timer.

A run becomes a superframe with a virtio header: the receiving stack accepts it whole, and a device beneath a bridge
cuts it into the same segments again. NEEDS_CSUM makes the kernel trust the payload, so every checksum is verified
before its frame joins, also the IPv4 header's, which finish() rewrites. A frame with a wrong checksum stays alone, and
the receiving stack drops it. Verification is lazy: a frame that stays alone is not summed here. A checksum that holds
only the pseudo-header sum (see decap.py) cannot be verified.

A kernel neighbour's frames that may be superframes (decap.py) join like any other. A run with such frames declares the
smallest of their sizes: segments of any other might not fit the links that the frame with this one needs.

The TAP may refuse a superframe: kernels 6.1.103 and 6.6.44 did. take_apart() then restores its segments: it has kept
the four header fields of the first one that finish() changed, and the headers of the others still precede their
payloads as received.

These never join: fragments, frames without payload (pure ACKs must not wait), TCP flags other than ACK, PSH and FIN,
UDP without checksum or shorter than its packet, UDP superframes. PSH, FIN and a short segment join only at the end.
"""

from __future__ import annotations

import cython

from vxland.datapath.decap import Decap
from vxland.datapath.train import Gather
from vxland.wire.bigendian import Buffer, put_u16, same_bytes, u16_at, u32_at
from vxland.wire.checksum import complement, fold, sum_bytes
from vxland.wire.ip import Ip
from vxland.wire.l4 import csum_off
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import put_header as put_virtio

if not cython.compiled:
    from vxland.wire.bigendian import M32
    from vxland.wire.l4 import TCP
    from vxland.wire.virtio import F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4

MAX_PACKET_LEN = 65_535  # of an IP packet, RFC 791
MAX_SEGMENTS = 64  # of a run; the kernel's GRO stops there too, and Gather has room for more
FLAGS = 0x01FF  # of the word with the data offset, RFC 9293 section 3.1
ACK, ENDING = 0x0010, 0x0009  # ENDING: FIN and PSH


class Coalescer:
    """The open run. `tcp` and `udp`: join segments of that protocol.

    `takes_tcp` and `takes_udp`: the TAP accepts superframes of that protocol. `declared` is the smallest segment
    size in bytes that a frame of the run declared, because it may be a superframe; 0: none did.
    """

    def __init__(self, tcp: bool, udp: bool, takes_tcp: bool = True, takes_udp: bool = True) -> None:
        self.tcp = tcp
        self.udp = udp
        self.takes_tcp = takes_tcp
        self.takes_udp = takes_udp
        self.gso_type = GSO_NONE
        self.ranges = Gather()
        self.segments = 0
        self.ended = False
        self.nbytes = 0
        self._virtio_at = 0
        self._frame_at = 0
        self._ip_at = 0
        self._l4_at = 0
        self._payload_at = 0
        self._end = 0
        self._version = 0
        self._proto = 0
        self._gso_size = 0
        self.declared = 0
        self._first_len = 0
        self._first_ip_sum = 0
        self._first_word = 0
        self._first_l4_sum = 0
        self._next_seq = 0
        self._pseudo = 0
        self._last_flags = 0
        self._verified = False

    def start(self, buf: Buffer, virtio_at: int, decap: Decap) -> None:
        """Open a run with the frame just accepted; its virtio header is written at `virtio_at`."""
        self.segments = 1
        self.nbytes = decap.frame_len
        self.ranges.clear()
        self.ranges.add(virtio_at, VIRTIO_LEN)
        self.ranges.add(decap.frame_at, decap.frame_len)
        self._virtio_at = virtio_at
        self._frame_at = decap.frame_at
        self._verified = decap.partial
        self.gso_type = decap.gso_type
        put_virtio(
            buf,
            virtio_at,
            F_NEEDS_CSUM if decap.partial else 0,
            decap.gso_type,
            decap.payload_at - decap.frame_at if decap.partial else 0,
            decap.gso_size,
            decap.ip.l4_at - decap.frame_at if decap.partial else 0,
            csum_off(decap.ip.proto) if decap.partial else 0,
        )
        self.declared = decap.gso_size
        self.ended = decap.gso_type == GSO_UDP_L4 or not self._may_lead(buf, decap, decap.ip)
        if not self.ended:
            self._remember(buf, decap, decap.ip)

    def join(self, buf: Buffer, decap: Decap) -> bool:
        """Extend the run with the frame just accepted; return False if it does not fit: write the run first."""
        if self.ended or decap.gso_type == GSO_UDP_L4 or not self._continues(buf, decap, decap.ip):
            return False
        if self.segments == 1 and not self._has_intact_header(buf, self._version, self._ip_at, self._l4_at):
            return False
        if not self._has_intact_header(buf, decap.ip.version, decap.ip.at, decap.ip.l4_at):
            return False
        if not self._verified and not self._is_intact(buf, self._l4_at, self._end, self._pseudo):
            return False
        if not decap.partial and not self._is_intact(buf, decap.ip.l4_at, decap.ip.end, decap.ip.pseudo_sum()):
            return False
        payload_len = decap.ip.end - decap.payload_at
        if self.segments == 1:  # now that more follows: without what padded the frame
            self.ranges.clear()
            self.ranges.add(self._virtio_at, VIRTIO_LEN)
            self.ranges.add(self._frame_at, self._end - self._frame_at)
        self._verified = True
        if decap.gso_size != 0 and (self.declared == 0 or decap.gso_size < self.declared):
            self.declared = decap.gso_size
        self.segments += 1
        self.nbytes += decap.frame_len
        self.ranges.add(decap.payload_at, payload_len)
        if self._proto == TCP:
            self._next_seq = self._next_seq + payload_len & M32
            self._last_flags = u16_at(buf, decap.ip.l4_at + 12) & ENDING
        self.ended = payload_len < self._gso_size or self._last_flags != 0 or self.segments == MAX_SEGMENTS
        return True

    def finish(self, buf: Buffer) -> None:
        """Turn the headers of a run of several segments into those of its superframe; then write `ranges`."""
        if self.segments < 2:
            return
        packet_len = self.ranges.nbytes - VIRTIO_LEN - (self._ip_at - self._frame_at)
        l4_len = packet_len - (self._l4_at - self._ip_at)
        self._first_len = u16_at(buf, self._ip_at + (2 if self._version == 4 else 4))
        self._first_ip_sum = u16_at(buf, self._ip_at + 10)
        self._first_word = u16_at(buf, self._l4_at + (12 if self._proto == TCP else 4))
        self._first_l4_sum = u16_at(buf, self._l4_at + csum_off(self._proto))
        if self._version == 4:
            put_u16(buf, self._ip_at + 2, packet_len)
            put_u16(buf, self._ip_at + 10, 0)
            put_u16(buf, self._ip_at + 10, complement(sum_bytes(buf, self._ip_at, self._l4_at - self._ip_at, 0)))
        else:
            put_u16(buf, self._ip_at + 4, packet_len - 40)
        if self._proto == TCP:
            self.gso_type = GSO_TCPV4 if self._version == 4 else GSO_TCPV6
            put_u16(buf, self._l4_at + 12, u16_at(buf, self._l4_at + 12) | self._last_flags)
        else:
            self.gso_type = GSO_UDP_L4
            put_u16(buf, self._l4_at + 4, l4_len)
        first_len = self._end - self._l4_at
        put_u16(buf, self._l4_at + csum_off(self._proto), fold(self._pseudo + l4_len + (first_len ^ 0xFFFF)))
        put_virtio(
            buf,
            self._virtio_at,
            F_NEEDS_CSUM,
            self.gso_type,
            self._payload_at - self._frame_at,
            self.declared or self._gso_size,
            self._l4_at - self._frame_at,
            csum_off(self._proto),
        )

    def is_taken(self) -> bool:
        """Whether the TAP accepts the finished run, as far as is known."""
        if self.gso_type == GSO_NONE:
            return True
        return self.takes_udp if self.gso_type == GSO_UDP_L4 else self.takes_tcp

    def refuse(self) -> None:
        """Stop making superframes of this kind, which the TAP refused."""
        if self.gso_type == GSO_UDP_L4:
            self.udp = self.takes_udp = False
        else:
            self.tcp = self.takes_tcp = False

    def take_apart(self, buf: Buffer) -> None:
        """Restore the headers of the first frame of a finished run; frame_at() and frame_len() then locate all."""
        if self.segments < 2:
            return
        put_u16(buf, self._ip_at + (2 if self._version == 4 else 4), self._first_len)
        if self._version == 4:
            put_u16(buf, self._ip_at + 10, self._first_ip_sum)
        put_u16(buf, self._l4_at + (12 if self._proto == TCP else 4), self._first_word)
        put_u16(buf, self._l4_at + csum_off(self._proto), self._first_l4_sum)

    def frame_at(self, number: int) -> int:
        """Return the position of a frame of the run: the first is the second range, others precede their payload."""
        return self.ranges.at[number + 1] - (self._payload_at - self._frame_at if number > 0 else 0)

    def frame_len(self, number: int) -> int:
        """Return the length of a frame of the run in bytes, without padding if there are several."""
        return self.ranges.length[number + 1] + (self._payload_at - self._frame_at if number > 0 else 0)

    def clear(self) -> None:
        """Drop the run."""
        self.segments = 0

    def _may_lead(self, buf: Buffer, decap: Decap, ip: Ip) -> bool:
        """Whether another frame might continue this one."""
        if decap.payload_at == 0 or decap.payload_at >= ip.end:
            return False
        if ip.proto == TCP:
            return self.tcp and u16_at(buf, ip.l4_at + 12) & FLAGS == ACK
        return self.udp and self._is_whole_udp(buf, ip)

    def _remember(self, buf: Buffer, decap: Decap, ip: Ip) -> None:
        self._ip_at = ip.at
        self._l4_at = ip.l4_at
        self._payload_at = decap.payload_at
        self._end = ip.end
        self._version = ip.version
        self._proto = ip.proto
        self._gso_size = ip.end - decap.payload_at
        self._pseudo = ip.pseudo_sum()
        self._last_flags = 0
        self._next_seq = u32_at(buf, ip.l4_at + 4) + self._gso_size & M32 if ip.proto == TCP else 0

    def _continues(self, buf: Buffer, decap: Decap, ip: Ip) -> bool:
        """Whether the frame's headers are those of the run's next segment."""
        payload_len = ip.end - decap.payload_at
        if decap.payload_at == 0 or payload_len <= 0 or payload_len > self._gso_size:
            return False
        if ip.version != self._version or ip.proto != self._proto:
            return False
        headers_len = decap.payload_at - decap.frame_at
        if headers_len != self._payload_at - self._frame_at or ip.l4_at - ip.at != self._l4_at - self._ip_at:
            return False
        # Bytes before the payload that a longer run would have; the same bound for both families is the smaller one.
        if self.ranges.nbytes - VIRTIO_LEN - (self._ip_at - self._frame_at) + payload_len > MAX_PACKET_LEN:
            return False
        if not same_bytes(buf, decap.frame_at, self._frame_at, ip.at - decap.frame_at):
            return False
        return self._same_ip(buf, ip) and self._next_l4(buf, ip, headers_len - (ip.l4_at - decap.frame_at))

    def _same_ip(self, buf: Buffer, ip: Ip) -> bool:
        ip_len = ip.l4_at - ip.at
        if ip.version == 6:  # all but the payload length
            return same_bytes(buf, ip.at, self._ip_at, 4) and same_bytes(buf, ip.at + 6, self._ip_at + 6, ip_len - 6)
        expected_id = u16_at(buf, self._ip_at + 4) + self.segments & 0xFFFF
        return (
            u16_at(buf, ip.at) == u16_at(buf, self._ip_at)
            and u16_at(buf, ip.at + 4) == expected_id
            and u32_at(buf, ip.at + 6) == u32_at(buf, self._ip_at + 6)  # fragment field, TTL, protocol
            and same_bytes(buf, ip.at + 12, self._ip_at + 12, ip_len - 12)
        )

    def _next_l4(self, buf: Buffer, ip: Ip, l4_len: int) -> bool:
        at, first_at = ip.l4_at, self._l4_at
        if u32_at(buf, at) != u32_at(buf, first_at):
            return False
        if ip.proto != TCP:
            return self._is_whole_udp(buf, ip)
        return (
            u32_at(buf, at + 4) == self._next_seq
            and u32_at(buf, at + 8) == u32_at(buf, first_at + 8)
            and u16_at(buf, at + 12) | ENDING == u16_at(buf, first_at + 12) | ENDING
            and u16_at(buf, at + 14) == u16_at(buf, first_at + 14)
            and same_bytes(buf, at + 18, first_at + 18, l4_len - 18)
        )

    def _is_whole_udp(self, buf: Buffer, ip: Ip) -> bool:
        """Whether there is a checksum to verify, and no more to the IP packet than UDP says: RFC 768."""
        return u16_at(buf, ip.l4_at + csum_off(ip.proto)) != 0 and u16_at(buf, ip.l4_at + 4) == ip.end - ip.l4_at

    def _has_intact_header(self, buf: Buffer, version: int, at: int, l4_at: int) -> bool:
        """Whether the IPv4 header checksum is right; finish() would otherwise replace a wrong one with a right one."""
        return version == 6 or fold(sum_bytes(buf, at, l4_at - at, 0)) == 0xFFFF

    def _is_intact(self, buf: Buffer, l4_at: int, end: int, pseudo: int) -> bool:
        """Whether the L4 checksum is right: everything it covers sums up to all ones."""
        return fold(sum_bytes(buf, l4_at, end - l4_at, pseudo)) == 0xFFFF
