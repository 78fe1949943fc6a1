"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers: one parse that makes every later access safe.

`Ip.parse` finds the L4 header or says it can't. Addresses come as two 64-bit halves, IPv4 in the low 32 bits
of the second, so that both families share every table and sum.
"""

from __future__ import annotations

from vxland.wire.checksum import adjust, fold, sum_u64
from vxland.wire.octets import Buffer, put_u16, u16_at, u32_at, u64_at

V4_LEN = 20
V6_LEN = 40
MAX_EXTENSIONS = 8  # more than any sane packet has; a longer chain is not followed

HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
AUTH = 51
DEST_OPTIONS = 60


def is_extension(proto: int) -> bool:
    """Whether a header of this kind is followed by another one; RFC 8200 section 4, RFC 4302."""
    return proto in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, DEST_OPTIONS)


class Ip:
    """Where things lie in the packet last parsed; positions count from the start of its buffer."""

    def __init__(self) -> None:
        self.version = 0
        self.at = 0
        self.end = 0
        self.src_hi = self.src_lo = 0
        self.dst_hi = self.dst_lo = 0
        self.ecn = 0
        self.proto = 0
        self.l4_at = 0
        self.later_fragment = False

    def parse(self, buf: Buffer, at: int, room: int, version: int) -> bool:
        """Parse the packet at `at` that may fill `room` octets; False unless its headers agree with room and version.

        `l4_at` is 0 where there is no whole L4 packet to look at: a fragment, or a header chain not understood.
        """
        self.l4_at = 0
        self.later_fragment = False
        self.at = at
        self.version = version
        if room < 1 or buf[at] >> 4 != version:
            return False
        return self._parse_v4(buf, at, room) if version == 4 else self._parse_v6(buf, at, room)

    def _parse_v4(self, buf: Buffer, at: int, room: int) -> bool:
        if room < V4_LEN:
            return False
        header_len = (buf[at] & 0x0F) * 4
        total_len = u16_at(buf, at + 2)
        if header_len < V4_LEN or total_len < header_len or total_len > room:
            return False
        self.end = at + total_len
        self.ecn = buf[at + 1] & 3
        self.proto = buf[at + 9]
        self.src_hi = self.dst_hi = 0
        self.src_lo = u32_at(buf, at + 12)
        self.dst_lo = u32_at(buf, at + 16)
        fragment = u16_at(buf, at + 6) & 0x3FFF  # MF and the offset
        self.later_fragment = fragment & 0x1FFF != 0
        if fragment == 0:
            self.l4_at = at + header_len
        return True

    def _parse_v6(self, buf: Buffer, at: int, room: int) -> bool:
        if room < V6_LEN:
            return False
        payload_len = u16_at(buf, at + 4)
        if payload_len > room - V6_LEN:
            return False
        self.end = at + V6_LEN + payload_len
        self.ecn = buf[at + 1] >> 4 & 3
        self.src_hi = u64_at(buf, at + 8)
        self.src_lo = u64_at(buf, at + 16)
        self.dst_hi = u64_at(buf, at + 24)
        self.dst_lo = u64_at(buf, at + 32)
        return self._walk_extensions(buf, buf[at + 6], at + V6_LEN)

    def _walk_extensions(self, buf: Buffer, proto: int, at: int) -> bool:
        """Follow the header chain of RFC 8200 section 4; False where a header overruns the packet."""
        for _ in range(MAX_EXTENSIONS + 1):
            self.proto = proto
            if not is_extension(proto):
                self.l4_at = at
                return True
            if at + 8 > self.end:
                return False
            if proto == FRAGMENT:
                self.later_fragment = u16_at(buf, at + 2) & 0xFFF8 != 0
                if u16_at(buf, at + 2) & 0xFFF9 != 0:
                    self.proto = buf[at]
                    return True
                length = 8
            elif proto == AUTH:
                length = (buf[at + 1] + 2) * 4  # RFC 4302 section 2.2 counts in 32-bit words
            else:
                length = (buf[at + 1] + 1) * 8
            proto = buf[at]
            at += length
            if at > self.end:
                return False
        return True

    def pseudo_sum(self) -> int:
        """The folded sum of the pseudo-header of the L4 packet: RFC 9293 section 3.1, RFC 8200 section 8.1."""
        return fold(
            sum_u64(self.src_hi)
            + sum_u64(self.src_lo)
            + sum_u64(self.dst_hi)
            + sum_u64(self.dst_lo)
            + self.proto
            + (self.end - self.l4_at)
        )

    def put_ecn(self, buf: Buffer, ecn: int) -> None:
        """Rewrite the ECN field of the packet, and IPv4's header checksum with it."""
        old = u16_at(buf, self.at)
        if self.version == 4:
            new = old & 0xFFFC | ecn
            put_u16(buf, self.at + 10, adjust(u16_at(buf, self.at + 10), old, new))
        else:
            new = old & 0xFFCF | ecn << 4
        put_u16(buf, self.at, new)
        self.ecn = ecn
