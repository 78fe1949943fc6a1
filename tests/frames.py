"""Frames and datagrams built byte by byte, without code of the package: the reference for its results."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from struct import pack, unpack

from vxland.datapath.datagram import Datagram
from vxland.datapath.table import Table, table_of
from vxland.model.lease import Lease, Mac, Vtep

HEADROOM = 64
"""Bytes that the pump leaves before a frame."""
TAILROOM = 8
"""Bytes by which an advertisement may be longer than its solicitation."""
VIRTIO_LEN, VXLAN_LEN, ETH_LEN = 10, 8, 14
PLAIN = bytes(VIRTIO_LEN)
"""The virtio header of a frame that requests nothing."""
VNI, PORT, OVERLAY_MTU = 1, 8472, 1450

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
BROADCAST = 0xFFFF_FFFF_FFFF
GROUP_MAC = 0x3333FF00000D  # of the solicited-node address of B's pod, RFC 2464 section 7
LLDP = 0x88CC

OWN_MAC, MAC_B, MAC_C = 0xCE5FF673CFB9, 0x3A87CF816ACE, 0x5AB3C4D5E6F7
HOST_MAC = 0xE6624D8E5121
"""The MAC of no VTEP."""
OUTER_A, OUTER_B, OUTER_C = "192.168.111.128", "192.168.111.129", "192.168.111.130"
POD_A, POD_B, POD_C, STRANGER = "10.244.0.19", "10.244.1.13", "10.244.2.7", "10.244.9.9"
POD_A6, POD_B6, POD_C6, STRANGER6 = "fd00:244::13", "fd00:244:0:1::d", "fd00:244:0:2::7", "fd00:244:0:9::9"


def number(address: str) -> int:
    """Return an IPv4 or IPv6 address as a number."""
    return int(ip_address(address))


def halves(address: str) -> tuple[int, int]:
    """Return an address as in the data path: two numbers of 64 bits."""
    return divmod(number(address), 1 << 64)


def packed(address: str) -> bytes:
    """Return the bytes of an address."""
    return ip_address(address).packed


def lease(subnet: str, outer: str, mac: int) -> Lease:
    """Return a lease of `subnet` by the VTEP at `outer`."""
    return Lease(ip_network(subnet), Vtep(ip_address(outer), Mac(mac)))


LEASES_OF_A = (
    lease("10.244.1.0/24", OUTER_B, MAC_B),
    lease("fd00:244:0:1::/64", OUTER_B, MAC_B),
    lease("10.244.2.0/24", OUTER_C, MAC_C),
    lease("fd00:244:0:2::/64", OUTER_C, MAC_C),
)
"""The peers of node A: B and C, each with a subnet of both families."""


def peers_of_a(port: int = PORT) -> Table:
    """Return node A's table."""
    return table_of(LEASES_OF_A, port)


def word_sum(content: bytes) -> int:
    """Return the one's complement sum of 16-bit words, as in RFC 1071 section 1: one carry at a time."""
    total = 0
    for (word,) in (unpack("!H", content[i : i + 2].ljust(2, b"\0")) for i in range(0, len(content), 2)):
        total += word
        if total > 0xFFFF:
            total -= 0xFFFF
    return total


def checksum(content: bytes) -> int:
    """Return the Internet checksum of bytes whose checksum field is zero."""
    return word_sum(content) ^ 0xFFFF


def ethernet(dst: int, src: int, ethertype: int, payload: bytes) -> bytes:
    """Return an Ethernet frame."""
    return dst.to_bytes(6, "big") + src.to_bytes(6, "big") + pack("!H", ethertype) + payload


