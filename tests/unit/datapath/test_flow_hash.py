"""The source port of a flow: a hash of its addresses and ports, equal in both directions."""

from __future__ import annotations

import pytest

from tests.frames import (
    CANARIES,
    POD_A,
    POD_B,
    POD_B6,
    POD_C,
    POD_C6,
    TCP,
    UDP,
    VNI,
    frame_of,
    ipv4,
    packet_of,
    tcp,
    udp,
    udp_frame,
)
from tests.steps import encap_frame
from vxland.datapath.encap import Encap
from vxland.datapath.verdict import FORWARD


def port_of(frame: bytes, ports: int = 65536) -> int:
    """The index of the sending socket of a frame."""
    verdict, encap, _ = encap_frame(frame, Encap(VNI, ports))
    assert verdict == FORWARD
    return encap.port


@pytest.mark.parametrize(("here", "there", "proto", "build"), [
    (POD_B, POD_C, UDP, udp),
    (POD_B6, POD_C6, UDP, udp),
    (POD_B, POD_C, TCP, tcp),
    (POD_B6, POD_C6, TCP, tcp),
])  # fmt: skip
def test_both_directions_of_a_flow_take_one_port(here: str, there: str, proto: int, build: type) -> None:
    """As the kernel's symmetric flow hash; another port of the inner flow takes another one."""
    forth = frame_of(packet_of(here, there, proto, build(here, there, b"", sport=1234, dport=80)))
    back = frame_of(packet_of(there, here, proto, build(there, here, b"", sport=80, dport=1234)))
    other = frame_of(packet_of(here, there, proto, build(here, there, b"", sport=1235, dport=80)))
    assert port_of(forth) == port_of(back) != port_of(other)


def test_a_flow_keeps_its_port() -> None:
    """Payload, length and ECN are not hashed: a flow must not be reordered."""
    frames = [udp_frame(POD_A, POD_B, payload, ecn) for payload in (b"", b"x", bytes(1000)) for ecn in range(4)]
    assert len({port_of(frame) for frame in frames}) == 1


def test_fragments_of_a_packet_take_one_port() -> None:
    """Only the first has the inner ports, so none is hashed by them."""
    packet = udp(POD_A, POD_B, bytes(1000))
    pieces = [
        ipv4(POD_A, POD_B, UDP, packet[:504], fragment=0x2000),
        ipv4(POD_A, POD_B, UDP, packet[504:], fragment=63),
    ]
    assert len({port_of(frame_of(piece)) for piece in pieces}) == 1


def test_a_header_too_short_for_ports_is_hashed_without() -> None:
    """A UDP packet of 3 bytes; what lies behind it in the buffer does not count."""
    frame = frame_of(packet_of(POD_A, POD_B, UDP, b"\1\2\3"))
    ports = set()
    for canary in CANARIES:
        verdict, encap, _ = encap_frame(frame, Encap(VNI, 65536), after=canary)
        assert verdict == FORWARD
        ports.add(encap.port)
    assert len(ports) == 1


@pytest.mark.parametrize("ports", [1, 2, 3, 16])
def test_flows_spread_over_all_ports(ports: int) -> None:
    """Clients of one service, and pods of one subnet: each socket gets between half and twice its share."""
    clients = [frame_of(packet_of(POD_A, POD_B, UDP, udp(POD_A, POD_B, b"", sport=s))) for s in range(32768, 33792)]
    pods = [udp_frame(f"10.244.0.{i % 256}", f"10.244.1.{i // 4}") for i in range(1024)]
    pods6 = [udp_frame(f"fd00:244::{i % 256:x}", f"fd00:244:0:1::{i // 4:x}") for i in range(1024)]
    for flows in (clients, pods, pods6):
        taken = [port_of(frame, ports) for frame in flows]
        shares = [taken.count(port) for port in range(ports)]
        assert sum(shares) == 1024
        assert min(shares) >= 512 / ports
        assert max(shares) <= 2048 / ports
