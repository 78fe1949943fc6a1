"""Cutting of a superframe from the TAP into the segments that its sender's stack left to the device.

Theory of operation. A TSO or USO superframe is one Ethernet, IP and TCP or UDP header and up to 64 KiB of payload, with
`gso_size` bytes of payload meant for each segment. Segment i gets a copy of the headers, behind a VXLAN header of its
own, in a scratch slot; its payload is a range of the superframe. What changes from one segment to the next:

    IPv4     total length; ID + i; header checksum            IPv6   payload length
    TCP      sequence number + i * gso_size; CWR on the first only, FIN and PSH on the last only; checksum
    UDP      length; checksum

All else is equal, so it is summed once, and a segment's checksum costs one pass over its payload. The IP and TCP
headers define the geometry. The virtio header only has to agree on the start of the checksummed part; its hdr_len is
ignored, because kernels differ about it. As in the kernel (tcp_gso_segment()), the pseudo-header sum comes from the
checksum field: the sender's stack knows which addresses count behind routing headers.

A superframe is refused if no stack would have left it to a device, so that the output is bounded by the input: more
than MAX_DATAGRAMS segments of less than LEAST_SEGMENT bytes (train.py), or headers longer than a slot whose copies add
up to more than MOST_COPIES times the superframe.

MAX_TRAIN_LEN and the kernel's limit bound a train, so one superframe may need several: call fill() until done(). The
scratch slots are free again once the train has been sent. Slots are SLOT_LEN bytes, or wider for longer headers
(routing headers, hop-by-hop options). Then fewer fit, and the train must leave before another superframe joins it,
which has slots of another width: is_wide().
"""

from __future__ import annotations

import cython

from vxland.datapath.train import MAX_DATAGRAMS, Train, is_too_fine
from vxland.wire.bigendian import Buffer, copy_bytes, put_u16, put_u32, u16_at, u32_at
from vxland.wire.checksum import complement, fold, sum_bytes
from vxland.wire.ip import Ip
from vxland.wire.l4 import csum_off, header_len
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN

if not cython.compiled:
    from vxland.datapath.train import MAX_TRAIN_LEN
    from vxland.wire.bigendian import M32
    from vxland.wire.l4 import TCP, TCP_CSUM_OFF, UDP_CSUM_OFF

SLOT_LEN = 256  # bytes for one segment's headers
SLOTS = MAX_DATAGRAMS  # a train has no more segments
SCRATCH_LEN = SLOTS * SLOT_LEN
MOST_COPIES = 8  # as many come of segments of LEAST_SEGMENT bytes behind headers that fill a slot

FIN_PSH = 0x0009  # of the word that holds the data offset and the flags
CWR = 0x0080


