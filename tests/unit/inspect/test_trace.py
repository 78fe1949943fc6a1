"""A trace shows what the data path does: the same verdicts, and datagrams that a peer accepts."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.frames import (
    LEASES_OF_A,
    MAC_B,
    OUTER_A,
    OUTER_B,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    STRANGER,
    peers_of_a,
)
from vxland.datapath.limits import Limits
from vxland.datapath.owners import Owners
from vxland.datapath.verdict import Drop
from vxland.inspect.flow import Flow
from vxland.inspect.reasons import REASONS
from vxland.inspect.side import TracedFastPath
from vxland.inspect.trace import Trace, TracedTunnel, trace
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Mac
from vxland.model.source_check import SourceCheck

PORTS = [40_000 + number for number in range(16)]

TABLE = peers_of_a()
OWNERS = Owners()
OWNERS.change((), LEASES_OF_A)
TUNNEL = TracedTunnel(
    device="flannel.1",
    networks=[ip_network("10.244.0.0/16"), ip_network("fd00:244::/48")],
    subnets=[ip_network("10.244.0.0/24"), ip_network("fd00:244::/64")],
    mac=Mac(OWN_MAC),
    mtu=1450,
    vni=1,
    address=ip_address(OUTER_A),
    source_ports=PORTS,
    carried=OuterHeader(),
    table=TABLE,
    owners=OWNERS,
    limits=Limits({}),
    check_source=SourceCheck.VTEP,
    direct=False,
    fast_path=TracedFastPath("datapath.fast_path is off"),
)
FAST_PATH = TracedFastPath(
    "",
    superframes=True,
    sends_to=lambda vtep: vtep in TABLE.vteps,
    receives_from=lambda vtep: vtep in TABLE.vteps,
)


def flow(src: str, dst: str, proto: str = "icmp", sport: int = 0, dport: int = 0) -> Flow:
    """A flow between addresses given as text."""
    return Flow(ip_address(src), ip_address(dst), proto, sport, dport)


def steps_of(found: Trace) -> dict[str, str]:
    """Each step of a trace by its name."""
    return dict(found.steps)


@pytest.mark.parametrize("proto", ["icmp", "tcp", "udp"])
@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)], ids=["v4", "v6"])
def test_forwards_to_the_vtep_of_the_subnet(src: str, dst: str, proto: str) -> None:
    """The outer headers lead to the VTEP, and what they carry is a whole packet of the flow, addressed to its MAC."""
    found = trace([TUNNEL], flow(src, dst, proto, 4000, 53))
    assert (found.direction, found.verdict, found.reason) == ("encap", "forward", "")
    outer = found.outer
    assert (outer["src"], outer["dst"], outer["udp_dst"], outer["ttl"], outer["vni"]) == (OUTER_A, OUTER_B, 8472, 64, 1)
    assert outer["udp_src"] in PORTS
    payload = bytes.fromhex(str(outer["payload"]))
    assert (outer["udp_length"], outer["length"]) == (8 + len(payload), 28 + len(payload))
    frame = VXLAN(payload)[Ether]
    assert (frame.dst, frame.src) == (str(Mac(MAC_B)), str(Mac(OWN_MAC)))
    packet = frame[IP if "." in src else IPv6]
    assert (packet.src, packet.dst) == (src, dst)
    layer = {"icmp": ICMP if "." in src else ICMPv6EchoRequest, "tcp": TCP, "udp": UDP}[proto]
    if proto != "icmp":
        assert (packet[layer].sport, packet[layer].dport) == (4000, 53)
    again = Ether(bytes(frame))
    for each in (again.getlayer(1), again[layer]):
        for name in {"chksum", "cksum"} & {field.name for field in each.fields_desc}:
            each.delfieldval(name)  # scapy fills in what is missing
    assert bytes(again) == bytes(frame)


def test_a_flow_keeps_its_source_port() -> None:
    """The same flow has the same port, and other flows have others."""
    ports = [trace([TUNNEL], flow(POD_A, POD_B, "udp", 1000 + i // 2, 53)).outer["udp_src"] for i in range(64)]
    assert ports[::2] == ports[1::2]
    assert len(set(ports)) > 4


def test_names_entry_vtep_and_mac() -> None:
    """Each step shows the numbers that it depends on."""
    said = steps_of(trace([TUNNEL], flow(POD_A, POD_B)))
    assert "10.244.0.0/24" in said["node"]
    assert "flannel.1" in said["device"]
    assert "10.244.1.0/24" in said["table"]
    assert "leases: 4" in said["table"]
    assert OUTER_B in said["vtep"]
    assert "neighbour entry of 10.244.1.0" in said["mac"]


def test_shows_the_outer_header_as_configured() -> None:
    """Fixed values, and with `inherit` the flow's own: an echo request of scapy's kind has TTL 64, DSCP 0, no DF."""
    fixed = replace(TUNNEL, carried=OuterHeader(ttl=9, dscp=46, df="set"))
    outer = trace([fixed], flow(POD_A, POD_B)).outer
    assert (outer["ttl"], outer["tos"], outer["df"], outer["vxlan_flags"]) == (9, 46 << 2, True, 0x08)
    inherited = replace(
        TUNNEL, carried=OuterHeader(df="inherit"), source_ports=[*PORTS, *(port + 100 for port in PORTS)]
    )
    assert trace([inherited], flow(POD_A6, POD_B6)).outer["df"]


def test_says_that_a_packet_would_be_too_big() -> None:
    """By the limits in force."""
    limits = Limits({ip_address(OUTER_B): 20})
    found = trace([replace(TUNNEL, carried=OuterHeader(df="set"), limits=limits)], flow(POD_A, POD_B))
    assert (found.verdict, found.reason) == ("drop", "too_big")
    assert POD_A in steps_of(found)["answer"]


def test_says_why_nothing_would_leave() -> None:
    """An address without a lease, and a multicast group: the drop, its remedy, and the answer to the sender."""
    found = trace([TUNNEL], flow(POD_A, STRANGER))
    assert (found.verdict, found.reason, found.remedy) == ("drop", "no_vtep", REASONS["no_vtep"].remedy)
    assert found.outer == {}
    assert "no lease holds" in steps_of(found)["table"]
    assert POD_A in steps_of(found)["answer"]
    for group in ("224.0.0.251", "255.255.255.255"):
        assert trace([TUNNEL], flow(POD_A, group, "udp", 5353, 5353)).reason == "bum"
    assert trace([TUNNEL], flow(POD_A6, "ff02::fb", "udp", 5353, 5353)).reason == "bum"


def test_lists_the_checks_of_a_peers_datagram() -> None:
    """From another node: the entry of its sender, and the checks in the order in which they are made."""
    found = trace([TUNNEL], flow(POD_B, POD_A))
    assert (found.direction, found.verdict) == ("decap", "forward")
    assert (found.outer["src"], found.outer["dst"], found.outer["udp_src"]) == (OUTER_B, OUTER_A, None)
    assert [step for step, _ in found.steps] == ["node", "table", "header", "source", "side", "inner", "host"]
    assert f"{OUTER_B} is a leased VTEP" in steps_of(found)["source"]
    assert "bridge" in steps_of(found)["host"]


def test_an_unknown_sender_passes_only_without_the_check() -> None:
    """A source that no lease holds: unknown_vtep, or forwarded where security.source_check is off."""
    found = trace([TUNNEL], flow(STRANGER, POD_A))
    assert (found.direction, found.verdict, found.reason) == ("decap", "drop", "unknown_vtep")
    found = trace([replace(TUNNEL, check_source=SourceCheck.OFF)], flow(STRANGER, POD_A))
    assert (found.verdict, steps_of(found)["source"]) == ("forward", "any sender: security.source_check is off")


def test_what_needs_no_tunnel() -> None:
    """Two pods of this node, a family that no device carries, and a packet of the node itself."""
    assert trace([TUNNEL], flow(POD_A, "10.244.0.20")).verdict == "local"
    only_v4 = replace(TUNNEL, networks=[ip_network("10.244.0.0/16")])
    assert trace([only_v4], flow(POD_A6, POD_B6)).verdict == "none"
    found = trace([TUNNEL], flow(OUTER_A, POD_B))
    assert (found.direction, found.verdict) == ("encap", "forward")
    assert "DirectRouting is on" in steps_of(trace([replace(TUNNEL, direct=True)], flow(POD_A, POD_B)))["route"]


@pytest.mark.parametrize(
    ("fast_path", "side", "said"),
    [
        (FAST_PATH, "program", "fast path: a program carries it; superframes of the flow too"),
        (
            replace(FAST_PATH, superframes=False),
            "program",
            "fast path: a program carries it; superframes of the flow go to the daemon, as the device below",
        ),
        (TracedFastPath("libbpf is not installed"), "daemon", "daemon; libbpf is not installed"),
        (replace(FAST_PATH, diverted=True), "daemon", "daemon; a capture runs, which shows all frames"),
        (
            replace(FAST_PATH, sends_to=lambda _: False),
            "daemon",
            "daemon; no program sends to this VTEP: two VTEPs have its MAC",
        ),
    ],
)
@pytest.mark.parametrize(("src", "dst"), [(POD_A, POD_B), (POD_A6, POD_B6)], ids=["v4", "v6"])
def test_the_side_that_sends_a_packet(fast_path: TracedFastPath, side: str, said: str, src: str, dst: str) -> None:
    """Datagrams of programs have no outer checksum; the source port is the same on both sides."""
    found = trace([replace(TUNNEL, fast_path=fast_path)], flow(src, dst, "udp", 4000, 53))
    assert (found.verdict, found.side) == ("forward", side)
    assert steps_of(found)["side"].startswith(said)
    assert found.outer["udp_checksum"] is (side == "daemon")
    assert found.outer["udp_src"] == trace([TUNNEL], flow(src, dst, "udp", 4000, 53)).outer["udp_src"]


def test_the_side_of_a_packet_beyond_the_mtu() -> None:
    """A peer's device may have a larger one; only the daemon's frames pass the TAP."""
    found = trace([replace(TUNNEL, mtu=20, fast_path=FAST_PATH)], flow(POD_B, POD_A))
    assert steps_of(found)["side"].startswith("daemon; it is bigger than the MTU of the device")


def test_the_side_of_what_only_the_daemon_decides() -> None:
    """A packet that the path carries in fragments only, and those that are dropped."""
    on = replace(TUNNEL, fast_path=FAST_PATH)
    narrow = replace(on, limits=Limits({ip_address(OUTER_B): 20}))
    found = trace([narrow], flow(POD_A, POD_B))
    assert (found.verdict, found.side) == ("forward", "daemon")
    assert steps_of(found)["side"] == "daemon; it is bigger than the path carries"
    for src, dst in ((POD_A, STRANGER), (POD_A, "224.0.0.251"), (STRANGER, POD_A)):
        found = trace([on], flow(src, dst))
        assert (found.verdict, found.side) == ("drop", "daemon")
        assert steps_of(found)["side"] == "daemon; programs drop and answer nothing"
    assert trace([on], flow(POD_A, "10.244.0.20")).side == ""


@pytest.mark.parametrize(
    ("fast_path", "side", "said"),
    [
        (
            FAST_PATH,
            "program",
            "fast path: a program carries it; aggregates of the flow go to the daemon",
        ),
        (replace(FAST_PATH, aggregates=True), "program", "fast path: a program carries it; aggregates of the flow too"),
        (TracedFastPath("the underlay is IPv6"), "daemon", "daemon; the underlay is IPv6"),
        (replace(FAST_PATH, diverted=True), "daemon", "daemon; a capture runs, which shows all frames"),
        (
            replace(FAST_PATH, receives_from=lambda _: False),
            "daemon",
            "daemon; no program receives from this VTEP: its interface has no Ethernet header, or the maps are full",
        ),
    ],
)
def test_the_side_that_receives_a_packet(fast_path: TracedFastPath, side: str, said: str) -> None:
    """A datagram of a known VTEP meets a program first; one of an unknown sender is the daemon's."""
    found = trace([replace(TUNNEL, fast_path=fast_path)], flow(POD_B, POD_A))
    assert (found.verdict, found.side) == ("forward", side)
    assert steps_of(found)["side"].startswith(said)
    unknown = replace(TUNNEL, fast_path=FAST_PATH, check_source=SourceCheck.OFF)
    found = trace([unknown], flow(STRANGER, POD_A))
    assert (found.verdict, found.side) == ("forward", "daemon")


def test_refuses_two_families() -> None:
    """No packet goes from IPv4 to IPv6."""
    with pytest.raises(VxlandError, match="different families"):
        flow(POD_A, POD_B6)


def test_every_reason_has_its_remedy() -> None:
    """Whatever trace may meet, it can say what to look at."""
    assert set(REASONS) == {drop.label for drop in Drop}
