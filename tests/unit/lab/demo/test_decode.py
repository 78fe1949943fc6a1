"""The walk-through's own datagrams, decoded field by field: reference/flannel-network-model.md section 6, ens33."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from vxland.lab.demo.decode import MAX_DEPTH, IcmpHeader, Ipv4Header, UdpHeader, VxlanHeader, decode
from vxland.model.lease import Mac

NODE_1, NODE_2 = Mac.parse("00:0c:29:49:39:91"), Mac.parse("00:0c:29:49:39:92")
VTEP_1, VTEP_2 = Mac.parse("ce:5f:f6:73:cf:b9"), Mac.parse("3a:87:cf:81:6a:ce")
POD_A, POD_C = IPv4Address("10.244.0.19"), IPv4Address("10.244.1.13")

REQUEST = bytes.fromhex("""
    4500 0086 528a 0000 4011 c78a c0a8 6f80
    c0a8 6f81 ec98 2118 0072 60d6 0800 0000
    0000 0100 3a87 cf81 6ace ce5f f673 cfb9
    0800 4500 0054 3bc0 4000 3f01 e8e1 0af4
    0013 0af4 010d 0800 2e59 0014 002f 788e
    50d5 0000 0000 0000 0000 0000 0000 0000
    0000 0000 0000 0000 0000 0000 0000 0000
    0000 0000 0000 0000 0000 0000 0000 0000
    0000 0000 0000
""")
REPLY = bytes.fromhex("""
    4500 0086 1f5a 0000 4011 faba c0a8 6f81
    c0a8 6f80 da83 2118 0072 88b6 0800 0000
    0000 0100 ce5f f673 cfb9 3a87 cf81 6ace
    0800 4500 0054 a434 0000 3f01 c06d 0af4
    010d 0af4 0013 0000 3659 0014 002f 788e
    50d5 0000 0000 0000 0000 0000 0000 0000
    0000 0000 0000 0000 0000 0000 0000 0000
    0000 0000 0000 0000 0000 0000 0000 0000
    0000 0000 0000
