"""Packets pass the rules of each flavour.

    pod                       node                            outside
  +------------------+      +----------------------------+      +-----------------------------+
  | eth0 10.244.1.5 -+------+- cni0 10.244.1.1           |      |                             |
  |                  |      |  up0  192.0.2.1 -----------+------+- eth0 192.0.2.2             |
  |                  |      |  lo   198.51.100.1         |      |  lo   10.244.2.5: a peer's  |
  +------------------+      +----------------------------+      |       pod, without tunnel   |
                                                                +-----------------------------+
In IPv6: fd00:244:1::5, 2001:db8::1, 2001:db8:51::1, fd00:244:2::5, and so on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from tests.netns.firewall import WANT, Backend, Node
from tests.netns.namespace import Netns
from tests.patience import PATIENCE_S
from vxland.firewall.rules import Family
from vxland.lab import shell

pytestmark = pytest.mark.netns


class Lab:
    """The three namespaces above."""

    def __init__(self, make: Callable[[], Netns], backend: Backend) -> None:
        self.pod, self.outside, ns = make(), make(), make()
        self.node = Node(ns, backend)
        for one in (self.pod, self.outside, ns):
            for scope in ("all", "default"):
                shell.set_sysctl(one.name, f"ipv6.conf.{scope}.accept_dad", 0)
        ns.ip(f"link add cni0 type veth peer name eth0 netns {self.pod.name}")
        ns.ip(f"link add up0 type veth peer name eth0 netns {self.outside.name}")
        shell.ip_batch(ns.name, NODE_SETUP)
        shell.ip_batch(self.pod.name, POD_SETUP)
        shell.ip_batch(self.outside.name, OUTSIDE_SETUP)
        for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            shell.set_sysctl(ns.name, key, 1)

    def seen(self, source: tuple[Netns, str], target: tuple[Netns, str]) -> str:
        """Return the source address of a datagram, as its receiver sees it."""
        with ExitStack() as stack:
            receiver = stack.enter_context(closing(bound(*target)))
            sender = stack.enter_context(closing(bound(*source)))
            sender.sendto(b"?", receiver.getsockname()[:2])
            return str(receiver.recvfrom(16)[1][0])


def bound(ns: Netns, address: str) -> socket.socket:
    """Open a UDP socket on an address of a namespace, usable from here."""

    async def main() -> socket.socket:
        return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)

    sock = ns.run_async(main, asyncio.run)
    sock.settimeout(PATIENCE_S)
    sock.bind((address, 0))
    return sock


NODE_SETUP = (
    "addr add 10.244.1.1/24 dev cni0",
    "addr add fd00:244:1::1/64 dev cni0 nodad",
    "addr add 192.0.2.1/24 dev up0",
    "addr add 2001:db8::1/64 dev up0 nodad",
    "addr add 198.51.100.1/32 dev lo",
    "addr add 2001:db8:51::1/128 dev lo nodad",
    "link set cni0 up",
    "link set up0 up",
    "route add 10.244.2.0/24 via 192.0.2.2",
    "route add fd00:244:2::/64 via 2001:db8::2",
)
POD_SETUP = (
    "addr add 10.244.1.5/24 dev eth0",
    "addr add fd00:244:1::5/64 dev eth0 nodad",
    "link set eth0 up",
    "route add default via 10.244.1.1",
    "route add ::/0 via fd00:244:1::1",
)
OUTSIDE_SETUP = (
    "addr add 192.0.2.2/24 dev eth0",
    "addr add 2001:db8::2/64 dev eth0 nodad",
    "addr add 10.244.2.5/32 dev lo",
    "addr add fd00:244:2::5/128 dev lo nodad",
    "link set eth0 up",
    "route add default via 192.0.2.1",
    "route add ::/0 via 2001:db8::1",
)
ADDRESSES: dict[Family, dict[str, str]] = {
    4: {
        "pod": "10.244.1.5",
        "node": "192.0.2.1",
        "other": "198.51.100.1",
        "outside": "192.0.2.2",
        "peer": "10.244.2.5",
    },
    6: {
        "pod": "fd00:244:1::5",
        "node": "2001:db8::1",
        "other": "2001:db8:51::1",
        "outside": "2001:db8::2",
        "peer": "fd00:244:2::5",
    },
}


@pytest.fixture
def lab(netns: Callable[[], Netns], backend: Backend) -> Lab:
    """The three namespaces, without any rule."""
    return Lab(netns, backend)


def test_masquerade_seen_from_outside(lab: Lab) -> None:
    """Outside hosts see the node's address; inside the network, and towards this node's pods, every source is kept."""
    ends = {"pod": lab.pod, "node": lab.node.ns, "other": lab.node.ns, "outside": lab.outside, "peer": lab.outside}

    def seen(source: str, target: str) -> dict[Family, str]:
        return {
            family: lab.seen((ends[source], at[source]), (ends[target], at[target])) for family, at in ADDRESSES.items()
        }

    def own(name: str) -> dict[Family, str]:
        return {family: at[name] for family, at in ADDRESSES.items()}

    assert seen("pod", "outside") == own("pod")
    lab.node.settle()
    assert seen("pod", "outside") == own("node")
    assert seen("pod", "peer") == own("pod")
    assert seen("peer", "pod") == own("peer")
    assert seen("outside", "pod") == own("outside")
    assert seen("other", "peer") == own("node")  # the rule that has no effect in flannel's nftables
    assert seen("other", "outside") == own("other")
    for kind in ("ip", "ip6"):
        script = f"add table {kind} t\nadd chain {kind} t c {{ type filter hook prerouting priority mangle; }}\n"
        rule = f"add rule {kind} t c meta mark set 0x4000\n"
        shell.run(*shell.exec_in(lab.node.ns.name, "nft", "-f", "-"), stdin=script + rule)
    assert seen("pod", "outside") == own("pod")  # kube-proxy masquerades the packets that it marked


@pytest.mark.parametrize("backend", ["nf_tables", "legacy"], indirect=True)
def test_pods_are_forwarded_with_a_policy_of_drop(lab: Lab) -> None:
    """With FORWARD's policy DROP nothing passes; with the rules, packets to and from the network do."""
    for tables in ("iptables", "ip6tables"):
        lab.node.ns.run(tables, "-P", "FORWARD", "DROP")
    for at in ADDRESSES.values():
        ping = shell.exec_in(lab.pod.name, "ping", "-c1", "-W0.5", "-n", at["outside"])
        assert shell.attempt(ping).returncode == 1
    lab.node.settle(replace(WANT, masquerade=False))
    for at in ADDRESSES.values():
        for target in ("outside", "peer"):
            lab.pod.run("ping", "-c1", f"-W{PATIENCE_S:.0f}", "-n", at[target])
