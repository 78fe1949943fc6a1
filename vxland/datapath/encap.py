"""A frame read from the TAP: which VTEP it goes to, what answers it here, or why it is dropped.

The rules, in order (DESIGN: forwarding rule):
  1. ARP requests and neighbour solicitations for leased subnets are answered from the table.
  2. A unicast destination MAC that names a VTEP decides: it is the kernel's FDB, and respects the host's routes.
  3. Otherwise the inner destination IP decides, longest prefix first, and the frame gets its VTEP's MAC.
  4. What is left is dropped: BUM for groups and non-IP, NO_VTEP with an ICMP error to the sender for IP.

Answers are written where the frame lies, into its headroom; `answer_at` and `answer_len` tell where.
"""

from __future__ import annotations

import cython

from vxland.datapath.table import Table, mix
from vxland.datapath.verdict import FORWARD, Drop
from vxland.wire.arp import is_request, put_reply, target_at
from vxland.wire.checksum import finish
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6, is_group, mac_at, put_mac
from vxland.wire.icmp import may_answer, put_unreachable, quoted_len
from vxland.wire.ip import Ip
from vxland.wire.l4 import has_ports
from vxland.wire.ndp import is_solicitation, put_advertisement, target_hi_at, target_lo_at
from vxland.wire.octets import Buffer, u16_at
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import csum_offset_at, csum_start_at, gso_size_at, gso_type_at, needs_csum
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import put_header as put_vxlan

if not cython.compiled:
    from vxland.datapath.table import NONE
    from vxland.wire.ethernet import SRC_OFF as ETH_SRC_OFF
    from vxland.wire.ethernet import TYPE_OFF as ETH_TYPE_OFF
    from vxland.wire.virtio import GSO_NONE

ANSWERED = -1  # the frame was a question, and the answer lies where it did
FORWARDED = FORWARD  # pxd types it: the burst loop handles C integers only, here and below
INNER_MALFORMED = Drop.INNER_MALFORMED.value
BUM = Drop.BUM.value
NO_VTEP = Drop.NO_VTEP.value

ERROR_US = 1000  # as the kernel's net.ipv4.icmp_msgs_per_sec, 1000
ERRORS_BURST = 50  # and icmp_msgs_burst


class Encap:
    """The rules of this direction; the fields hold what was decided of the frame last seen."""

    def __init__(self, vni: int, ports: int) -> None:
        self.vni = vni
        self.ports = ports
        self.ip = Ip()
        self.vtep = 0
        self.ecn = 0
        self.port = 0
        self.gso_size = 0
        self.csum_start = 0
        self.answer_at = 0
        self.answer_len = 0
        self.errors_until_us = 0

    def encap(self, buf: Buffer, at: int, length: int, table: Table, now_us: int) -> int:
        """Decide about the frame of `length` octets at `at`, behind its virtio header and HEADROOM octets in all.

        FORWARD: the VXLAN header lies before it; `vtep`, `ecn` and `port` say how to send it, and a `gso_size` other
        than 0 that it is a superframe, to be cut first; one whose L4 header cannot be found goes whole. ANSWERED: the
        answer is to be written to the TAP. Otherwise a Drop; with an ICMP error to write where `answer_len` is not 0.
        """
        self.answer_len = 0
        if length < ETH_LEN:
            return INNER_MALFORMED
        ethertype = u16_at(buf, at + ETH_TYPE_OFF)
        looks_ip = ethertype in (TYPE_IPV4, TYPE_IPV6)
        is_ip = looks_ip and self.ip.parse(buf, at + ETH_LEN, length - ETH_LEN, 4 if ethertype == TYPE_IPV4 else 6)
        may_cut = is_ip and self.ip.l4_at != 0 and gso_type_at(buf, at - VIRTIO_LEN) != GSO_NONE
        self.gso_size = gso_size_at(buf, at - VIRTIO_LEN) if may_cut else 0
        self.csum_start = csum_start_at(buf, at - VIRTIO_LEN)
        if self.gso_size == 0 and needs_csum(buf, at - VIRTIO_LEN) and not self._finish_checksum(buf, at, length):
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
                self._answer_unreachable(buf, at, now_us)
                return NO_VTEP
            put_mac(buf, at, table.vtep_mac[self.vtep])
        self.ecn = self.ip.ecn if is_ip else 0  # RFC 6040 section 4.1, normal mode: copied
        self.port = self._flow_hash(buf, at, is_ip) * self.ports >> 32
        put_vxlan(buf, at - VXLAN_LEN, self.vni)
        return FORWARDED

    def _finish_checksum(self, buf: Buffer, at: int, length: int) -> bool:
        """Finish the checksum the kernel left to us; False where its virtio header points outside the frame."""
        offset = csum_offset_at(buf, at - VIRTIO_LEN)
        if self.csum_start + offset + 2 > length:
            return False
        finish(buf, at + self.csum_start, length - self.csum_start, offset)
        return True

    def _answer(self, buf: Buffer, at: int, length: int, ethertype: int, is_ip: bool, table: Table) -> bool:
        """Answer a question for a neighbour in a leased subnet, as flannel's permanent neighbours would."""
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

    def _answer_unreachable(self, buf: Buffer, at: int, now_us: int) -> None:
        """Tell the sender that no node leases its destination, one for every ERROR_US at most."""
        if not may_answer(buf, self.ip):
            return
        # Token bucket, kept as the time up to which tokens are spent.
        self.errors_until_us = max(self.errors_until_us, now_us - ERRORS_BURST * ERROR_US)
        if self.errors_until_us + ERROR_US > now_us:
            return
        self.errors_until_us += ERROR_US
        quote_end = self.ip.at + quoted_len(self.ip)
        self.answer_len = put_unreachable(buf, self.ip, mac_at(buf, at + ETH_SRC_OFF), mac_at(buf, at))
        self.answer_at = quote_end - self.answer_len

    def _flow_hash(self, buf: Buffer, at: int, is_ip: bool) -> int:
        """32 bits of the inner flow, the same for both directions of it, as the kernel's own source ports are."""
        if not is_ip:
            return mix(0, mac_at(buf, at) + mac_at(buf, at + ETH_SRC_OFF))
        ports = self.ip.proto
        if self.ip.l4_at != 0 and has_ports(self.ip.proto) and self.ip.end - self.ip.l4_at >= 4:
            ports += (u16_at(buf, self.ip.l4_at) + u16_at(buf, self.ip.l4_at + 2)) << 8
        return mix(self.ip.src_hi + self.ip.dst_hi + ports, self.ip.src_lo + self.ip.dst_lo)
