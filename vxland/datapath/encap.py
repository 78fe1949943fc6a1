"""Verdict on a frame read from the TAP: its VTEP, the answer to it, or a drop reason.

The rules, in order:
  1. ARP requests and neighbour solicitations for leased subnets are answered from the table.
  2. A unicast destination MAC of a VTEP decides: it is the kernel's FDB entry, and respects the host's routes.
  3. Otherwise the inner destination IP decides, longest prefix first, and the frame gets its VTEP's MAC.
  4. All else is dropped: BUM for groups and non-IP, NO_VTEP with an ICMP error to the sender for IP.
  5. If the path to the VTEP is too narrow for a packet that must not be fragmented (IPv4 with DF, IPv6), the sender
     gets an ICMP error with the usable size. Other packets leave, and the kernel fragments the outer packet; so do
     packets for which no error may be sent, and those beyond the error rate. With `df: set` nothing is fragmented;
     `df: inherit` fragments only what the sender allows.

The virtio header before a frame comes from the sender, not from the kernel. It counts only where the packet agrees with
it: a checksum is finished where a header has one (partial.py), and a superframe has the packet's own protocol.

Answers are written over the frame and its headroom; `answer_at` and `answer_len` locate them.
"""

from __future__ import annotations

import cython

from vxland.datapath.limits import Limits
from vxland.datapath.partial import Finisher
from vxland.datapath.table import Table
from vxland.datapath.verdict import FORWARD, Drop
from vxland.model.kernel_state import OuterHeader
from vxland.wire.arp import is_request, put_reply, target_at
from vxland.wire.bigendian import Buffer, u16_at
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6, is_group, mac_at, put_mac
from vxland.wire.icmp import may_answer, put_too_big, put_unreachable, quoted_len
from vxland.wire.ip import Ip
from vxland.wire.l4 import csum_off, has_ports, header_len
from vxland.wire.ndp import is_solicitation, put_advertisement, target_hi_at, target_lo_at
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import csum_offset_at, csum_start_at, gso_size_at, gso_type_at, gso_type_of, needs_csum
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import put_header as put_vxlan

if not cython.compiled:
    from vxland.datapath.prefix_map import M64, NONE
    from vxland.wire.ethernet import SRC_OFF as ETH_SRC_OFF
    from vxland.wire.ethernet import TYPE_OFF as ETH_TYPE_OFF
    from vxland.wire.virtio import GSO_NONE

ANSWERED = -1  # the frame was a request, and the answer is in its place
FORWARDED = FORWARD  # pxd types it: the burst loop handles C integers only, here and below
INNER_MALFORMED = Drop.INNER_MALFORMED.value
BUM = Drop.BUM.value
NO_VTEP = Drop.NO_VTEP.value
TOO_BIG = Drop.TOO_BIG.value

ERROR_US = 1000  # the kernel's net.ipv4.icmp_msgs_per_sec, 1000
ERRORS_BURST = 50  # and icmp_msgs_burst

V6_MIN_MTU = 1280  # RFC 8200 section 5: a link that carries less has to fragment below IPv6
DF = 0x40  # of the byte that starts with the flags
ECN_BITS, TOS_BITS = 0x03, 0xFF

_MIX_HI = 0x9E37_79B9_7F4A_7C15  # odd 64-bit multipliers: Knuth's golden ratio and a prime of xxHash
_MIX_LO = 0xC2B2_AE3D_27D4_EB4F


