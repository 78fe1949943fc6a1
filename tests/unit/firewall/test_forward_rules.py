"""FORWARD rules are evaluated as the kernel does; only a certain loss is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network

import pytest

from vxland.firewall.forward_rules import ForwardedPacket, Rule, iptables_rule, is_lost, nft_rule

PACKET = ForwardedPacket(ip_network("10.244.0.0/24"), ip_network("10.244.0.0/16"), "cni0", "flannel.1")
PACKET6 = ForwardedPacket(ip_network("fd00:10:244:10::/64"), ip_network("fd00:10:244::/48"), "cni0", "flannel.1")

FLANNELS = (
    '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
    '-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
)
KUBE_PROXYS = (
    '-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes" -j KUBE-PROXY-FIREWALL',
    "-A FORWARD -j KUBE-FORWARD",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A KUBE-PROXY-FIREWALL -j RETURN",
)
DOCKERS = (
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
    "-A DOCKER-USER -j RETURN",
)


def lost(lines: Sequence[str], policy: str, packet: ForwardedPacket = PACKET) -> bool:
    """Return whether lines of iptables -S certainly lose the packet."""
    chains: dict[str, list[Rule]] = {"FORWARD": []}
    for line in lines:
        rules = chains.setdefault(line.split()[1], [])
        if (rule := iptables_rule(line, packet)) is not None:
            rules.append(rule)
    return is_lost(chains, "FORWARD", policy)


@pytest.mark.parametrize(
    ("lines", "policy", "expected"),
    [
        ((), "drop", True),
        ((), "accept", False),
        (FLANNELS, "drop", False),
        (KUBE_PROXYS, "drop", True),
        ((*KUBE_PROXYS, *FLANNELS), "drop", False),
        (DOCKERS, "drop", True),
        (("-A FORWARD -m conntrack --ctstatus DNAT -j ACCEPT",), "drop", True),
        (("-A FORWARD -m conntrack --ctstatus NONE -j ACCEPT",), "drop", False),
        (("-A FORWARD -i cni0 -o flannel.1 -j DROP",), "accept", True),
        (("-A FORWARD -i cni+ -j REJECT --reject-with icmp-port-unreachable",), "accept", True),
        (("-A FORWARD ! -i cni0 -j DROP",), "accept", False),
        (("-A FORWARD -d 10.244.3.0/24 -j DROP",), "accept", False),
        (("-A FORWARD -s 10.0.0.0/8 -j ACCEPT",), "drop", False),
        (("-A FORWARD -s fd00::/8 -j ACCEPT",), "drop", True),
        (("-A FORWARD -p tcp -m tcp --dport 80 -j ACCEPT",), "drop", False),
        (("-A FORWARD -m set --match-set pods src -j ACCEPT",), "drop", False),
        (("-A FORWARD -j LOG --log-prefix x", "-A LOG -j DROP"), "accept", True),
        (("-A FORWARD -j LOG --log-prefix x",), "drop", False),
        (("-A FORWARD -j A", "-A A -j B", "-A B -j RETURN", "-A A -g C", "-A C -s 1.2.3.4/32 -j DROP"), "drop", True),
        (("-A FORWARD -j A", "-A A -j A"), "drop", False),
        (('-A FORWARD -m comment --comment "unclosed',), "drop", True),
        (('-A FORWARD -m comment --comment "a \\" -j ACCEPT" -j DROP',), "accept", True),
        (("-A FORWARD -m comment --comment -j -j DROP",), "accept", True),
    ],
)
def test_iptables(lines: Sequence[str], policy: str, expected: bool) -> None:
    """Marks are 0 and connections new; an unknown match may hold, and a loop ends."""
    assert lost(lines, policy) is expected


UFWS = (
    "-A FORWARD -j ufw-before-forward",
    "-A FORWARD -j ufw-after-logging-forward",
    "-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT",
    "-A ufw-before-forward -j ufw-user-forward",
    "-A ufw-user-forward -p udp -m udp --dport 53 -j ACCEPT",
    "-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j ufw-user-forward",
)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (UFWS, True),
        ((*UFWS, "-A ufw-user-forward -p tcp -m tcp --dport 80 -j ACCEPT"), False),
        ((*UFWS, "-A ufw-user-forward -p 6 -j ACCEPT"), False),
        ((*UFWS, "-A ufw-user-forward ! -p tcp -j ACCEPT"), True),
        ((*UFWS, "-A ufw-user-forward ! -p udp -j ACCEPT"), False),
        ((*UFWS, "-A ufw-user-forward -p all -j ACCEPT"), False),
    ],
)
def test_tcp_alone(lines: Sequence[str], expected: bool) -> None:
    """With ufw's rules pings pass, and every connection of pods is lost: nothing was reported."""
    assert not lost(lines, "drop")
    assert lost(lines, "drop", replace(PACKET, proto="tcp")) is expected


