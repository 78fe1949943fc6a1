"""The forwarding rule, one rule after the other, and the frame that results."""

from __future__ import annotations

from struct import pack

import pytest

from tests.frames import (
    ARP,
    BROADCAST,
    CANARIES,
    ETH_LEN,
    GROUP_MAC,
    HOST_MAC,
    IPV4,
    IPV6,
    LLDP,
    MAC_B,
    MAC_C,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    POD_C,
    POD_C6,
    STRANGER,
    STRANGER6,
    TCP,
    UDP,
    arp,
    ethernet,
    frame_of,
    ipv4,
    packet_of,
    place,
    tcp,
    udp,
    udp_frame,
)
from tests.steps import NOW_US, TABLE, B, C, encap_frame
from vxland.datapath.encap import Encap
from vxland.datapath.verdict import FORWARD, Drop


def forwarded(frame: bytes, virtio: bytes = bytes(10)) -> tuple[int, bytes]:
    """VTEP index and datagram of a frame that must be forwarded; no other byte of the buffer may have changed."""
    verdict, encap, placed = encap_frame(frame, virtio=virtio)
    assert verdict == FORWARD
    assert encap.answer_len == 0
    untouched = place(frame, virtio).buf
    assert placed.buf[: placed.at - 8] == untouched[: placed.at - 8]
    assert placed.buf[placed.at + len(frame) :] == untouched[placed.at + len(frame) :]
    return encap.vtep, placed.bytes_at(placed.at - 8, 8 + len(frame))


# Rule 2: a unicast destination MAC that names a VTEP decides.


@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6), (POD_A, STRANGER), (POD_A6, STRANGER6)])
def test_the_mac_of_a_vtep_decides_before_any_lease(src: str, dst: str) -> None:
    """The host's route chose C; the inner address lies in B's subnet, or in nobody's. The frame stays as it is."""
    frame = udp_frame(src, dst, dst_mac=MAC_C)
    vtep, datagram = forwarded(frame)
    assert vtep == C
    assert datagram == bytes.fromhex("08000000 00000100") + frame


@pytest.mark.parametrize("frame", [
    ethernet(MAC_B, OWN_MAC, LLDP, b"anything"),
    ethernet(MAC_B, OWN_MAC, IPV4, b""),
    ethernet(MAC_B, OWN_MAC, IPV6, ipv4(POD_A, POD_B, UDP, b"")),
])  # fmt: skip
def test_the_mac_of_a_vtep_decides_whatever_the_frame_carries(frame: bytes) -> None:
    """The overlay is an Ethernet: other protocols and broken packets go where their MAC says, marked Not-ECT."""
    verdict, encap, _ = encap_frame(udp_frame(POD_A, POD_B, ecn=3))
    assert (verdict, encap.marks) == (FORWARD, 3)
    assert encap_frame(frame, encap)[0] == FORWARD
    assert (encap.vtep, encap.marks) == (B, 0)


# Rule 3: otherwise the inner destination decides, and the frame gets its VTEP's MAC.


@pytest.mark.parametrize(("src", "dst", "vtep", "mac"), [
    (POD_A, POD_B, B, MAC_B),
    (POD_A, POD_C, C, MAC_C),
    (POD_A6, POD_B6, B, MAC_B),
    (POD_A6, POD_C6, C, MAC_C),
])  # fmt: skip
def test_the_subnet_decides_and_rewrites_the_mac(src: str, dst: str, vtep: int, mac: int) -> None:
    """Only the destination MAC changes."""
    frame = udp_frame(src, dst)
    found, datagram = forwarded(frame)
    assert found == vtep
    assert datagram == bytes.fromhex("08000000 00000100") + mac.to_bytes(6, "big") + frame[6:]


@pytest.mark.parametrize("vni", [0, 1, 4096, 0xFFFFFF])
def test_the_vni_is_the_overlays(vni: int) -> None:
    """All 24 bits of it."""
    placed = place(udp_frame(POD_A, POD_B))
    encap = Encap(vni, 16)
    assert encap.encap(placed.buf, placed.at, placed.length, TABLE, NOW_US) == FORWARD
    assert placed.bytes_at(placed.at - 8, 8) == b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"


# Rule 4: what is left is dropped.


@pytest.mark.parametrize("frame", [
    udp_frame(POD_A, POD_B, dst_mac=BROADCAST),
    udp_frame(POD_A, "224.0.0.251", dst_mac=0x01005E0000FB),
    udp_frame(POD_A6, POD_B6, dst_mac=GROUP_MAC),
    ethernet(BROADCAST, OWN_MAC, LLDP, b""),
    ethernet(BROADCAST, OWN_MAC, IPV4, b"broken"),
    ethernet(HOST_MAC, OWN_MAC, LLDP, b""),
    ethernet(HOST_MAC, OWN_MAC, ARP, arp(2, OWN_MAC, POD_A, POD_B)),
])  # fmt: skip
def test_groups_and_unknown_stations_are_bum(frame: bytes) -> None:
    """Groups even where the address is leased; frames that are not IP for a MAC that names no VTEP."""
    assert encap_frame(frame)[0] == Drop.BUM


# Malformed frames, ECN, partial checksums.


@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)])
def test_cut_short_at_every_length(src: str, dst: str) -> None:
    """A packet that ends early is malformed, wherever it ends, whatever lies behind it in the arena."""
    frame = udp_frame(src, dst)
    for length in range(len(frame)):
        for canary in CANARIES:
            verdict, _, placed = encap_frame(frame[:length], after=canary)
            assert verdict == Drop.INNER_MALFORMED
            assert placed.buf == place(frame[:length], after=canary).buf
        assert encap_frame(frame[:length], after=b"")[0] == Drop.INNER_MALFORMED


@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)])
@pytest.mark.parametrize("dst_mac", [MAC_B, HOST_MAC])
def test_ecn_is_copied_to_the_outer_header(ecn: int, src: str, dst: str, dst_mac: int) -> None:
    """RFC 6040 section 4.1, normal mode; the DSCP is not."""
    frame = frame_of(packet_of(src, dst, UDP, udp(src, dst, b""), ecn=46 << 2 | ecn), dst_mac)
    verdict, encap, _ = encap_frame(frame)
    assert (verdict, encap.marks) == (FORWARD, ecn)


@pytest.mark.parametrize(("src", "dst", "ip_len"), [(POD_A, POD_B, 20), (POD_A6, POD_B6, 40)])
@pytest.mark.parametrize(("build", "proto", "offset"), [(udp, UDP, 6), (tcp, TCP, 16)])
def test_a_partial_checksum_is_finished(src: str, dst: str, ip_len: int, build: type, proto: int, offset: int) -> None:
    """The kernel leaves a checksum to its device: it is finished before the frame leaves the node."""
    partial = frame_of(packet_of(src, dst, proto, build(src, dst, b"odd", partial=True)), MAC_B)
    whole = frame_of(packet_of(src, dst, proto, build(src, dst, b"odd")), MAC_B)
    virtio = pack("<BBHHHH", 1, 0, 0, 0, ETH_LEN + ip_len, offset)
    assert forwarded(partial, virtio)[1][8:] == whole