class Encap:
    """The rules of this direction; the fields describe the last frame.

    `ports` is the number of sockets that flows are hashed over; with `df: inherit` as many again follow, which set DF.
    `limits` may be replaced between two bursts.
    """

    def __init__(self, vni: int, ports: int, outer: OuterHeader = OuterHeader()) -> None:  # noqa: B008  (frozen)
        self.vni = vni
        self.ports = ports
        self.limits = Limits({})
        self.dscp = (outer.dscp or 0) << 2
        self.tos_bits = TOS_BITS if outer.dscp is None else ECN_BITS
        self.inherits = outer.ttl is None or outer.dscp is None or outer.df == "inherit"
        self.inherits_ttl = outer.ttl is None
        self.sets_df = outer.df == "set"
        self.inherits_df = outer.df == "inherit"
        self.ip = Ip()
        self.finisher = Finisher()
        self.vtep = 0
        self.marks = 0
        self.port = 0
        self.gso_size = 0
        self.csum_start = 0
        self.answer_at = 0
        self.answer_len = 0
        self.errors_until_us = 0

    def encap(self, buf: Buffer, at: int, length: int, table: Table, now_us: int) -> int:
        """Return the verdict on the frame of `length` bytes at `at`, after HEADROOM bytes that end in a virtio header.

        FORWARD: the VXLAN header lies before it, and `vtep`, `marks` and `port` say how to send it; cut it first if
        `gso_size` is not 0. A superframe whose L4 header cannot be found leaves whole. ANSWERED: write the answer to
        the TAP. Otherwise a Drop; write an ICMP error if `answer_len` is not 0.
        """
        self.answer_len = 0
        if length < ETH_LEN:
            return INNER_MALFORMED
        ethertype = u16_at(buf, at + ETH_TYPE_OFF)
        looks_ip = ethertype in (TYPE_IPV4, TYPE_IPV6)
        is_ip = looks_ip and self.ip.parse(buf, at + ETH_LEN, length - ETH_LEN, 4 if ethertype == TYPE_IPV4 else 6)
        if not self._take_offloads(buf, at, length, looks_ip, is_ip):
            return INNER_MALFORMED
        if self._answer(buf, at, length, ethertype, is_ip, table):
            return ANSWERED
        inner_dst_mac = mac_at(buf, at)
        if is_group(inner_dst_mac):
            return BUM
        self.vtep = table.by_mac.lookup(0, inner_dst_mac)
        if self.vtep == NONE:
            if not is_ip:
                return INNER_MALFORMED if looks_ip else BUM
            self.vtep = table.owner_of_inner(self.ip.version, self.ip.dst_hi, self.ip.dst_lo)
            if self.vtep == NONE:
                self._answer_error(buf, at, now_us, 0)
                return NO_VTEP
            put_mac(buf, at, table.vtep_mac[self.vtep])
        if self.limits.narrow and is_ip and self._is_too_big(buf, at, table, now_us):
            return TOO_BIG
        self.port = self._flow_hash(buf, at, is_ip) * self.ports >> 32
        self.marks = self.dscp
        if is_ip:
            self._take_over(buf)
        put_vxlan(buf, at - VXLAN_LEN, self.vni)
        return FORWARDED

    def _take_over(self, buf: Buffer) -> None:
        """Copy from the inner header: ECN (RFC 6040 section 4.1, normal mode), and what is inherited."""
        self.marks |= self.ip.ecn
        if not self.inherits:
            return
        ip_at, v4 = self.ip.at, self.ip.version == 4
        self.marks |= (buf[ip_at + 1] if v4 else u16_at(buf, ip_at) >> 4) & self.tos_bits
        if self.inherits_ttl:
            self.marks |= buf[ip_at + (8 if v4 else 7)] << 8
        if self.inherits_df and self._has_df(buf):
            self.port += self.ports

    def _has_df(self, buf: Buffer) -> bool:
        """Whether routers must not fragment the packet; IPv6 never lets them."""
        return self.ip.version == 6 or buf[self.ip.at + 6] & DF != 0

    def _is_too_big(self, buf: Buffer, at: int, table: Table, now_us: int) -> bool:
        """Whether the packet is too big for the path to its VTEP and must not leave; answer its sender if allowed."""
        most = self.limits.most(table.outer_hi[self.vtep], table.outer_lo[self.vtep])
        if self.ip.version == 6 and most < V6_MIN_MTU:
            most = V6_MIN_MTU
        if self._packet_len(buf) <= most:
            return False
        has_df = self._has_df(buf)
        if has_df or self.sets_df:
            self._answer_error(buf, at, now_us, most)
        return self.answer_len != 0 or self.sets_df or (self.inherits_df and has_df)

    def _packet_len(self, buf: Buffer) -> int:
        """Return the length of the packet in bytes, of a superframe that of its largest segment."""
        whole = self.ip.end - self.ip.at
        if self.gso_size == 0:
            return whole
        l4_len = header_len(buf, self.ip.l4_at, self.ip.end - self.ip.l4_at, self.ip.proto)
        return min(whole, self.ip.l4_at + l4_len - self.ip.at + self.gso_size)

    def _take_offloads(self, buf: Buffer, at: int, length: int, looks_ip: bool, is_ip: bool) -> bool:
        """Accept a superframe, or finish a partial checksum; return False if virtio header and packet contradict."""
        virtio_at = at - VIRTIO_LEN
        may_cut = is_ip and self.ip.l4_at != 0 and gso_type_at(buf, virtio_at) != GSO_NONE
        self.gso_size = gso_size_at(buf, virtio_at) if may_cut else 0
        self.csum_start = csum_start_at(buf, virtio_at)
        if self.gso_size != 0:
            return self._is_superframe(buf, virtio_at)
        if not needs_csum(buf, virtio_at):
            return True
        start, offset = at + self.csum_start, csum_offset_at(buf, virtio_at)
        if looks_ip:
            return is_ip and self.finisher.finish_plain(buf, self.ip, start, offset)
        return self.finisher.finish_tagged(buf, at, length, start, offset)

    def _is_superframe(self, buf: Buffer, virtio_at: int) -> bool:
        """Whether the packet can be the superframe that the virtio header describes; segment.py checks `csum_start`.

        A superframe's checksum is always unfinished: VIRTIO 1.2 section 5.1.6.2.1.
        """
        return (
            needs_csum(buf, virtio_at)
            and gso_type_at(buf, virtio_at) == gso_type_of(self.ip.version, self.ip.proto)
            and csum_offset_at(buf, virtio_at) == csum_off(self.ip.proto)
        )

    def _answer(self, buf: Buffer, at: int, length: int, ethertype: int, is_ip: bool, table: Table) -> bool:
        """Answer a request for a neighbour in a leased subnet, as flannel's permanent neighbours would."""
        if ethertype == TYPE_ARP and is_request(buf, at, length):
            owner = table.owner_of_inner(4, 0, target_at(buf, at))
            if owner != NONE:
                self.answer_at = at
                self.answer_len = put_reply(buf, at, table.vtep_mac[owner])
        elif is_ip and is_solicitation(buf, self.ip):
            icmp_at = self.ip.l4_at
            owner = table.owner_of_inner(6, target_hi_at(buf, icmp_at), target_lo_at(buf, icmp_at))
            if owner != NONE:
                self.answer_at = at
                self.answer_len = put_advertisement(buf, at, self.ip, table.vtep_mac[owner])
        return self.answer_len != 0

    def _answer_error(self, buf: Buffer, at: int, now_us: int, mtu: int) -> None:
        """Write an ICMP error: the usable MTU, or with 0 no route to the destination. At most one per ERROR_US."""
        if not may_answer(buf, self.ip):
            return
        # Token bucket, kept as the time up to which tokens are spent.
        self.errors_until_us = max(self.errors_until_us, now_us - ERRORS_BURST * ERROR_US)
        if self.errors_until_us + ERROR_US > now_us:
            return
        self.errors_until_us += ERROR_US
        quote_end = self.ip.at + quoted_len(self.ip)
        src_mac, dst_mac = mac_at(buf, at + ETH_SRC_OFF), mac_at(buf, at)
        if mtu == 0:
            self.answer_len = put_unreachable(buf, self.ip, src_mac, dst_mac)
        else:
            self.answer_len = put_too_big(buf, self.ip, mtu, src_mac, dst_mac)
        self.answer_at = quote_end - self.answer_len

    def _flow_hash(self, buf: Buffer, at: int, is_ip: bool) -> int:
        """Return a 32-bit hash of the inner flow, equal in both directions, as the kernel's source ports are."""
        if not is_ip:
            return _mix(0, mac_at(buf, at) + mac_at(buf, at + ETH_SRC_OFF))
        ports = self.ip.proto
        if self.ip.l4_at != 0 and has_ports(self.ip.proto) and self.ip.end - self.ip.l4_at >= 4:
            ports += (u16_at(buf, self.ip.l4_at) + u16_at(buf, self.ip.l4_at + 2)) << 8
        return _mix(self.ip.src_hi + self.ip.dst_hi + ports, self.ip.src_lo + self.ip.dst_lo)


def _mix(hi: int, lo: int) -> int:
    """Return 32 well-mixed bits of two numbers.

    No seed: a flow keeps its source port across restarts, and a pod that picks ports so that its flows share one
    socket gains nothing that it would not with a single flow.
    """
    return ((hi * _MIX_HI ^ lo * _MIX_LO) & M64) >> 32
