"""Partial checksums, which a sender's stack left to the device: located by the packet's own headers, and finished.

Theory of operation. The virtio header of a frame says where the checksummed part starts and where in it the checksum
lies. Both numbers come from the sender: a pod with CAP_NET_RAW writes any it likes through a packet socket
(packet(7), PACKET_VNET_HDR), and the kernel forwards them unseen. A "checksum" that is written where they say would
change addresses or ports behind the node's firewall. So they only choose between places that the headers name:

    the packet's own   the part starts where its TCP, UDP or GRE header does, and the checksum is that header's.
    an inner packet's  A tunnel in a pod leaves the inner packet's checksum to the device. The outer one is right
                       already: the sum of the inner packet is known before it is finished (Linux: lco_csum()).

Tunnels cannot be listed, because a UDP tunnel may use any port. So the search for an inner packet goes backwards from
the start of the part. It looks for an IP header in the payload of a protocol that carries packets. The L4 header of
this packet must start at that place, its length must end inside the outer packet, and the field must be as a stack
leaves it (the pseudo-header sum; zero for GRE). The value then written is the only right one, in bytes that are payload
to a firewall. The search covers INNER_HEADER_MOST bytes, which bounds the cost of a frame.

VLAN tags are skipped. Everything else is refused: fragments, which the kernel finishes before it cuts them, TCP and
ICMP around an inner packet, and other EtherTypes.
"""

from __future__ import annotations

import cython

from vxland.wire.bigendian import Buffer, u16_at
from vxland.wire.checksum import finish
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_IPV4, TYPE_IPV6, TYPE_VLAN, TYPE_VLAN_OUTER
from vxland.wire.ip import Ip
from vxland.wire.l4 import carries_packets, has_csum_at, has_ports

if not cython.compiled:
    from vxland.wire.ip import V4_LEN
    from vxland.wire.l4 import UDP, UDP_LEN

MAX_TAGS = 2  # IEEE 802.1Q: a customer's tag behind a provider's
TAG_LEN = 4
INNER_HEADER_MOST = 256  # bytes of an inner IP header and its extensions that are looked through


class Finisher:
    """Finishes the checksum of one frame at a time; `tagged` and `inner` are the packets that it parsed for this."""

    def __init__(self) -> None:
        self.tagged = Ip()
        self.inner = Ip()

    def finish_plain(self, buf: Buffer, ip: Ip, csum_start: int, csum_offset: int) -> bool:
        """Finish the checksum whose coverage starts at `csum_start` of the buffer. `ip` is the frame's parsed packet.

        Returns False, and writes nothing, if no header of the packet has its checksum there.
        """
        if ip.l4_at == 0:
            return False
        if csum_start == ip.l4_at:
            if not has_csum_at(buf, csum_start, ip.end - csum_start, ip.proto, csum_offset):
                return False
            finish(buf, csum_start, ip.end - csum_start, csum_offset)
            return True
        if not carries_packets(ip.proto):
            return False
        payload_at = ip.l4_at + UDP_LEN if ip.proto == UDP else ip.l4_at
        if not self._find_inner(buf, payload_at, ip.end, csum_start, csum_offset):
            return False
        finish(buf, csum_start, self.inner.end - csum_start, csum_offset)
        return True

    def finish_tagged(self, buf: Buffer, at: int, length: int, csum_start: int, csum_offset: int) -> bool:
        """Do the same for a frame of `length` bytes at `at` whose EtherType is not IP."""
        end = at + length
        for _ in range(MAX_TAGS):
            if end - at < ETH_LEN + TAG_LEN or u16_at(buf, at + ETH_LEN - 2) not in (TYPE_VLAN, TYPE_VLAN_OUTER):
                return False
            at += TAG_LEN
            ethertype = u16_at(buf, at + ETH_LEN - 2)
            if ethertype in (TYPE_IPV4, TYPE_IPV6):
                ip_at, version = at + ETH_LEN, 4 if ethertype == TYPE_IPV4 else 6
                return self.tagged.parse(buf, ip_at, end - ip_at, version) and self.finish_plain(
                    buf, self.tagged, csum_start, csum_offset
                )
        return False

    def _find_inner(self, buf: Buffer, payload_at: int, end: int, csum_start: int, csum_offset: int) -> bool:
        """Find the packet between `payload_at` and `end` that the checksum belongs to; see the theory above."""
        at = csum_start - V4_LEN
        least_at = max(payload_at, csum_start - INNER_HEADER_MOST)
        while at >= least_at and csum_start < end:
            version = buf[at] >> 4
            parsed = version in (4, 6) and self.inner.parse(buf, at, end - at, version)
            if parsed and self._is_left(buf, self.inner, csum_start, csum_offset):
                return True
            at -= 4  # IP headers are that many bytes long, or a multiple
        return False

    def _is_left(self, buf: Buffer, ip: Ip, csum_start: int, csum_offset: int) -> bool:
        """Whether the packet's L4 header starts there, and its checksum field holds a partial sum."""
        if ip.l4_at != csum_start:
            return False
        if not has_csum_at(buf, ip.l4_at, ip.end - ip.l4_at, ip.proto, csum_offset):
            return False
        return u16_at(buf, ip.l4_at + csum_offset) == (ip.pseudo_sum() if has_ports(ip.proto) else 0)
