"""Verdict on a received datagram: the inner frame with its virtio header for the TAP, or a drop reason.

The checks, in order: the datagram is complete and has a header, I flag, Ethernet inside, VNI, outer source (a leased
VTEP), inner headers, inner source MAC and, with the strict check, inner sender. A frame that passes is written to the
TAP from its place in the buffer, alone or in a run (coalesce.py).

The strict check requires the inner source to be in a subnet of the VTEP that sent the datagram, or to be that node's
own underlay address. In ARP the sender's address counts, in a neighbour advertisement also its target. Frames without
such a sender are refused: other protocols, VLAN tags (the kernel treats VLAN 0 as untagged), the unspecified address of
duplicate address detection, link-local addresses. None of them crosses a flannel overlay, whose neighbours are
permanent entries.

Inner checksums. A kernel neighbour over veth sends packets whose checksum it left to a device, and veth has none. A TCP
or UDP checksum field that holds only the pseudo-header sum is marked NEEDS_CSUM, and the kernel finishes it if needed.
That is a comparison of header bytes; any other checksum, good or bad, is left to the receiving stack.

Superframes of kernel neighbours. A frame with such a checksum may be a TCP superframe that no device has cut, whatever
its length: a full segment and a short one make a frame shorter than the MTU. A UDP socket gets a tunnel's aggregates
without the segment size that their sender intended; only a tc program sees that. If one reports it with a packet
mark (datagram.py), vxland declares it, and a frame that is not longer is one segment. A size that is smaller than any
that Linux sends (train.py) is ignored: the mark may be another program's.

Without a reported size vxland has to choose one. A size that is too large is fatal: forwarding refuses the superframe
at the first narrower link (a pod's, a client's), and the ICMP error changes nothing, as the sender's own segments do
fit. So vxland declares a size that fits every path, RFC 9293 section 3.7.1 (MUST-15: packets of 576 bytes over IPv4, of
1,280 over IPv6), for every such frame that is longer:

- A local stack, a bridge and a veth accept a superframe whole, so pods see the same as behind a kernel device. Only a
  device without TSO cuts it, into more packets than its sender would have. TCP is a stream, and with DF set (Linux sets
  it) the additional IPv4 IDs mean nothing, RFC 6864 section 4.1.
- A packet that was one segment, and is longer than a link behind this node, crosses that link in pieces instead of
  causing an ICMP error. Its sender goes on sending segments of that size; all of them cross.
- IPv4 links narrower than 576 bytes are not supported; Linux learns no path MTU below 552 (net.ipv4.route.min_pmtu).

Whatever is reported, these are one segment each:

- The datagrams of a UDP_GRO train: they crossed a device one by one. A mark on a train has the size of its datagrams.
- Frames with SYN, RST or URG, which never occur in a superframe.

A UDP superframe arrives with the size of its segments, and is written with it.
"""

from __future__ import annotations

import cython

from vxland.datapath.datagram import Datagram
from vxland.datapath.table import Table
from vxland.datapath.train import is_too_fine
from vxland.datapath.verdict import FORWARD, Drop
from vxland.model.source_check import SourceCheck
from vxland.wire.arp import is_ipv4, sender_at
from vxland.wire.bigendian import Buffer, u16_at
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6, mac_at
from vxland.wire.ip import Ip, is_extension
from vxland.wire.l4 import csum_off, has_cwr, has_ports, header_len, may_be_cut
from vxland.wire.ndp import is_advertisement, target_hi_at, target_lo_at
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import carries_ethernet, has_vni, vni_at

if not cython.compiled:
    from vxland.datapath.prefix_map import NONE
    from vxland.datapath.train import LEAST_SEGMENT as LEAST_SENT
    from vxland.datapath.train import MOST_SEGMENTS
    from vxland.wire.ethernet import SRC_OFF as ETH_SRC_OFF
    from vxland.wire.ethernet import TYPE_OFF as ETH_TYPE_OFF
    from vxland.wire.l4 import UDP
    from vxland.wire.virtio import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4

FORWARDED = FORWARD  # pxd types it: the burst loop handles C integers only, here and below
TOO_SHORT = Drop.TOO_SHORT.value
TRUNCATED = Drop.TRUNCATED.value
I_FLAG_CLEAR = Drop.I_FLAG_CLEAR.value
NEXT_PROTOCOL = Drop.NEXT_PROTOCOL.value
WRONG_VNI = Drop.WRONG_VNI.value
UNKNOWN_VTEP = Drop.UNKNOWN_VTEP.value
INNER_MALFORMED = Drop.INNER_MALFORMED.value
OWN_MAC = Drop.OWN_MAC.value
ECN_CE = Drop.ECN_CE.value
INNER_SOURCE_FOREIGN = Drop.INNER_SOURCE_FOREIGN.value

