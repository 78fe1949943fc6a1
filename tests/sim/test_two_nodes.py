"""Two nodes joined on loopback: what goes in at one TAP comes out at the other, or is answered, or counted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from scapy.layers import inet
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP as ARP_LAYER
from scapy.layers.l2 import Ether

from tests.fabric import ELSEWHERE, THERE, Node, run, two_nodes, two_nodes_v6
from tests.frames import (
    ARP,
    BROADCAST,
    HOST_MAC,
    ICMP,
    MAC_B,
    OWN_MAC,
    PLAIN,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    STRANGER,
    STRANGER6,
    UDP,
    arp,
    echo,
    ethernet,
    frame_of,
    from_b,
    ipv4,
    packet_of,
    solicitation,
    udp,
    vxlan,
)

Nodes = tuple[Node, Node]


def has_ipv6() -> bool:
    """Whether this machine's loopback has its IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=["IPv4 underlay", "IPv6 underlay"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """A and B, over either family."""
    if request.param == "IPv6 underlay" and not has_ipv6():
        pytest.skip("no ::1 here")
    with (two_nodes if request.param == "IPv4 underlay" else two_nodes_v6)() as pair:
        yield pair


@pytest.fixture
def pair() -> Iterator[Nodes]:
    """A and B over IPv4."""
    with two_nodes() as both:
        yield both


def drops(node: Node) -> dict[str, dict[str, int]]:
    """The drops of a node that are not zero, by direction and reason."""
    directions = {"encap": node.pump.encap_counters, "decap": node.pump.decap_counters}
    return {name: {k: v for k, v in counters.by_reason().items() if v} for name, counters in directions.items()}


def arrived(node: Node, count: int) -> Callable[[], bool]:
    """Whether so many frames have come out of a TAP."""
    return lambda: len(node.came) == count


QUIET: dict[str, dict[str, int]] = {"encap": {}, "decap": {}}


@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)])
def test_a_frame_crosses_and_its_answer_comes_back(nodes: Nodes, src: str, dst: str) -> None:
    """Both inner families over both outer ones; the MAC is rewritten for its VTEP, the rest is what was sent."""
    a, b = nodes
    request, reply = packet_of(src, dst, UDP, udp(src, dst, b"ping")), packet_of(dst, src, UDP, udp(dst, src, b"pong"))
    a.put(frame_of(request, HOST_MAC, OWN_MAC))
    run([a, b], arrived(b, 1))
    b.put(frame_of(reply, HOST_MAC, MAC_B))
    run([a, b], arrived(a, 1))
    assert b.came == [PLAIN + frame_of(request, MAC_B, OWN_MAC)]
    assert a.came == [PLAIN + from_b(reply)]
    assert drops(a) == drops(b) == QUIET


def test_many_frames_cross_in_order(nodes: Nodes) -> None:
    """500 of one flow, of all sizes up to the overlay MTU: none lost, none twice, none overtaken."""
    a, b = nodes
    frames = [frame_of(ipv4(POD_A, POD_B, ICMP, echo(bytes([i % 256]) * (i * 2))), MAC_B) for i in range(500)]
    for i in range(0, 500, 20):
        for frame in frames[i : i + 20]:
            a.put(frame)
        run([a, b], arrived(b, i + 20))
    assert b.frames() == frames
    assert a.pump.encap_counters.frames == b.pump.decap_counters.frames == 500
    assert a.pump.encap_counters.bytes == b.pump.decap_counters.bytes == sum(len(frame) for frame in frames)


@pytest.mark.parametrize("nbytes", [1422, 9000, 60000])
def test_large_frames_cross(nodes: Nodes, nbytes: int) -> None:
    """Just over an underlay of 1500 bytes, jumbo, close to what UDP can carry: nothing of ours is made for 1500."""
    a, b = nodes
    frame = frame_of(ipv4(POD_A, POD_B, ICMP, echo(bytes(range(251)) * 240)[:nbytes]), MAC_B)
    a.put(frame)
    run([a, b], arrived(b, 1))
    assert b.frames() == [frame]


@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)])
def test_ecn_survives_the_tunnel(nodes: Nodes, ecn: int, src: str, dst: str) -> None:
    """Copied to the outer header and merged back: where nothing was congested, nothing changes."""
    a, b = nodes
    frame = frame_of(packet_of(src, dst, UDP, udp(src, dst, b""), ecn), MAC_B)
    a.put(frame)
    run([a, b], arrived(b, 1))
    assert b.frames() == [frame]


