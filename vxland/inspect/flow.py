"""One packet of a flow, as a pod's kernel would build it, for `vxlandctl trace`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from vxland.model.errors import VxlandError
from vxland.model.lease import Address
from vxland.wire.checksum import complement, sum_bytes
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import TYPE_IPV4, TYPE_IPV6, put_header

PROTOCOLS = ("icmp", "tcp", "udp")
HOPS = 63  # the node's own routing has decremented 64

_NUMBERS = {("icmp", 4): 1, ("icmp", 6): 58, ("tcp", 4): 6, ("tcp", 6): 6, ("udp", 4): 17, ("udp", 6): 17}
_ECHO_REQUEST = {4: 8, 6: 128}  # RFC 792, RFC 4443 section 4.1
_CHECKSUM_OFF = {"icmp": 2, "tcp": 16, "udp": 6}
_SYN = 5 << 12 | 0x02  # a TCP header of five words


@dataclass(frozen=True, slots=True)
class Flow:
    """Endpoints of a flow. Both addresses have the same family; ICMP has no ports."""

    src: Address
    dst: Address
    proto: str = "icmp"
    sport: int = 0
    dport: int = 0

    def __post_init__(self) -> None:
        if self.src.version != self.dst.version:
            raise VxlandError(f"{self.src} and {self.dst} are of different families: no packet has both")

    def packet(self) -> bytes:
        """Return an echo request, a TCP SYN or an empty UDP packet, with right checksums."""
        l4 = self._l4()
        number = _NUMBERS[self.proto, self.src.version]
        if self.src.version == 6:
            return struct.pack("!IHBB", 6 << 28, len(l4), number, HOPS) + self.src.packed + self.dst.packed + l4
        head = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(l4), 0, HOPS, number, 0) + self.src.packed + self.dst.packed
        return _checksummed(head, 10, 0) + l4

    def frame(self, dst_mac: int, src_mac: int) -> bytes:
        """Return the packet's frame on the overlay device."""
        ethertype = TYPE_IPV4 if self.src.version == 4 else TYPE_IPV6
        raw = bytearray(ETH_LEN)
        put_header(raw, 0, dst_mac, src_mac, ethertype)
        return bytes(raw) + self.packet()

    def group_mac(self) -> int | None:
        """Return the MAC of a multicast or broadcast destination, or None: RFC 1112 section 6.4, RFC 2464 section 7."""
        if self.dst == IPv4Address("255.255.255.255"):
            return 0xFFFF_FFFF_FFFF
        if not self.dst.is_multicast:
            return None
        low = int(self.dst)
        return 0x0100_5E00_0000 | low & 0x7F_FFFF if self.dst.version == 4 else 0x3333 << 32 | low & 0xFFFF_FFFF

    def _l4(self) -> bytes:
        if self.proto == "icmp":
            raw = struct.pack("!BBHHH", _ECHO_REQUEST[self.src.version], 0, 0, 1, 1)
        elif self.proto == "tcp":
            raw = struct.pack("!HHIIHHHH", self.sport, self.dport, 0, 0, _SYN, 64240, 0, 0)
        else:
            raw = struct.pack("!HHHH", self.sport, self.dport, 8, 0)
        pseudo = 0
        if (self.proto, self.src.version) != ("icmp", 4):
            number = _NUMBERS[self.proto, self.src.version]
            addresses = bytearray(self.src.packed + self.dst.packed)
            pseudo = sum_bytes(addresses, 0, len(addresses), number + len(raw))
        return _checksummed(raw, _CHECKSUM_OFF[self.proto], pseudo)


def _checksummed(raw: bytes, at: int, pseudo: int) -> bytes:
    """`raw` with their checksum at `at`, where they contain zero."""
    value = complement(sum_bytes(bytearray(raw), 0, len(raw), pseudo)) or 0xFFFF
    return raw[:at] + value.to_bytes(2, "big") + raw[at + 2 :]