def ipv4(
    src: str,
    dst: str,
    proto: int,
    payload: bytes,
    tos: int = 0,
    fragment: int = 0,
    options: bytes = b"",
    ttl: int = 63,
    ident: int = 7,
) -> bytes:
    """Return an IPv4 packet with a correct header checksum; `fragment` is the word of flags and offset."""
    total_len = 20 + len(options) + len(payload)
    head = pack("!BBHHHBB", 0x45 + len(options) // 4, tos, total_len, ident, fragment, ttl, proto)
    tail = packed(src) + packed(dst) + options
    return head + pack("!H", checksum(head + b"\0\0" + tail)) + tail + payload


def ipv6(src: str, dst: str, proto: int, payload: bytes, traffic_class: int = 0, hop_limit: int = 63) -> bytes:
    """Return an IPv6 packet; extension headers are part of the payload."""
    return (
        pack("!IHBB", 6 << 28 | traffic_class << 20, len(payload), proto, hop_limit)
        + packed(src)
        + packed(dst)
        + payload
    )


def pseudo_header(src: str, dst: str, proto: int, length: int) -> bytes:
    """Return the pseudo-header of an L4 checksum; both families' forms have the same sum."""
    return packed(src) + packed(dst) + pack("!II", length, proto)


def with_checksum(src: str, dst: str, proto: int, packet: bytes, at: int, partial: bool) -> bytes:
    """Return an L4 packet with its checksum at `at`; partial: only the pseudo-header's sum, not complemented."""
    pseudo = pseudo_header(src, dst, proto, len(packet))
    zero = 0xFFFF if proto == UDP else 0  # RFC 768: in UDP zero means no checksum
    value = word_sum(pseudo) if partial else checksum(pseudo + packet) or zero
    return packet[:at] + pack("!H", value) + packet[at + 2 :]


def udp(src: str, dst: str, payload: bytes, sport: int = 40000, dport: int = 53, partial: bool = False) -> bytes:
    """Return a UDP packet."""
    packet = pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return with_checksum(src, dst, UDP, packet, 6, partial)


def tcp(
    src: str,
    dst: str,
    payload: bytes,
    sport: int = 40000,
    dport: int = 80,
    flags: int = 0x10,
    options: bytes = b"",
    partial: bool = False,
    seq: int = 1000,
    ack: int = 2000,
    window: int = 501,
    urgent: int = 0,
) -> bytes:
    """Return a TCP packet; the ninth flag is in the word of the data offset."""
    offset_and_flags = (5 + len(options) // 4) << 12 | flags
    packet = pack("!HHIIHHHH", sport, dport, seq, ack, offset_and_flags, window, 0, urgent) + options + payload
    return with_checksum(src, dst, TCP, packet, 16, partial)


def echo(payload: bytes, icmp_type: int = 8) -> bytes:
    """Return an ICMP message with the layout of an echo request."""
    head, tail = pack("!BB", icmp_type, 0), pack("!HH", 20, 47) + payload
    return head + pack("!H", checksum(head + b"\0\0" + tail)) + tail


def icmpv6(src: str, dst: str, icmp_type: int, body: bytes) -> bytes:
    """Return an ICMPv6 message with a correct checksum."""
    return with_checksum(src, dst, ICMPV6, pack("!BBH", icmp_type, 0, 0) + body, 2, partial=False)


def solicitation(target: str, src: str, option: bytes = b"") -> bytes:
    """Return a neighbour solicitation's IPv6 packet, to the solicited-node group of its target."""
    group = "ff02::1:ff" + packed(target)[-3:].hex()[:2] + ":" + packed(target)[-2:].hex()
    return ipv6(src, group, ICMPV6, icmpv6(src, group, 135, bytes(4) + packed(target) + option), hop_limit=255)


def arp(operation: int, sender_mac: int, sender: str, target: str, target_mac: int = 0) -> bytes:
    """Return the payload of an ARP frame."""
    head = pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + sender_mac.to_bytes(6, "big") + packed(sender) + target_mac.to_bytes(6, "big") + packed(target)


def packet_of(src: str, dst: str, proto: int, payload: bytes, ecn: int = 0) -> bytes:
    """Return an IP packet of the addresses' family."""
    if ip_address(src).version == 4:
        return ipv4(src, dst, proto, payload, tos=ecn)
    return ipv6(src, dst, proto, payload, traffic_class=ecn)


def frame_of(packet: bytes, dst: int = HOST_MAC, src: int = OWN_MAC) -> bytes:
    """Return the frame with an IP packet."""
    return ethernet(dst, src, IPV4 if packet[0] >> 4 == 4 else IPV6, packet)


def from_b(packet: bytes) -> bytes:
    """Return the frame with an IP packet from B to A."""
    return frame_of(packet, OWN_MAC, MAC_B)


def udp_frame(src: str, dst: str, payload: bytes = b"payload", ecn: int = 0, dst_mac: int = HOST_MAC) -> bytes:
    """Return a frame with a UDP packet from A's side."""
    return frame_of(packet_of(src, dst, UDP, udp(src, dst, payload), ecn), dst_mac)


def ping(i: int = 0, dst_mac: int = MAC_B) -> bytes:
    """Return a numbered frame from A to B."""
    return frame_of(ipv4(POD_A, POD_B, ICMP, echo(i.to_bytes(4, "big"))), dst_mac)


def pong(i: int = 0) -> bytes:
    """Return a numbered frame from B to A."""
    return from_b(ipv4(POD_B, POD_A, ICMP, echo(i.to_bytes(4, "big"), 0)))


def vxlan(frame: bytes, vni: int = VNI) -> bytes:
    """Return the datagram with a frame."""
    return pack("!II", 0x0800_0000, vni << 8) + frame


def from_outer(outer: str, ecn: int = 0, truncated: bool = False, segment_size: int = 0) -> Datagram:
    """Return the kernel's information on a datagram from `outer`; `segment_size` as a mark reports it."""
    datagram = Datagram()
    datagram.outer_src_hi, datagram.outer_src_lo = halves(outer)
    datagram.ecn = ecn
    datagram.truncated = truncated
    datagram.segment_size = segment_size
    return datagram


@dataclass
class Placed:
    """A packet in a buffer, with other bytes before and after it, as in the pump's arena."""

    buf: bytearray
    at: int
    length: int

    def bytes_at(self, at: int, length: int) -> bytes:
        """Return a copy of `length` bytes at `at`."""
        return bytes(self.buf[at : at + length])


def place(content: bytes, virtio: bytes = PLAIN, after: bytes = bytes(TAILROOM)) -> Placed:
    """Place bytes after the pump's headroom, the virtio header directly before them."""
    before = virtio.rjust(HEADROOM, b"\xa5")
    return Placed(bytearray(before + content + after), len(before), len(content))


def exact(content: bytes) -> bytearray:
    """Return a buffer without bytes after the content: the interpreted gear raises IndexError on any read beyond."""
    return bytearray(content)


CANARIES = (b"\x00" * 80, b"\xff" * 80, bytes(range(160, 240)))
"""Bytes after the content, which must not matter: the compiled gear would read them without an error."""
