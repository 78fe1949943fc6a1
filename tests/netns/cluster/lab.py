"""A flannel cluster in its own namespaces.

      node a: vxland run     node b: vxland flanneld   node c: as by flanneld        node d: spare
     +--------------------+  +--------------------+   +--------------------+        +------------+
     | cni0, flannel.1    |  | cni0, flannel.1    |   | cni0, flannel.1    |        |            |
     | e0 192.168.111.128 |  | e0 192.168.111.129 |   | e0 192.168.111.130 |        | e0 ...131  |
     +---------|----------+  +---------|----------+   +---------|----------+        +-----|------+
     +---------|-----------------------|------------------------|-------------------------|------+
     | br0 192.168.111.254, fd00:111::fe: etcd, the nodes' default gateway                        |
     | lo  203.0.113.1, 2001:db8::1: outside the cluster                                          |
     | far 192.168.112.254, fd00:112::fe  -----------  e0 192.168.112.130 of a node that is `far` |
     +--------------------------------------------------------------------------------------------+

Every node but the spare one has a pod in a separate namespace, attached as the CNI plugin would by subnet.env. The
nodes also have fd00:111::128 and so on. The lab changes nothing outside these namespaces, and removes them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.netns.interop.daemon import Gear
from tests.netns.interop.lab import FAMILIES, Family
from tests.netns.interop.ns import Ns, wait_until
from tests.patience import PATIENCE_S
from vxland.lab import shell

from .fake_flanneld import FakeFlanneld, key, peers, value
from .node import Member, Node
from .store import Etcd
from .watch import Flow, Monitor

GATEWAY: Final[dict[Family, str]] = {4: "192.168.111.254", 6: "fd00:111::fe"}
OUTSIDE: Final[dict[Family, str]] = {4: "203.0.113.1", 6: "2001:db8::1"}
GHOST_MAC: Final = "0e:00:00:00:00:01"

MARKS: Final = {f"10.244.{number}.0" for number in range(210, 250)}
"""Subnets of peers that are added and removed only to see that a node follows."""

_numbers = itertools.count(1)
_marks = itertools.cycle(range(210, 250))


class Cluster:
    """Nodes, their underlay and their store; `conf` is flannel's configuration as a dictionary."""

    def __init__(self, directory: Path, conf: dict[str, object], letters: str, far: str = "") -> None:
        name = f"vxc-{os.getpid()}-{next(_numbers)}"
        self.directory = directory
        self.conf = conf
        self.families: Sequence[Family] = FAMILIES if "IPv6Network" in conf else (4,)
        self.net = Ns(name)
        self.etcd = Etcd(self.net, GATEWAY[4], directory / "etcd")
        self.nodes = {letter: Node(name, letter, far=letter in far) for letter in letters}
        self.members: dict[str, Member] = {}

    def build(self) -> None:
        """Make the namespaces and the underlay, and start the store."""
        self.net.create()
        self.net.batch(
            "link add br0 type bridge",
            "link set br0 up",
            *(f"addr add {address}/{length} dev br0" for address, length in ((GATEWAY[4], 24), (GATEWAY[6], 64))),
            *(f"addr add {address} dev lo" for address in OUTSIDE.values()),
        )
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            shell.set_sysctl(self.net.name, name, 1)
        for node in self.nodes.values():
            node.build(self.net)
        self.etcd.start()
        self.etcd.put("config", json.dumps(self.conf), 0)

    def down(self) -> None:
        """Stop the daemons, and remove every namespace."""
        try:
            running = self.running
            for member in running.values():
                member.send_signal(signal.SIGTERM)
            codes = {letter: member.wait() for letter, member in running.items()}
            assert not any(codes.values()), codes
            for member in self.members.values():
                assert "Traceback" not in member.log.read_text(), member.log.read_text()
        finally:
            self.etcd.stop()
            for node in self.nodes.values():
                node.pod_ns.delete()
                node.ns.delete()
            self.net.delete()

    @property
    def running(self) -> dict[str, Member]:
        """The members whose vxland runs."""
        return {letter: member for letter, member in self.members.items() if member.running}

    def member(self, letter: str, gear: Gear = "compiled", *, flags: bool = False) -> Member:
        """Return a vxland for a node, not started."""
        self.members[letter] = Member(self.nodes[letter], self.directory, self.etcd, gear, flags=flags)
        return self.members[letter]

    def flanneld(self, letter: str) -> FakeFlanneld:
        """Return a flanneld for a node, not started."""
        node = self.nodes[letter]
        return FakeFlanneld(node.ns, self.etcd, {family: node.underlay[family] for family in self.families})

    def remove(self, letter: str) -> None:
        """Stop a node's vxland, and remove its device and leases."""
        member = self.members[letter]
        member.stop()
        if "flannel.1" in member.ns.links():
            member.ns.ip("link delete flannel.1")
        address = self.nodes[letter].underlay[4]
        for name, text in self.etcd.subnets().items():
            if json.loads(text)["PublicIP"] == address:
                self.etcd.delete(f"subnets/{name}")

    def name_of(self, letter: str) -> str:
        """Return the last part of a node's key."""
        address = self.nodes[letter].underlay[4]
        (found,) = (name for name, text in self.etcd.subnets().items() if json.loads(text)["PublicIP"] == address)
        return found

    def ghost(self, number: int, mac: str = GHOST_MAC, **fields: str) -> tuple[str, str]:
        """Return key and lease of a nonexistent node: the number of its subnet, and the lease's further fields."""
        address = fields.get("address", f"192.168.111.{number}")
        return key({4: f"10.244.{number}.0/24"}), value({4: address}, {4: mac}, fields.get("backend", "vxlan"))

    def agree(self, what: str, instead: Mapping[str, str] = MappingProxyType({})) -> None:
        """Return once each running vxland's kernel has exactly the vxlan leases of the other nodes.

        `instead` has MACs by subnet that differ from the store's. Prints the time it took.
        """
        started = time.monotonic()
        entries = self.etcd.subnets()
        for letter, member in self.running.items():
            wanted = {subnet: mac for _, (subnet, _, mac) in peers(entries, self.name_of(letter))} | dict(instead)
            member.wait_for_peers(wanted)
        print(f"{what}: {time.monotonic() - started:.2f} s")  # noqa: T201  (-rP shows it)

    def heard(self) -> None:
        """Return once the running vxlands have received everything in the store so far."""
        name, text = self.ghost(next(_marks))
        subnet = name.replace("-", "/")
        self.etcd.put(f"subnets/{name}", text)
        for member in self.running.values():
            wait_until(partial(_knows, member, subnet, known=True), subnet, member.said)
        self.etcd.delete(f"subnets/{name}")
        for member in self.running.values():
            wait_until(partial(_knows, member, subnet, known=False), subnet, member.said)

    def reaches(self, letter: str, address: str) -> None:
        """Return once `address` answers pings of the node's pod."""
        ns, said = self.nodes[letter].pod_ns, self.members[letter].said
        wait_until(lambda: ns.attempt("ping", "-c1", "-W1", address).returncode == 0, f"{address} answers", said)

    @contextmanager
    def only(self, *subnets: str, between: str = "ab") -> Iterator[None]:
        """Assert that a and b change only routes and neighbours of `subnets`, and pods `between` lose no datagram."""
        bases = {subnet.partition("/")[0] for subnet in subnets} | MARKS
        near, far = (self.nodes[letter] for letter in between)
        with (
            Monitor(self.nodes["a"].ns) as at_a,
            Monitor(self.nodes["b"].ns) as at_b,
            Flow(near.pod_ns, near.pod[4], far.pod_ns, far.pod[4]),
        ):
            yield
            for monitor in (at_a, at_b):
                touched = [line for line in monitor.lines() if not bases & set(re.split("[ /]", line))]
                assert not touched, touched


def source_of(source: Ns, target: Ns, address: str) -> str:
    """Return the source address of a datagram from one namespace to another's `address`, after a reply."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.socket(address) as far, source.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as near:
        near.settimeout(PATIENCE_S)
        near.sendto(b"?", far.getsockname())
        _, whence = far.recvfrom(16)
        far.sendto(b"!", whence)
        assert near.recv(16) == b"!"
    return str(whence[0])


def _knows(member: Member, subnet: str, *, known: bool) -> bool:
    """Return whether the node has, or lacks, a route to the subnet."""
    return (subnet in member.node.peers()) is known
