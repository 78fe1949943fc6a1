"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers: one parse that makes every later access safe.

`Ip.parse` finds the L4 header or reports that there is none. Addresses are two 64-bit halves; IPv4 fills the low 32
bits of the second, so that both families share all tables and sums.
"""

from __future__ import annotations

from vxland.wire.bigendian import Buffer, put_u16, u16_at, u32_at, u64_at
from vxland.wire.checksum import adjust, fold, sum_u64

V4_LEN = 20
V6_LEN = 40
MAX_EXTENSIONS = 8  # more than any sane packet has; a longer chain is not followed

HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
AUTH = 51
DEST_OPTIONS = 60

SOURCE_ROUTE, MOBILE_ROUTE, RPL_ROUTE, SEGMENT_ROUTE = 0, 2, 3, 4  # IANA's IPv6 routing types
ROUTE_LEN = 8  # of a routing header, before its addresses
ADDRESS_LEN = 16


def is_extension(proto: int) -> bool:
    """Whether a header of this kind is followed by another one; RFC 8200 section 4, RFC 4302."""
    return proto in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, DEST_OPTIONS)


def _with_byte(value: int, place: int, byte: int) -> int:
    """Return a 64-bit number with one byte replaced; place 0 is its lowest."""
    shift = 8 * place
    return value ^ ((value >> shift & 0xFF) ^ byte) << shift


class Ip:
    """Fields of the last parsed packet; positions count from the start of its buffer."""

    def __init__(self) -> None:
        self.version = 0
        self.at = 0
        self.end = 0
        self.src_hi = self.src_lo = 0
        self.dst_hi = self.dst_lo = 0
        self.final_hi = self.final_lo = 0
        self.ecn = 0
        self.proto = 0
        self.l4_at = 0
        self.later_fragment = False

    def parse(self, buf: Buffer, at: int, room: int, version: int) -> bool:
        """Parse the packet at `at`, of at most `room` bytes; return whether its headers agree with room and version.

        `l4_at` is 0 without a complete L4 packet: in a fragment, or after a header chain that is too long.
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
        self.final_hi, self.final_lo = 0, self.dst_lo
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
        self.final_hi, self.final_lo = self.dst_hi, self.dst_lo
        return self._walk_extensions(buf, buf[at + 6], at + V6_LEN)

    def _walk_extensions(self, buf: Buffer, proto: int, at: int) -> bool:
        """Follow the header chain of RFC 8200 section 4; return False if a header overruns the packet."""
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
            if at + length > self.end:
                return False
            if proto == ROUTING and buf[at + 3] != 0:
                self._find_final(buf, at, length)
            proto = buf[at]
            at += length
        return True

    def _find_final(self, buf: Buffer, at: int, length: int) -> None:
        """Set the final destination of a packet whose routing header has addresses left to visit.

        Types 0 (RFC 2460 section 4.4) and 2 (RFC 6275 section 6.4) list the final destination last, type 4 (RFC 8754
        section 2) first. Type 3 (RFC 6554 section 3) lists it last, without the bytes that it shares with the packet's
        destination. Other types, and headers without a whole address, leave the packet's own.
        """
        kind = buf[at + 2]
        tail_len = ADDRESS_LEN
        first_at = at + ROUTE_LEN
        final_at = first_at
        if kind in (SOURCE_ROUTE, MOBILE_ROUTE):
            final_at = at + length - ADDRESS_LEN
        elif kind == RPL_ROUTE:
            tail_len = ADDRESS_LEN - (buf[at + 4] & 0x0F)
            final_at = at + length - (buf[at + 5] >> 4) - tail_len
        elif kind != SEGMENT_ROUTE:
            return
        if final_at < first_at or final_at + tail_len > at + length:
            return
        hi, lo = self.dst_hi, self.dst_lo
        for i in range(tail_len):
            if i < tail_len - 8:
                hi = _with_byte(hi, tail_len - 9 - i, buf[final_at + i])
            else:
                lo = _with_byte(lo, tail_len - 1 - i, buf[final_at + i])
        self.final_hi, self.final_lo = hi, lo

    def pseudo_sum(self) -> int:
        """Return the folded sum of the pseudo-header of the L4 packet: RFC 9293 section 3.1, RFC 8200 section 8.1.

        Behind an IPv6 routing header it has the final destination, which the sender's stack summed.
        """
        return fold(
            sum_u64(self.src_hi)
            + sum_u64(self.src_lo)
            + sum_u64(self.final_hi)
            + sum_u64(self.final_lo)
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
