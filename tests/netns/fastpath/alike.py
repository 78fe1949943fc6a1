"""The judge of what a program has carried: Encap and Decap on the same bytes, and the kernel before Decap's socket."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack, unpack

from tests.frames import (
    ETH_LEN,
    IPV4,
    OUTER_A,
    OWN_MAC,
    PLAIN,
    PORT,
    TCP,
    UDP,
    VNI,
    VXLAN_LEN,
    checksum,
    from_outer,
    ipv4,
    place,
    pseudo_header,
    word_sum,
)
from tests.netns.fastpath.loaded import PORTS, PUBLIC, Known
from tests.steps import NOW_US, SLOTS_LEN
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.segment import Segmenter
from vxland.datapath.table import Table
from vxland.datapath.verdict import FORWARD
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Vtep
from vxland.model.source_check import SourceCheck

SOCKET_TTL = 64
"""Of the daemon's sockets where the inner packet's is copied, and is 0."""
OUTER_LEN = 20 + 8
DF = 0x4000


def virtio_of(frame: bytes, gso_size: int) -> bytes:
    """Return the virtio header with which the TAP hands a superframe to the daemon."""
    if not gso_size or len(frame) < ETH_LEN + 20:
        return PLAIN
    v6 = frame[ETH_LEN] >> 4 == 6
    proto = frame[ETH_LEN + 6] if v6 else frame[ETH_LEN + 9]
    gso_type = 5 if proto == UDP else 4 if v6 else 1
    return pack("<BBHHHH", 1, gso_type, 0, gso_size, ETH_LEN + (40 if v6 else 20), 6 if proto == UDP else 16)


def headers_len_of(frame: bytes) -> int:
    """Return the bytes before the payload of a TCP or UDP packet with a plain IP header."""
    l4_at = ETH_LEN + (40 if frame[ETH_LEN] >> 4 == 6 else 20)
    proto = frame[ETH_LEN + (6 if l4_at == ETH_LEN + 40 else 9)]
    return l4_at + (8 if proto == UDP else (frame[l4_at + 12] >> 4) * 4)


def assert_encap_alike(
    frame: bytes, sent: bytes, known: Known, outer: OuterHeader, ports: list[int] = PORTS, gso_size: int = 0
) -> tuple[Vtep, int, int]:
    """Fail unless the daemon sends the frame to the same VTEP behind the same headers as a program did.

    `gso_size` is that of a superframe, which the program sent whole. Return the VTEP, and the frames and bytes that the
    daemon counts.
    """
    encap = Encap(VNI, len(ports) // (2 if outer.df == "inherit" else 1), outer)
    encap.limits = known.limits
    placed = place(frame, virtio_of(frame, gso_size), after=bytes(SLOTS_LEN))
    assert encap.encap(placed.buf, placed.at, placed.length, known.table, NOW_US) == FORWARD
    datagram = placed.bytes_at(placed.at - VXLAN_LEN, VXLAN_LEN + placed.length)
    vtep = known.table.vtep_at(encap.vtep)
    df = outer.df == "set" or (outer.df == "inherit" and encap.port >= len(ports) // 2)
    udp = pack("!HHHH", ports[encap.port], PORT, 8 + len(datagram), 0)
    ident = unpack("!H", sent[18:20])[0]
    ttl = encap.marks >> 8 or outer.ttl or SOCKET_TTL
    want = ipv4(
        OUTER_A, str(vtep.address), UDP, udp + datagram, encap.marks & 0xFF, DF if df else 0, ttl=ttl, ident=ident
    )
    assert sent[ETH_LEN:] == want
    assert datagram[VXLAN_LEN:] == frame
    if not encap.gso_size:
        return vtep, 1, len(frame)
    segmenter = Segmenter(placed.at + placed.length)
    assert segmenter.open(placed.buf, placed.at, encap.ip, encap.csum_start, encap.gso_size)
    segments = -(-(len(frame) - headers_len_of(frame)) // gso_size)
    return vtep, segments, len(frame) + (segments - 1) * headers_len_of(frame)


def received(packet: bytes) -> tuple[bytes, str, int] | None:
    """Return what the daemon's socket receives of an arrived packet: the datagram, its source, and its ECN field.

    None if the kernel drops the packet, or has it for another socket: net/ipv4/ip_input.c and udp.c.
    """
    ip = packet[ETH_LEN:]
    if packet[12:ETH_LEN] != pack("!H", IPV4) or any(packet[:6]) or len(ip) < OUTER_LEN:
        return None
    header_len, total_len = (ip[0] & 15) * 4, unpack("!H", ip[2:4])[0]
    src, dst = str(ip_address(ip[12:16])), str(ip_address(ip[16:20]))
    if ip[0] >> 4 != 4 or header_len < 20 or not header_len + 8 <= total_len <= len(ip):
        return None
    if checksum(ip[:header_len]) or unpack("!H", ip[6:8])[0] & 0x3FFF or ip[9] != UDP or dst not in {OUTER_A, PUBLIC}:
        return None
    udp = ip[header_len:total_len]
    _, port, udp_len, udp_check = unpack("!HHHH", udp[:8])
    if port != PORT or not 8 <= udp_len <= len(udp) or (udp_check and not _may_be_right(src, dst, udp[:udp_len])):
        return None
    return udp[8:udp_len], src, ip[1] & 3


def _may_be_right(src: str, dst: str, udp: bytes) -> bool:
    """Return whether the checksum is right, or a neighbour on this host left it or the inner one to a device."""
    pseudo = pseudo_header(src, dst, UDP, len(udp))
    field = unpack("!H", udp[6:8])[0]
    if word_sum(pseudo + udp) == 0xFFFF or word_sum(pseudo) == field:
        return True
    inner = udp[8 + VXLAN_LEN + ETH_LEN :]
    if len(inner) < 20:
        return False
    l4_at, proto = (40, inner[6]) if inner[0] >> 4 == 6 else (20, inner[9])
    csum_at = l4_at + (16 if proto == TCP else 6)
    if proto not in {TCP, UDP} or len(inner) < csum_at + 2:
        return False
    partial = unpack("!H", inner[csum_at : csum_at + 2])[0]
    headers = udp[: 8 + VXLAN_LEN + ETH_LEN + l4_at]
    return word_sum(pseudo + headers + pack("!H", partial ^ 0xFFFF)) == 0xFFFF


def assert_decap_alike(packet: bytes, frame: bytes, table: Table, check: SourceCheck) -> Vtep:
    """Fail unless the daemon writes the same frame to the TAP that a program took out of the packet.

    Return the VTEP that the daemon counts it for.
    """
    arrived = received(packet)
    assert arrived is not None
    datagram, src, ecn = arrived
    decap, placed = Decap(VNI, OWN_MAC, check), place(datagram)
    about = from_outer(src, ecn)
    assert decap.decap(placed.buf, placed.at, placed.length, about, table) == FORWARD
    assert frame == placed.bytes_at(decap.frame_at, decap.frame_len)
    decap.find_source(about, table)
    return table.vtep_at(decap.vtep)
