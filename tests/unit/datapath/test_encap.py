"""The forwarding rule, DESIGN decision 2, one rule after the other; and what a frame becomes."""

from __future__ import annotations

from struct import pack

import pytest
from scapy.layers import inet, l2
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from tests.frames import (
    ARP,
    BROADCAST,
    CANARIES,
    ETH_LEN,
    HOST_MAC,
    ICMP,
    IPV4,
    IPV6,
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
    VNI,
    arp,
    echo,
    ethernet,
    frame_of,
    ipv4,
    packet_of,
    place,
    solicitation,
    tcp,
    udp,
    udp_frame,
)
from tests.steps import NOW_US, TABLE, encap_frame
from vxland.datapath.encap import Encap
from vxland.datapath.table import Table
from vxland.datapath.verdict import FORWARD, Drop

ANSWERED = -1
B, C = 0, 1
GROUP_MAC = 0x3333FF00000D
LLDP = 0x88CC


def forwarded(frame: bytes, virtio: bytes = bytes(10)) -> tuple[int, bytes]:
    """VTEP index and datagram of a frame that must be forwarded; no other octet of the buffer may have changed."""
    verdict, encap, placed = encap_frame(frame, virtio=virtio)
    assert verdict == FORWARD
    assert encap.answer_len == 0
    untouched = place(frame, virtio).buf
    assert placed.buf[: placed.at - 8] == untouched[: placed.at - 8]
    assert placed.buf[placed.at + len(frame) :] == untouched[placed.at + len(frame) :]
    return encap.vtep, placed.bytes_at(placed.at - 8, 8 + len(frame))


def answer(frame: bytes, verdict: int = ANSWERED) -> bytes:
    """The frame that answers another; its virtio header fits before it."""
    got, encap, placed = encap_frame(frame)
    assert got == verdict
    assert encap.answer_len > 0
    assert encap.answer_at >= 10
    return placed.bytes_at(encap.answer_at, encap.answer_len)


def unanswered(frame: bytes) -> int:
    """The verdict about a frame that no answer is written for."""
    verdict, encap, _ = encap_frame(frame)
    assert encap.answer_len == 0
    return verdict


# Rule 1: questions about leased subnets are answered from the table.


