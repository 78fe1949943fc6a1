"""Filters: what each expression wants of a few frames, and what is said of one that means nothing."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from vxland.inspect.decode import Packet
from vxland.inspect.filter import FilterError, parse
from vxland.inspect.records import FrameRecord

A, B, C = ip_address("10.244.0.2"), ip_address("10.244.1.3"), ip_address("fd00::3")
OUTER = ip_address("192.168.1.2")


def record(direction: str, verdict: str = "forwarded") -> FrameRecord:
    """A record, of which only these fields count here."""
    outer = OUTER if direction == "encap" else None
    return FrameRecord(0, 0, direction, verdict, outer, 0, 0, is_datagram=False, vxlan=b"", frame=b"", length=0)


FRAMES = {
    "web": (record("encap"), Packet(None, None, 0x0800, A, B, "tcp", 40000, 80)),
    "reply": (record("decap"), Packet(None, None, 0x0800, B, A, "tcp", 80, 40000)),
    "dns": (record("encap", "no_vtep"), Packet(None, None, 0x0800, A, ip_address("10.9.9.9"), "udp", 80, 53)),
    "echo": (record("decap"), Packet(None, None, 0x86DD, C, C, "icmp6", icmp_type=128)),
    "arp": (record("decap", "answered"), Packet(None, None, 0x0806, A, B, "arp")),
    "odd": (record("encap", "bum"), Packet(None, None, 0x88B5)),
}
ALL = set(FRAMES)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ALL),
        ("tcp", {"web", "reply"}),
        ("icmp", {"echo"}),
        ("ip", {"web", "reply", "dns"}),
        ("ip6 or arp", {"echo", "arp"}),
        ("host 10.244.1.3", {"web", "reply", "arp"}),
        ("10.244.1.3", {"web", "reply", "arp"}),
        ("src host 10.244.1.3", {"reply"}),
        ("dst 10.244.1.3", {"web", "arp"}),
        ("net 10.244.0.0/16", {"web", "reply", "dns", "arp"}),
        ("dst net 10.9.0.0/16", {"dns"}),
        ("net fd00::/8", {"echo"}),
        ("port 80", {"web", "reply", "dns"}),
        ("src port 80", {"reply", "dns"}),
        ("udp dst port 53", {"dns"}),
        ("peer 192.168.1.2 and forwarded", {"web"}),
        ("dropped", {"dns", "odd"}),
        ("not dropped and not forwarded", {"arp"}),
        ("!(tcp || udp)", {"echo", "arp", "odd"}),
        ("not not tcp", {"web", "reply"}),
        ("tcp and (src port 80 or dst port 53) or decap and icmp", {"reply", "echo"}),
        ("encap && port 80 && !tcp", {"dns"}),
    ],
)
def test_expressions(text: str, names: set[str]) -> None:
    """And binds closer than or, and may be left out; aliases mean the same."""
    wanted = parse(text)
    assert {name for name, frame in FRAMES.items() if wanted(*frame)} == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host", "it ends too early"),
        ("tcp and", "it ends too early"),
        ("host pod-7", "'pod-7'"),
        ("port http", "'http'"),
        ("port 65536", "'65536'"),
        ("port -1", "'-1'"),
        ("net 10.0.0.0/33", "'10.0.0.0/33'"),
        ("(tcp", "not closed"),
        ("tcp)", "')'"),
        ("peer x", "'x'"),
        ("a & b", "'& b'"),
        ("(" * 60 + "tcp" + ")" * 60, "50 levels"),
    ],
)
def test_nonsense_is_named(text: str, said: str) -> None:
    """One line with the word that is wrong, and what to use."""
    with pytest.raises(FilterError) as raised:
        parse(text)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
