"""A received datagram: the inner frame and its virtio header for the TAP, or why it is dropped.

The checks, in order: the datagram is whole and holds a header, its I flag, Ethernet inside, its VNI, its outer
source (a leased VTEP), its inner headers, its inner source MAC. What passes is written to the TAP from where it lies:
the virtio header goes over the VXLAN header and the two octets before it.

Inner checksums (kernel neighbours over veth, whose packets were to be finished by a device that never came): a TCP or
UDP checksum field that holds just the pseudo-header sum is marked NEEDS_CSUM, and the kernel finishes it where it must.
That is a comparison of header octets; any other checksum, good or bad, is left for the receiving stack to judge.
A TCP frame of that kind beyond the overlay MTU is a superframe that no device has cut, and is written as GSO.
"""

from __future__ import annotations

import cython

from vxland.datapath.batch import Datagram
from vxland.datapath.table import Table
from vxland.datapath.verdict import FORWARD, Drop
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_IPV4, TYPE_IPV6, mac_at
from vxland.wire.ip import Ip
from vxland.wire.l4 import csum_off, has_cwr, has_ports, header_len
from vxland.wire.octets import Buffer, u16_at
from vxland.wire.virtio import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import put_header as put_virtio
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import carries_ethernet, has_vni, vni_at

if not cython.compiled:
    from vxland.datapath.table import NONE
    from vxland.wire.ethernet import SRC_OFF as ETH_SRC_OFF
    from vxland.wire.ethernet import TYPE_OFF as ETH_TYPE_OFF
    from vxland.wire.l4 import TCP
    from vxland.wire.virtio import F_NEEDS_CSUM

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

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3  # RFC 3168 section 5


class Decap:
    """The rules of this direction; the fields hold what was decided of the datagram last seen."""

    def __init__(self, vni: int, own_mac: int, overlay_mtu: int, check_source: bool) -> None:
        self.vni = vni
        self.own_mac = own_mac
        self.overlay_mtu = overlay_mtu
        self.check_source = check_source
        self.ip = Ip()
        self.frame_at = 0
        self.frame_len = 0

    def decap(self, buf: Buffer, at: int, length: int, datagram: Datagram, table: Table) -> int:
        """Decide about the `length` octets at `at`. FORWARD: the virtio header lies before the frame at `frame_at`."""
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
        if self.check_source and table.by_outer.lookup(datagram.outer_src_hi, datagram.outer_src_lo) == NONE:
            return UNKNOWN_VTEP
        self.frame_at = at + VXLAN_LEN
        self.frame_len = length - VXLAN_LEN
        return self._check_frame(buf, self.frame_at, self.frame_len, datagram.ecn)

    def _check_frame(self, buf: Buffer, at: int, length: int, outer_ecn: int) -> int:
        if length < ETH_LEN:
            return INNER_MALFORMED
        ethertype = u16_at(buf, at + ETH_TYPE_OFF)
        is_ip = ethertype in (TYPE_IPV4, TYPE_IPV6)
        if is_ip and not self.ip.parse(buf, at + ETH_LEN, length - ETH_LEN, 4 if ethertype == TYPE_IPV4 else 6):
            return INNER_MALFORMED
        if mac_at(buf, at + ETH_SRC_OFF) == self.own_mac:
            return OWN_MAC
        put_virtio(buf, at - VIRTIO_LEN, 0, GSO_NONE, 0, 0, 0, 0)
        if is_ip:
            if not self._merge_ecn(buf, outer_ecn):
                return ECN_CE
            self._offer_checksum(buf, at, self.ip)
        return FORWARDED

    def _merge_ecn(self, buf: Buffer, outer: int) -> bool:
        """Merge the outer ECN field into the inner one, RFC 6040 section 4.2 figure 4; False where it says drop."""
        inner = self.ip.ecn
        if outer == CE:
            if inner == NOT_ECT:
                return False
            if inner != CE:
                self.ip.put_ecn(buf, CE)
        elif outer == ECT_1 and inner == ECT_0:
            self.ip.put_ecn(buf, ECT_1)
        return True

    def _offer_checksum(self, buf: Buffer, at: int, ip: Ip) -> None:
        """Have the kernel finish a checksum that was left partial, and cut a superframe; see the theory above."""
        if ip.l4_at == 0 or not has_ports(ip.proto):
            return
        l4_len = header_len(buf, ip.l4_at, ip.end - ip.l4_at, ip.proto)
        if l4_len == 0 or u16_at(buf, ip.l4_at + csum_off(ip.proto)) != ip.pseudo_sum():
            return
        payload_at = ip.l4_at + l4_len
        gso_type, gso_size = GSO_NONE, 0
        if ip.proto == TCP and ip.end - ip.at > self.overlay_mtu > payload_at - ip.at:
            gso_type = GSO_TCPV4 if ip.version == 4 else GSO_TCPV6
            if has_cwr(buf, ip.l4_at):
                gso_type |= GSO_ECN
            gso_size = self.overlay_mtu - (payload_at - ip.at)
        put_virtio(
            buf,
            at - VIRTIO_LEN,
            F_NEEDS_CSUM,
            gso_type,
            payload_at - at,
            gso_size,
            ip.l4_at - at,
            csum_off(ip.proto),
        )