class Segmenter:
    """Cuts one superframe at a time; its SLOTS header slots start at `scratch_at` of the arena."""

    def __init__(self, scratch_at: int) -> None:
        self.scratch_at = scratch_at
        self.frame_at = 0
        self.headers_len = 0
        self.slot_len = SLOT_LEN
        self.slots = SLOTS
        self.ip_off = 0
        self.l4_off = 0
        self.is_v4 = False
        self.is_tcp = False
        self.mss = 0
        self.segments = 0
        self.next_at = 0
        self.end = 0
        self.seq = 0
        self.ip_id = 0
        self.flags = 0
        self.ip_sum = 0
        self.l4_sum = 0

    def open(self, buf: Buffer, frame_at: int, ip: Ip, csum_start: int, gso_size: int) -> bool:
        """Start on a parsed superframe behind its VXLAN header; return False if headers or `gso_size` are invalid."""
        l4_len = header_len(buf, ip.l4_at, ip.end - ip.l4_at, ip.proto) if ip.l4_at != 0 else 0
        self.headers_len = ip.l4_at + l4_len - frame_at
        if l4_len == 0 or gso_size == 0 or csum_start != ip.l4_at - frame_at:
            return False
        payload_len = ip.end - ip.l4_at - l4_len
        if payload_len == 0 or is_too_fine(payload_len, gso_size):
            return False
        self.segments = (payload_len + gso_size - 1) // gso_size
        self.slot_len = SLOT_LEN
        if self.headers_len + VXLAN_LEN > SLOT_LEN:
            self.slot_len = self.headers_len + VXLAN_LEN
            if self.slot_len > SCRATCH_LEN or self.slot_len * self.segments > MOST_COPIES * (ip.end - frame_at):
                return False
        self.slots = SCRATCH_LEN // self.slot_len
        self.frame_at = frame_at
        self.ip_off = ip.at - frame_at
        self.l4_off = ip.l4_at - frame_at
        self.is_v4 = ip.version == 4
        self.is_tcp = ip.proto == TCP
        self.mss = gso_size
        self.next_at = ip.l4_at + l4_len
        self.end = ip.end
        if self.datagram_len() > MAX_TRAIN_LEN:
            return False
        csum_at = ip.l4_at + csum_off(ip.proto)
        pseudo_rest = u16_at(buf, csum_at) + ((ip.end - ip.l4_at) ^ 0xFFFF)  # less the length, which differs
        if self.is_tcp:
            self.seq = u32_at(buf, ip.l4_at + 4)
            self.flags = u16_at(buf, ip.l4_at + 12)
            varying = fold((self.seq >> 16) + (self.seq & 0xFFFF) + self.flags + u16_at(buf, csum_at))
        else:
            varying = fold(u16_at(buf, ip.l4_at + 4) + u16_at(buf, csum_at))
        self.l4_sum = fold(sum_bytes(buf, ip.l4_at, l4_len, pseudo_rest) + (varying ^ 0xFFFF))
        if self.is_v4:
            self.ip_id = u16_at(buf, ip.at + 4)
            varying = fold(u16_at(buf, ip.at + 2) + self.ip_id + u16_at(buf, ip.at + 10))
            self.ip_sum = fold(sum_bytes(buf, ip.at, self.l4_off - self.ip_off, 0) + (varying ^ 0xFFFF))
        return True

    def done(self) -> bool:
        """Whether all segments have been cut."""
        return self.next_at >= self.end

    def datagram_len(self) -> int:
        """Return the bytes of the largest datagram left, which is the size of its train."""
        return VXLAN_LEN + self.headers_len + min(self.mss, self.end - self.next_at)

    def has_slot(self, train: Train) -> bool:
        """Whether there is a free slot for the headers of a train's next segment."""
        return train.datagrams < self.slots

    def is_wide(self) -> bool:
        """Whether the header slots are wider than usual, so that no other superframe may follow in the same train."""
        return self.slot_len != SLOT_LEN

    def fill(self, buf: Buffer, train: Train) -> None:
        """Append as many segments as the train and the slots hold."""
        slot_len, slots = self.slot_len, self.slots
        while self.next_at < self.end and train.datagrams < slots and train.has_room(self.datagram_len()):
            payload_len = min(self.mss, self.end - self.next_at)
            slot_at = self.scratch_at + train.datagrams * slot_len
            copy_bytes(buf, slot_at, self.frame_at - VXLAN_LEN, VXLAN_LEN + self.headers_len)
            self._patch(buf, slot_at + VXLAN_LEN, payload_len)
            train.ranges.add(slot_at, VXLAN_LEN + self.headers_len)
            train.ranges.add(self.next_at, payload_len)
            train.note(VXLAN_LEN + self.headers_len + payload_len)
            self.next_at += payload_len

    def _patch(self, buf: Buffer, at: int, payload_len: int) -> None:
        """Patch the copied headers at `at` for the segment whose payload starts at `next_at`."""
        l4_at = at + self.l4_off
        l4_len = self.headers_len - self.l4_off + payload_len
        if self.is_v4:
            total_len = self.l4_off - self.ip_off + l4_len
            put_u16(buf, at + self.ip_off + 2, total_len)
            put_u16(buf, at + self.ip_off + 4, self.ip_id)
            put_u16(buf, at + self.ip_off + 10, complement(self.ip_sum + total_len + self.ip_id))
            self.ip_id = self.ip_id + 1 & 0xFFFF
        else:
            put_u16(buf, at + self.ip_off + 4, self.headers_len - self.ip_off - 40 + payload_len)
        total = sum_bytes(buf, self.next_at, payload_len, self.l4_sum + l4_len)
        if self.is_tcp:
            flags = self.flags
            if self.next_at + payload_len < self.end:
                flags &= ~FIN_PSH
            self.flags &= ~CWR
            put_u32(buf, l4_at + 4, self.seq)
            put_u16(buf, l4_at + 12, flags)
            put_u16(buf, l4_at + TCP_CSUM_OFF, complement(total + (self.seq >> 16) + (self.seq & 0xFFFF) + flags))
            self.seq = self.seq + payload_len & M32
        else:
            put_u16(buf, l4_at + 4, l4_len)
            put_u16(buf, l4_at + UDP_CSUM_OFF, complement(total + l4_len) or 0xFFFF)