""")


def framed(datagram: bytes, src: Mac, dst: Mac) -> bytes:
    """Prepend the Ethernet header that tcpdump -X leaves out."""
    return dst.value.to_bytes(6, "big") + src.value.to_bytes(6, "big") + b"\x08\x00" + datagram


REQUEST_FRAME, REPLY_FRAME = framed(REQUEST, NODE_1, NODE_2), framed(REPLY, NODE_2, NODE_1)


def test_the_request_reads_as_tcpdump_reads_it() -> None:
    """Outer and inner headers of the echo request, with the outer checksum that tcpdump calls bad."""
    packet = decode(REQUEST_FRAME)
    assert packet.ethernet is not None
    assert (packet.ethernet.src, packet.ethernet.dst) == (NODE_1, NODE_2)
    assert packet.ipv4 == Ipv4Header(
        src=IPv4Address("192.168.111.128"),
        dst=IPv4Address("192.168.111.129"),
        ttl=64,
        ident=21130,
        tos=0,
        protocol=17,
        dont_fragment=False,
        fragment=False,
        total_len=134,
        checksum="ok",
    )
    assert packet.udp == UdpHeader(
        src_port=60568, dst_port=8472, length=114, checksum_value=0x60D6, checksum="unfilled"
    )
    assert packet.vxlan == VxlanHeader(flags=0x08, vni=1, reserved=0)
    inner = packet.inner
    assert inner is packet.innermost
    assert inner.ethernet is not None
    assert (inner.ethernet.src, inner.ethernet.dst) == (VTEP_1, VTEP_2)
    assert inner.ipv4 is not None
    assert (inner.ipv4.src, inner.ipv4.dst, inner.ipv4.ttl, inner.ipv4.ident) == (POD_A, POD_C, 63, 15296)
    assert inner.ipv4.dont_fragment
    assert inner.icmp == IcmpHeader(kind=8, code=0, ident=20, seq=47, checksum="ok")


def test_the_reply_reads_as_tcpdump_reads_it() -> None:
    """The echo reply from the other VTEP, with a correct outer checksum and DF clear inside too."""
    packet = decode(REPLY_FRAME)
    assert packet.ipv4 is not None
    assert (packet.ipv4.ttl, packet.ipv4.ident, packet.ipv4.dont_fragment) == (64, 8026, False)
    assert packet.udp == UdpHeader(src_port=55939, dst_port=8472, length=114, checksum_value=0x88B6, checksum="ok")
    inner = packet.innermost
    assert inner.ethernet is not None
    assert (inner.ethernet.src, inner.ethernet.dst) == (VTEP_2, VTEP_1)
    assert inner.ipv4 is not None
    assert (inner.ipv4.src, inner.ipv4.dst, inner.ipv4.ttl, inner.ipv4.ident) == (POD_C, POD_A, 63, 42036)
    assert inner.icmp == IcmpHeader(kind=0, code=0, ident=20, seq=47, checksum="ok")


@pytest.mark.parametrize("frame", [REQUEST_FRAME, REPLY_FRAME])
def test_every_byte_belongs_to_one_layer(frame: bytes) -> None:
    """The layers are contiguous, so the hex dump colours each byte once."""
    layers = decode(frame).layers
    assert [layer.name for layer in layers] == [
        *("Ethernet", "IPv4", "UDP", "VXLAN"),
        *("Ethernet", "IPv4", "ICMP", "payload"),
    ]
    at = 0
    for layer in layers:
        assert layer.at == at
        at += layer.length
    assert at == len(frame)


def test_fields_are_those_of_the_headers() -> None:
    """Names, offsets, lengths and values, of the outer IPv4, UDP and VXLAN headers as tcpdump -X lays them out."""
    found = {layer.name: layer.fields for layer in decode(REQUEST_FRAME).layers[:4]}
    assert [(field.name, field.at, field.length, field.value) for field in found["IPv4"]] == [
        ("version, header length", 14, 1, "version 4, 20 bytes"),
        ("DSCP, ECN", 15, 1, "DSCP 0, ECN 0"),
        ("total length", 16, 2, "134"),
        ("identification", 18, 2, "21130"),
        ("flags, fragment offset", 20, 2, "no flag, offset 0"),
        ("time to live", 22, 1, "64"),
        ("protocol", 23, 1, "17 UDP"),
        ("header checksum", 24, 2, "0xc78a, ok"),
        ("source", 26, 4, "192.168.111.128"),
        ("destination", 30, 4, "192.168.111.129"),
    ]
    assert [field.value for field in found["UDP"]] == ["60568", "8472", "114", "0x60d6, left to the device"]
    assert [(field.name, field.at, field.length, field.value) for field in found["VXLAN"]] == [
        ("flags", 42, 1, "0x08 I: the VNI is valid"),
        ("reserved", 43, 3, "zero"),
        ("VNI", 46, 3, "1"),
        ("reserved", 49, 1, "zero"),
    ]


@pytest.mark.parametrize(
    ("frame", "last"),
    [
        (REQUEST_FRAME + bytes(3), [("payload", 92, 56), ("padding", 148, 3)]),
        (REQUEST_FRAME[:12] + b"\x86\xdd" + REQUEST_FRAME[14:], [("Ethernet", 0, 14), ("unknown", 14, 134)]),
        (REQUEST_FRAME[:23] + b"\x06" + REQUEST_FRAME[24:], [("IPv4", 14, 20), ("unknown", 34, 114)]),
        (REQUEST_FRAME[:14] + b"\x46" + REQUEST_FRAME[15:], [("IPv4", 14, 24), ("UDP", 38, 8), ("payload", 46, 102)]),
        (REQUEST_FRAME[:16] + b"\0\0" + REQUEST_FRAME[18:], [("IPv4", 14, 20), ("padding", 34, 114)]),
    ],
    ids=["padding", "another EtherType", "another protocol", "options", "no length"],
)
def test_bytes_outside_headers_have_a_layer(frame: bytes, last: list[tuple[str, int, int]]) -> None:
    """Padding, unknown protocols and options have layers, and fields without gaps."""
    layers = decode(frame).layers
    assert [(layer.name, layer.at, layer.length) for layer in layers][-len(last) :] == last
    for layer in layers:
        assert sum(field.length for field in layer.fields) == layer.length


def test_nesting_is_bounded() -> None:
    """A capture of a thousand nested VXLAN headers is decoded to a fixed depth; the rest is payload."""
    head = REQUEST_FRAME[:16] + b"\xff\xff" + REQUEST_FRAME[18:50]
    frame = head * 1200
    layers = decode(frame).layers
    assert sum(layer.length for layer in layers) == len(frame)
    assert [layer.name for layer in layers].count("VXLAN") == MAX_DEPTH
    assert layers[-1].name == "payload"


@pytest.mark.parametrize("length", range(len(REQUEST_FRAME)))
def test_a_truncated_frame_has_fewer_headers(length: int) -> None:
    """Truncated anywhere, a frame decodes to its complete headers, and each byte still has its layer."""
    packet = decode(REQUEST_FRAME[:length])
    assert sum(layer.length for layer in packet.layers) == length
    for header, least in ((packet.ethernet, 14), (packet.ipv4, 34), (packet.udp, 42), (packet.vxlan, 50)):
        assert (header is not None) == (length >= least)
    assert (packet.innermost.icmp is not None) == (length >= 92)


def test_checksums_are_classified() -> None:
    """Correct, absent, left to the device, and wrong are four values."""
    found = {}
    for value in (0x76A1, 0, 0x60D6, 0x1234):  # 0x76a1 is the value tcpdump expected in the request
        frame = REQUEST_FRAME[:40] + value.to_bytes(2, "big") + REQUEST_FRAME[42:]
        udp = decode(frame).udp
        assert udp is not None
        found[value] = udp.checksum
    assert found == {0x76A1: "ok", 0: "zero", 0x60D6: "unfilled", 0x1234: "bad"}


def test_set_reserved_bits_are_decoded() -> None:
    """The 24 reserved bits and the last byte both count."""
    for at, reserved in ((43, 1 << 24), (49, 1)):
        frame = REQUEST_FRAME[:at] + b"\x01" + REQUEST_FRAME[at + 1 :]
        assert decode(frame).vxlan == VxlanHeader(flags=0x08, vni=1, reserved=reserved)


def test_another_port_is_not_vxlan() -> None:
    """UDP to a port that is not flannel's is payload."""
    packet = decode(REQUEST_FRAME[:36] + (4789).to_bytes(2, "big") + REQUEST_FRAME[38:])
    assert (packet.vxlan, packet.inner) == (None, None)
    assert packet.innermost is packet


def test_a_fragment_has_no_headers_above_ip() -> None:
    """A later fragment has no UDP header at that place."""
    packet = decode(REQUEST_FRAME[:20] + b"\x20\x00" + REQUEST_FRAME[22:])
    assert packet.ipv4 is not None
    assert packet.ipv4.fragment
    assert packet.udp is None


def test_json_is_plain() -> None:
    """The JSON object nests the encapsulated frame under `inner`."""
    found = decode(REQUEST_FRAME).as_json()
    assert found["vxlan"] == {"flags": 8, "vni": 1, "reserved": 0}
    inner = found["inner"]
    assert isinstance(inner, dict)
    assert inner["icmp"] == {"kind": 8, "code": 0, "ident": 20, "seq": 47, "checksum": "ok"}
    assert inner["ethernet"] == {"src": str(VTEP_1), "dst": str(VTEP_2), "ethertype": 0x0800}