@pytest.mark.parametrize("dst_mac", [BROADCAST, MAC_B, MAC_C, HOST_MAC])
def test_arp_for_a_leased_subnet_is_answered(dst_mac: int) -> None:
    """With its VTEP's MAC, whoever was asked: the host's kernel probes known neighbours by unicast."""
    reply = Ether(answer(ethernet(dst_mac, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", POD_B))))
    assert (reply.dst, reply.src, reply[l2.ARP].op) == ("ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce", 2)
    assert (reply[l2.ARP].psrc, reply[l2.ARP].hwsrc) == (POD_B, "3a:87:cf:81:6a:ce")


def test_arp_for_another_subnet_is_not_answered() -> None:
    """Nobody owns the address: broadcast has nowhere to go."""
    assert unanswered(ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", STRANGER))) == Drop.BUM


def test_an_arp_reply_to_a_vtep_is_forwarded() -> None:
    """It is no question; rule 2 decides by its MAC."""
    frame = ethernet(MAC_C, OWN_MAC, ARP, arp(2, OWN_MAC, "10.244.0.0", POD_B, MAC_C))
    assert forwarded(frame)[0] == C


@pytest.mark.parametrize("dst_mac", [GROUP_MAC, MAC_C])
@pytest.mark.parametrize("option", [b"", b"\x01\x01" + OWN_MAC.to_bytes(6, "big")])
def test_a_solicitation_for_a_leased_subnet_is_answered(dst_mac: int, option: bytes) -> None:
    """By group or, as a probe, by unicast."""
    reply = Ether(answer(frame_of(solicitation(POD_B6, POD_A6, option), dst_mac)))
    assert (reply.dst, reply[IPv6].dst) == ("ce:5f:f6:73:cf:b9", POD_A6)
    assert (reply[ICMPv6ND_NA].tgt, reply[ICMPv6NDOptDstLLAddr].lladdr) == (POD_B6, "3a:87:cf:81:6a:ce")


def test_other_solicitations_are_dropped() -> None:
    """For an address that nobody leases, and duplicate address detection even of a leased one."""
    assert unanswered(frame_of(solicitation(STRANGER6, POD_A6), GROUP_MAC)) == Drop.BUM
    assert unanswered(frame_of(solicitation(POD_B6, "::"), GROUP_MAC)) == Drop.BUM


def test_an_answer_is_written_once() -> None:
    """The next frame's verdict does not carry the last one's answer."""
    encap = Encap(VNI, 16)
    encap_frame(ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", POD_B)), encap)
    assert encap.answer_len > 0
    for frame in (b"", udp_frame(POD_A, POD_B), ethernet(BROADCAST, OWN_MAC, LLDP, b"")):
        encap_frame(frame, encap)
        assert encap.answer_len == 0


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
    assert unanswered(frame) == Drop.BUM


def test_a_packet_that_no_lease_covers_is_answered_with_an_error() -> None:
    """ICMP net unreachable for the sender, at the MAC it wrote from, quoting what it sent."""
    packet = packet_of(POD_A, STRANGER, UDP, udp(POD_A, STRANGER, b"payload"))
    error = Ether(answer(frame_of(packet), Drop.NO_VTEP))
    assert (error.dst, error.src) == ("ce:5f:f6:73:cf:b9", "e6:62:4d:8e:51:21")
    assert (error[IP].dst, error[inet.ICMP].type, error[inet.ICMP].code) == (POD_A, 3, 0)
    assert bytes(error)[ETH_LEN + 28 :] == packet


def test_an_ipv6_packet_that_no_lease_covers_is_answered_with_an_error() -> None:
    """ICMPv6 no route to destination, at the least length and beyond what fits."""
    for payload in (b"", bytes(2000)):
        packet = packet_of(POD_A6, STRANGER6, UDP, udp(POD_A6, STRANGER6, payload))
        error = Ether(answer(frame_of(packet), Drop.NO_VTEP))
        assert (error[IPv6].dst, error[ICMPv6DestUnreach].code) == (POD_A6, 0)
        assert bytes(error)[ETH_LEN + 48 :] == packet[:1232]


@pytest.mark.parametrize("frame", [
    frame_of(ipv4(POD_A, STRANGER, ICMP, echo(b"", 3))),
    frame_of(ipv4(POD_A, STRANGER, UDP, bytes(16), fragment=5)),
    frame_of(packet_of("0.0.0.0", STRANGER, UDP, bytes(16))),  # noqa: S104  (nothing is bound)
    frame_of(packet_of(POD_A, "224.0.0.1", UDP, bytes(16))),
    frame_of(packet_of("::", STRANGER6, UDP, bytes(16))),
    frame_of(packet_of(POD_A6, "ff02::1", UDP, bytes(16))),
])  # fmt: skip
def test_what_may_have_no_error_is_dropped_in_silence(frame: bytes) -> None:
    """RFC 1122 section 3.2.2: errors, later fragments, groups, and senders that are no one host."""
    assert unanswered(frame) == Drop.NO_VTEP


def test_errors_are_limited_by_the_time_given() -> None:
    """A burst of 50, then 1000 a second, as the kernel's icmp_msgs_burst and icmp_msgs_per_sec; the drop is counted."""
    encap = Encap(VNI, 16)
    lost = udp_frame(POD_A, STRANGER)

    def answered(now_s: float) -> bool:
        assert encap_frame(lost, encap, now_us=int(now_s * 1_000_000))[0] == Drop.NO_VTEP
        return encap.answer_len > 0

    assert [answered(5000.0) for _ in range(52)] == [True] * 50 + [False] * 2
    assert [answered(5000.0 + 1 / 512) for _ in range(3)] == [True, False, False]
    assert [answered(6000.0) for _ in range(52)] == [True] * 50 + [False] * 2


def test_packets_that_have_no_error_cost_none() -> None:
    """A flood of them does not silence the errors of others."""
    encap = Encap(VNI, 16)
    for _ in range(100):
        encap_frame(frame_of(ipv4(POD_A, STRANGER, ICMP, echo(b"", 3))), encap)
    assert encap_frame(udp_frame(POD_A, STRANGER), encap)[0] == Drop.NO_VTEP
    assert encap.answer_len > 0


def test_an_empty_table_drops_everything() -> None:
    """A node without peers."""
    for frame, reason in (
        (udp_frame(POD_A, POD_B), Drop.NO_VTEP),
        (ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B)), Drop.BUM),
    ):
        placed = place(frame)
        assert Encap(VNI, 16).encap(placed.buf, placed.at, placed.length, Table([], 8472), NOW_US) == reason


# What surrounds the rules: malformed frames, ECN, ports, partial checksums.


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


@pytest.mark.parametrize("question", [
    ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", POD_B)),
    frame_of(solicitation(POD_B6, POD_A6), GROUP_MAC),
])  # fmt: skip
def test_a_question_cut_short_is_none(question: bytes) -> None:
    """No answer to half a question, whatever lies behind it."""
    for length in range(len(question)):
        verdicts = set()
        for canary in (question[length:] + bytes(8), *CANARIES):
            verdict, encap, _ = encap_frame(question[:length], after=canary)
            verdicts.add(verdict)
            assert encap.answer_len == 0
        assert verdicts == {Drop.INNER_MALFORMED if length < ETH_LEN else Drop.BUM}


@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)])
@pytest.mark.parametrize("dst_mac", [MAC_B, HOST_MAC])
def test_ecn_is_copied_to_the_outer_header(ecn: int, src: str, dst: str, dst_mac: int) -> None:
    """RFC 6040 section 4.1, normal mode; the DSCP is not."""
    frame = frame_of(packet_of(src, dst, UDP, udp(src, dst, b""), ecn=46 << 2 | ecn), dst_mac)
    verdict, encap, _ = encap_frame(frame)
    assert (verdict, encap.marks) == (FORWARD, ecn)


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
    """A UDP packet of 3 octets; what lies behind it in the buffer does not count."""
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


@pytest.mark.parametrize(("src", "dst", "ip_len"), [(POD_A, POD_B, 20), (POD_A6, POD_B6, 40)])
@pytest.mark.parametrize(("build", "proto", "offset"), [(udp, UDP, 6), (tcp, TCP, 16)])
def test_a_partial_checksum_is_finished(src: str, dst: str, ip_len: int, build: type, proto: int, offset: int) -> None:
    """What the kernel leaves to its device is done before the frame leaves the node."""
    partial = frame_of(packet_of(src, dst, proto, build(src, dst, b"odd", partial=True)), MAC_B)
    whole = frame_of(packet_of(src, dst, proto, build(src, dst, b"odd")), MAC_B)
    virtio = pack("<BBHHHH", 1, 0, 0, 0, ETH_LEN + ip_len, offset)
    assert forwarded(partial, virtio)[1][8:] == whole