OFF = SourceCheck.OFF.value
STRICT = SourceCheck.STRICT.value

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3  # RFC 3168 section 5

SAFE_LEN_V4, SAFE_LEN_V6 = 576, 1280  # bytes of a packet that any path takes; see the theory above
LEAST_SEGMENT = 256  # bytes of payload; IPv6 extension headers that leave less room make no superframe


class Decap:
    """The rules of this direction; the fields describe the last datagram.

    `vtep` is the index of its outer source; with `check_source` OFF only find_source() sets it.
    """

    def __init__(self, vni: int, own_mac: int, check_source: int) -> None:
        self.vni = vni
        self.own_mac = own_mac
        self.check_source = check_source
        self.vtep = NONE
        self.ip = Ip()
        self.frame_at = 0
        self.frame_len = 0
        self.partial = False
        self.gso_type = GSO_NONE
        self.gso_size = 0
        self.payload_at = 0
        self.inner_stride = 0
        self.in_train = False

    def stride_of(self, buf: Buffer, at: int, length: int, stride: int) -> int:
        """Return the bytes of each datagram in a received buffer, given the size that UDP_GRO reported (0: none).

        A kernel neighbour's inner UDP superframe arrives uncut with the size of its inner segments: the first inner
        packet then ends where the buffer does, beyond its piece, and the buffer is one datagram.
        """
        self.inner_stride = 0
        self.in_train = False
        if stride == 0 or stride >= length:
            return length
        self.in_train = True
        packet_at = at + VXLAN_LEN + ETH_LEN
        if packet_at + 6 > at + stride:
            return stride
        ethertype = u16_at(buf, packet_at - 2)
        packet_len = 0
        if ethertype == TYPE_IPV4:
            packet_len = u16_at(buf, packet_at + 2)
        elif ethertype == TYPE_IPV6:
            packet_len = u16_at(buf, packet_at + 4) + 40
        if packet_at + packet_len != at + length:
            return stride
        self.inner_stride = stride
        self.in_train = False
        return length

    def find_source(self, datagram: Datagram, table: Table) -> None:
        """Look up the outer source of a received buffer, for the traffic counters: the check itself is off."""
        self.vtep = table.by_outer.lookup(datagram.outer_src_hi, datagram.outer_src_lo)

    def decap(self, buf: Buffer, at: int, length: int, datagram: Datagram, table: Table) -> int:
        """Return the verdict on the `length` bytes at `at`; FORWARD: the fields describe the frame at `frame_at`."""
        if datagram.truncated:
            return TRUNCATED
        if length < VXLAN_LEN:
            return TOO_SHORT
        if not has_vni(buf, at):
            return I_FLAG_CLEAR
        if not carries_ethernet(buf, at):
            return NEXT_PROTOCOL
        if vni_at(buf, at) != self.vni:
            return WRONG_VNI
        if self.check_source != OFF:
            self.vtep = table.by_outer.lookup(datagram.outer_src_hi, datagram.outer_src_lo)
            if self.vtep == NONE:
                return UNKNOWN_VTEP
        self.frame_at = at + VXLAN_LEN
        self.frame_len = length - VXLAN_LEN
        return self._check_frame(buf, self.frame_at, self.frame_len, datagram, table)

    def _check_frame(self, buf: Buffer, at: int, length: int, datagram: Datagram, table: Table) -> int:
        if length < ETH_LEN:
            return INNER_MALFORMED
        ethertype = u16_at(buf, at + ETH_TYPE_OFF)
        is_ip = ethertype in (TYPE_IPV4, TYPE_IPV6)
        if is_ip and not self.ip.parse(buf, at + ETH_LEN, length - ETH_LEN, 4 if ethertype == TYPE_IPV4 else 6):
            return INNER_MALFORMED
        if mac_at(buf, at + ETH_SRC_OFF) == self.own_mac:
            return OWN_MAC
        if self.check_source == STRICT and not self._knows_sender(buf, at, length, ethertype, self.ip, datagram, table):
            return INNER_SOURCE_FOREIGN
        self.partial = False
        self.gso_type = GSO_NONE
        self.gso_size = 0
        self.payload_at = 0
        if is_ip:
            if not self._merge_ecn(buf, datagram.ecn):
                return ECN_CE
            self._look_at_l4(buf, self.ip, datagram.segment_size if datagram.stride == 0 else 0)
            if self.gso_size != 0 and is_too_fine(self.ip.end - self.payload_at, self.gso_size):
                return INNER_MALFORMED
        return FORWARDED

    def look_again(self, buf: Buffer, at: int, length: int, exact: bool, inner_stride: int, reported: int) -> None:
        """Set the fields again for an accepted frame; `exact`: it is a segment as its sender made it.

        A `reported` segment size that would make more than MOST_SEGMENTS segments is not used.
        """
        self.frame_at = at
        self.frame_len = length
        self.in_train = exact
        self.inner_stride = inner_stride
        self.partial = False
        self.gso_type = GSO_NONE
        self.gso_size = 0
        self.payload_at = 0
        ethertype = u16_at(buf, at + ETH_TYPE_OFF)
        is_ip = ethertype in (TYPE_IPV4, TYPE_IPV6)
        if is_ip and self.ip.parse(buf, at + ETH_LEN, length - ETH_LEN, 4 if ethertype == TYPE_IPV4 else 6):
            self._look_at_l4(buf, self.ip, reported if length <= reported * MOST_SEGMENTS else 0)

    def _knows_sender(
        self, buf: Buffer, at: int, length: int, ethertype: int, ip: Ip, datagram: Datagram, table: Table
    ) -> bool:
        """Whether the frame's sender may belong to the node that sent the datagram; see the theory above."""
        outer_hi, outer_lo = datagram.outer_src_hi, datagram.outer_src_lo
        if ethertype == TYPE_ARP:
            return is_ipv4(buf, at, length) and table.is_inner_source(4, 0, sender_at(buf, at), outer_hi, outer_lo)
        if ethertype not in (TYPE_IPV4, TYPE_IPV6):
            return False
        if not table.is_inner_source(ip.version, ip.src_hi, ip.src_lo, outer_hi, outer_lo):
            return False
        if ip.version == 4:
            return True
        if is_advertisement(buf, ip):
            target_hi, target_lo = target_hi_at(buf, ip.l4_at), target_lo_at(buf, ip.l4_at)
            return table.is_inner_source(6, target_hi, target_lo, outer_hi, outer_lo)
        return ip.l4_at != 0 or not is_extension(ip.proto)  # the packet behind so many headers stays unknown

    def _merge_ecn(self, buf: Buffer, outer: int) -> bool:
        """Merge the outer ECN field into the inner one, RFC 6040 section 4.2 figure 4; return False for drop."""
        inner = self.ip.ecn
        if outer == CE:
            if inner == NOT_ECT:
                return False
            if inner != CE:
                self.ip.put_ecn(buf, CE)
        elif outer == ECT_1 and inner == ECT_0:
            self.ip.put_ecn(buf, ECT_1)
        return True

    def _look_at_l4(self, buf: Buffer, ip: Ip, reported: int) -> None:
        """Find the payload, a partial checksum, and the segment size of a superframe; see the theory above."""
        if ip.l4_at == 0 or not has_ports(ip.proto):
            return
        l4_len = header_len(buf, ip.l4_at, ip.end - ip.l4_at, ip.proto)
        if l4_len == 0:
            return
        self.payload_at = ip.l4_at + l4_len
        self.partial = u16_at(buf, ip.l4_at + csum_off(ip.proto)) == ip.pseudo_sum()
        if not self.partial:
            return
        if ip.proto == UDP:
            if self.inner_stride != 0:
                self.gso_type, self.gso_size = GSO_UDP_L4, self.inner_stride
        elif not self.in_train:
            self._declare_segments(buf, ip, reported)

    def _declare_segments(self, buf: Buffer, ip: Ip, reported: int) -> None:
        """Declare the segments of a TCP frame that may be a superframe: as reported, or for any path."""
        size = reported
        if reported < LEAST_SENT:
            size = (SAFE_LEN_V4 if ip.version == 4 else SAFE_LEN_V6) - (self.payload_at - ip.at)
            if size < LEAST_SEGMENT:
                return
        if ip.end - self.payload_at <= size or not may_be_cut(buf, ip.l4_at):
            return
        self.gso_type = GSO_TCPV4 if ip.version == 4 else GSO_TCPV6
        if has_cwr(buf, ip.l4_at):
            self.gso_type |= GSO_ECN
        self.gso_size = size