def test_a_bridge_that_is_not_known() -> None:
    """Without pods there is no bridge yet, so a rule about an interface may hold."""
    packet = ForwardedPacket(PACKET.src, PACKET.dst, "", "flannel.1")
    assert not lost(("-A FORWARD -i br0 -j ACCEPT",), "drop", packet)
    assert lost((), "drop", packet)


ACCEPT = {"accept": None}
RULES = {
    "accepted": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "cni0"}}, {"accept": None}],
    "other": [
        {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["a", "b*"]}}},
        {"accept": None},
    ],
    "prefix": [
        {
            "match": {
                "op": "==",
                "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                "right": {"prefix": {"addr": "10.244.0.0", "len": 16}},
            }
        },
        {"counter": {"packets": 0, "bytes": 0}},
        {"accept": None},
    ],
    "l4proto": [
        {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["icmp", "udp"]}}},
        ACCEPT,
    ],
    "l4proto tcp": [{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}, ACCEPT],
    "protocol": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "icmp"}},
        ACCEPT,
    ],
    "icmp": [
        {"match": {"op": "!=", "left": {"payload": {"protocol": "icmp", "field": "type"}}, "right": "redirect"}},
        ACCEPT,
    ],
    "translated": [{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, ACCEPT],
    "not": [{"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "flannel.1"}}, {"accept": None}],
    "established": [
        {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
        {"accept": None},
    ],
    "v6": [{"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv6"}}, {"accept": None}],
    "port": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
        {"accept": None},
    ],
    "map": [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": []}}}],
    "counter": [{"counter": {"packets": 0, "bytes": 0}}],
    "named set": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@lan"}}, {"accept": None}],
    "named states": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "@states"}}, {"accept": None}],
    "flags": [
        {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": {"|": ["established", "related"]}}},
        {"accept": None},
    ],
    "bits": [
        {"match": {"op": "==", "left": {"&": [{"payload": {"protocol": "ip", "field": "daddr"}}, 1]}, "right": 1}},
        {"accept": None},
    ],
    "fib": [
        {"match": {"op": "==", "left": {"fib": {"result": "type", "flags": "daddr"}}, "right": "local"}},
        {"accept": None},
    ],
    "no object": [7, "match", {"match": "all"}, {"accept": None}],
    "bodies": [{"match": {"op": "==", "left": {"meta": "mark", "payload": [1]}, "right": None}}, {"accept": None}],
    "jump nowhere": [{"jump": "there"}],
    "xt": [{"xt": {"type": "match", "name": "comment"}}, {"accept": None}],
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l4proto", True),
        ("l4proto tcp", False),
        ("protocol", True),
        ("icmp", True),
        ("port", False),
        ("named set", False),
    ],
)
def test_tcp_alone_in_nftables(name: str, expected: bool) -> None:
    """A rule that accepts another protocol accepts no TCP."""
    for packet, is_lost_there in ((PACKET, False), (replace(PACKET, proto="tcp"), expected)):
        rule = nft_rule(json.loads(json.dumps(RULES[name])), packet)
        assert is_lost({"forward": [] if rule is None else [rule]}, "forward", "drop") is is_lost_there


@pytest.mark.parametrize(
    ("name", "v4", "v6"),
    [
        ("accepted", False, False),
        ("other", True, True),
        ("prefix", False, True),
        ("not", True, True),
        ("translated", True, True),
        ("established", True, True),
        ("v6", True, False),
        ("port", False, False),
        ("map", False, False),
        ("counter", True, True),
        ("named set", False, False),
        ("named states", False, False),
        ("flags", True, True),
        ("bits", False, False),
        ("fib", False, False),
        ("no object", False, False),
        ("bodies", False, False),
        ("jump nowhere", False, False),
        ("xt", False, False),
    ],
)
def test_nftables_behind_a_policy_of_drop(name: str, v4: bool, v6: bool) -> None:
    """Each rule alone decides whether the packet is certainly lost, in both families."""
    for packet, expected in ((PACKET, v4), (PACKET6, v6)):
        rule = nft_rule(json.loads(json.dumps(RULES[name])), packet)
        assert is_lost({"forward": [] if rule is None else [rule]}, "forward", "drop") is expected
