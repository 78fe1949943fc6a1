"""Written headers and frames read back the same, also through encap and decap."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frames import (
    HOST_MAC,
    MAC_B,
    OUTER_A,
    OUTER_B,
    OWN_MAC,
    UDP,
    checksum,
    ethernet,
    from_outer,
    ipv4,
    ipv6,
    lease,
    place,
    pseudo_header,
    udp,
    word_sum,
)
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.table import table_of
from vxland.datapath.verdict import FORWARD
from vxland.wire import ethernet as ethernet_hdr
from vxland.wire import virtio as virtio_hdr
from vxland.wire import vxlan as vxlan_hdr
from vxland.wire.bigendian import put_u16, put_u32, put_u64, u16_at, u32_at, u64_at
from vxland.wire.ip import Ip

U16, U48, U64, VNIS = (st.integers(0, (1 << bits) - 1) for bits in (16, 48, 64, 24))
KNOWN_TO_A = table_of([lease("0.0.0.0/0", OUTER_B, MAC_B), lease("::/0", OUTER_B, MAC_B)], 8472)
KNOWN_TO_B = table_of([lease("10.244.0.0/24", OUTER_A, OWN_MAC)], 8472)


@settings(deadline=None, max_examples=100)
@given(U64, st.integers(0, 7))
def test_bytes(value: int, at: int) -> None:
    """u_at(put_u(x)) is x for every width and place."""
    for put, get, bits in ((put_u16, u16_at, 16), (put_u32, u32_at, 32), (put_u64, u64_at, 64)):
        buf, x = bytearray(16), value >> 64 - bits
        put(buf, at, x)
        assert get(buf, at) == x
        assert int.from_bytes(buf, "big") == x << 8 * (16 - at) - bits


@settings(deadline=None, max_examples=100)
@given(VNIS, U48, U48, U16)
def test_headers(vni: int, dst: int, src: int, ethertype: int) -> None:
    """VXLAN and Ethernet."""
    buf = bytearray(22)
    vxlan_hdr.put_header(buf, 0, vni)
    ethernet_hdr.put_header(buf, 8, dst, src, ethertype)
    assert vxlan_hdr.has_vni(buf, 0)
    assert vxlan_hdr.vni_at(buf, 0) == vni
    assert (ethernet_hdr.mac_at(buf, 8), ethernet_hdr.mac_at(buf, 14), u16_at(buf, 20)) == (dst, src, ethertype)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 255), st.integers(0, 255), U16, U16, U16, U16)
def test_virtio(flags: int, gso_type: int, hdr_len: int, gso_size: int, start: int, offset: int) -> None:
    """Every field of the virtio header."""
    buf = bytearray(10)
    virtio_hdr.put_header(buf, 0, flags, gso_type, hdr_len, gso_size, start, offset)
    assert (buf[0], buf[1], virtio_hdr.needs_csum(buf, 0)) == (flags, gso_type, flags & 1 == 1)
    assert (virtio_hdr.le16_at(buf, 2), virtio_hdr.le16_at(buf, 4)) == (hdr_len, gso_size)
    assert (virtio_hdr.csum_start_at(buf, 0), virtio_hdr.csum_offset_at(buf, 0)) == (start, offset)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """IP packets of both families with any addresses, ECN and payload, most of them UDP."""
    payload = draw(st.binary(max_size=200))
    tos, proto = draw(st.integers(0, 255)), draw(st.sampled_from([UDP, UDP, 1, 6, 59, 132]))
    if draw(st.booleans()):
        src, dst = (str(IPv4Address(draw(st.integers(0, (1 << 32) - 1)))) for _ in range(2))
        l4 = udp(src, dst, payload, draw(U16), draw(U16)) if proto == UDP else payload
        return ipv4(src, dst, proto, l4, tos, draw(st.sampled_from([0, 0x4000, 0x2000, 0x2007])))
    src, dst = (str(IPv6Address(draw(st.integers(0, (1 << 128) - 1)))) for _ in range(2))
    l4 = udp(src, dst, payload, draw(U16), draw(U16)) if proto == UDP else payload
    return ipv6(src, dst, proto, l4, tos)


@settings(deadline=None, max_examples=200)
@given(packets(), st.sampled_from([HOST_MAC, MAC_B]), VNIS)
def test_decap_undoes_encap(packet: bytes, dst_mac: int, vni: int) -> None:
    """decap(encap(x)) is x with the VTEP's MAC: what A's TAP gave reaches B's, byte for byte."""
    frame = ethernet(dst_mac, OWN_MAC, 0x0800 if packet[0] >> 4 == 4 else 0x86DD, packet)
    here, encap = place(frame), Encap(vni, 16)
    assert encap.encap(here.buf, here.at, here.length, KNOWN_TO_A, 0) == FORWARD
    there, decap = place(here.bytes_at(here.at - 8, 8 + here.length)), Decap(vni, MAC_B, True)
    metadata = from_outer(OUTER_A, encap.marks)
    assert decap.decap(there.buf, there.at, there.length, metadata, KNOWN_TO_B) == FORWARD
    assert there.bytes_at(decap.frame_at, decap.frame_len) == ethernet(MAC_B, OWN_MAC, 0, b"")[:12] + frame[12:]


@settings(deadline=None, max_examples=150)
@given(packets(), st.integers(0, 3))
def test_the_parse_finds_what_was_built(packet: bytes, ecn: int) -> None:
    """Addresses and lengths, the pseudo-header's sum, and an ECN rewrite that keeps the header checksum right."""
    buf, ip = bytearray(packet), Ip()
    version = packet[0] >> 4
    assert ip.parse(buf, 0, len(packet), version)
    addresses = packet[12:20] if version == 4 else packet[8:40]
    src, dst = addresses[: len(addresses) // 2], addresses[len(addresses) // 2 :]
    assert (ip.src_hi << 64 | ip.src_lo, ip.dst_hi << 64 | ip.dst_lo) == (int.from_bytes(src), int.from_bytes(dst))
    kind = IPv4Address if version == 4 else IPv6Address
    assert ip.pseudo_sum() == word_sum(pseudo_header(str(kind(src)), str(kind(dst)), ip.proto, ip.end - ip.l4_at))
    ip.put_ecn(buf, ecn)
    again = Ip()
    assert again.parse(buf, 0, len(buf), version)
    assert again.ecn == ecn
    if version == 4:
        assert checksum(bytes(buf[:10] + b"\0\0" + buf[12:20])) == int.from_bytes(buf[10:12])