def test_arp_is_answered_and_not_sent(nodes: Nodes) -> None:
    """The host behind A learns B's MAC from A."""
    a, b = nodes
    a.put(ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, "10.244.0.0", "10.244.1.0")))
    run([a, b], arrived(a, 1))
    reply = Ether(a.frames()[0])
    assert (reply.dst, reply[ARP_LAYER].hwsrc, reply[ARP_LAYER].psrc) == (
        "ce:5f:f6:73:cf:b9",
        "3a:87:cf:81:6a:ce",
        "10.244.1.0",
    )
    assert a.came[0][:10] == PLAIN
    assert a.pump.encap_counters.answers == 1
    assert a.pump.encap_counters.frames == b.pump.decap_counters.frames == 0
    assert drops(a) == QUIET


def test_a_solicitation_is_answered_and_not_sent(nodes: Nodes) -> None:
    """The same for IPv6."""
    a, b = nodes
    a.put(frame_of(solicitation(POD_B6, POD_A6), 0x3333FF00000D))
    run([a, b], arrived(a, 1))
    advertisement = Ether(a.frames()[0])
    assert (advertisement.src, advertisement[ICMPv6ND_NA].tgt) == ("3a:87:cf:81:6a:ce", POD_B6)
    assert a.pump.encap_counters.answers == 1
    assert drops(a) == QUIET


def test_an_unreachable_comes_back(nodes: Nodes) -> None:
    """For an address that no node leases, in both families; the drop is counted as well."""
    a, b = nodes
    lost = packet_of(POD_A, STRANGER, UDP, udp(POD_A, STRANGER, b"lost"))
    lost6 = packet_of(POD_A6, STRANGER6, UDP, udp(POD_A6, STRANGER6, b"lost"))
    a.put(frame_of(lost))
    a.put(frame_of(lost6))
    run([a, b], arrived(a, 2))
    error, error6 = (Ether(frame) for frame in a.frames())
    assert (error[IP].dst, error[inet.ICMP].type, bytes(error)[42:]) == (POD_A, 3, lost)
    assert (error6[IPv6].dst, error6[ICMPv6DestUnreach].type, bytes(error6)[62:]) == (POD_A6, 1, lost6)
    assert [raw[:10] for raw in a.came] == [PLAIN, PLAIN]
    assert drops(a) == {"encap": {"no_vtep": 2}, "decap": {}}
    assert a.pump.encap_counters.answers == 2


def test_an_unknown_source_is_refused(pair: Nodes) -> None:
    """A datagram that is right in every way, from an address that is no VTEP; turned off, the check lets it pass."""
    a, b = pair
    frame = frame_of(ipv4(POD_A, POD_B, ICMP, echo(b"forged")), MAC_B, OWN_MAC)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
        outsider.bind((ELSEWHERE, 0))
        outsider.sendto(vxlan(frame), (THERE, b.udp.port))
        run([a, b], lambda: drops(b) == {"encap": {}, "decap": {"unknown_vtep": 1}})
        assert b.came == []
        b.pump.check_source = False
        outsider.sendto(vxlan(frame), (THERE, b.udp.port))
        run([a, b], arrived(b, 1))
    assert b.frames() == [frame]
    assert drops(b) == {"encap": {}, "decap": {"unknown_vtep": 1}}


def test_a_frame_that_was_looped_back_is_refused(pair: Nodes) -> None:
    """B sends A what A sent: its own MAC is the source."""
    a, b = pair
    b.put(frame_of(ipv4(POD_A, POD_B, ICMP, echo(b"")), OWN_MAC, OWN_MAC))
    run([a, b], lambda: drops(a) == {"encap": {}, "decap": {"own_mac": 1}})
    assert a.came == []


def test_broadcast_stays_at_home(pair: Nodes) -> None:
    """Counted, neither sent nor answered; the frame after it crosses."""
    a, b = pair
    frame = frame_of(ipv4(POD_A, POD_B, ICMP, echo(b"")), MAC_B)
    a.put(ethernet(BROADCAST, OWN_MAC, 0x88CC, b"lldp"))
    a.put(frame)
    run([a, b], arrived(b, 1))
    assert (b.frames(), a.came) == ([frame], [])
    assert drops(a) == {"encap": {"bum": 1}, "decap": {}}
