"""A flannel cluster in namespaces of its own.

      node a: vxland run     node b: vxland flanneld   node c: as flanneld leaves it   node d: spare
     +--------------------+  +--------------------+   +--------------------+        +------------+
     | cni0, flannel.1    |  | cni0, flannel.1    |   | cni0, flannel.1    |        |            |
     | e0 192.168.111.128 |  | e0 192.168.111.129 |   | e0 192.168.111.130 |        | e0 ...131  |
     +---------|----------+  +---------|----------+   +---------|----------+        +-----|------+
     +---------|-----------------------|------------------------|-------------------------|------+
     | br0 192.168.111.254, fd00:111::fe: etcd, the nodes' default gateway                        |
     | lo  203.0.113.1, 2001:db8::1: the world outside the cluster                                |
     | far 192.168.112.254, fd00:112::fe  -----------  e0 192.168.112.130 of a node that is `far` |
     +--------------------------------------------------------------------------------------------+

Every node but the spare one has a pod, in a namespace of its own, attached as the CNI plugin would by subnet.env. Nodes
are fd00:111::128 and so on, too. Nothing outside these namespaces is touched, and they go with the lab.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.netns.interop.lab import FAMILIES, UNDERLAY_MTU, Daemon, Family, Gear, Ns, wait_until
from vxland.demo import shell

from .standin import DEVICE, Flanneld, key, peers, value
from .store import Etcd
from .watch import Flow, Monitor

GATEWAY: Final[dict[Family, str]] = {4: "192.168.111.254", 6: "fd00:111::fe"}
OUTSIDE: Final[dict[Family, str]] = {4: "203.0.113.1", 6: "2001:db8::1"}
METRICS_PORT: Final = 9472
GHOST_MAC: Final = "0e:00:00:00:00:01"

MARKS: Final = {f"10.244.{number}.0" for number in range(210, 250)}
"""Subnets of peers that come and go only for it to be seen that they did."""

_ENV: Final[tuple[tuple[Family, str, str], ...]] = (
    (4, "FLANNEL_SUBNET", "default"),
    (6, "FLANNEL_IPV6_SUBNET", "::/0"),
)
_numbers = itertools.count(1)
_marks = itertools.cycle(range(210, 250))


class Node:
    """One node: its namespaces, its addresses by IP version, and, once attached, its pod's."""

    def __init__(self, name: str, letter: str, *, far: bool = False) -> None:
        number = 128 + ord(letter) - ord("a")
        net = 112 if far else 111
        self.letter = letter
        self.far = far
        self.ns = Ns(f"{name}-{letter}")
        self.pod_ns = Ns(f"{name}-{letter}-pod")
        self.underlay: dict[Family, str] = {4: f"192.168.{net}.{number}", 6: f"fd00:{net}::{number}"}
        self.gateway: dict[Family, str] = {4: f"192.168.{net}.254", 6: f"fd00:{net}::fe"}
        self.pod: dict[Family, str] = {}
        self.mtu = 0

    def build(self, net: Ns) -> None:
        """The node's end of the underlay, and its pod's namespace."""
        self.ns.create()
        self.pod_ns.create()
        port = f"e-{self.letter}"
        net.batch(
            f"link add {port} mtu {UNDERLAY_MTU} type veth peer name e0 netns {self.ns.name}",
            *(
                [f"addr add {self.gateway[4]}/24 dev {port}", f"addr add {self.gateway[6]}/64 dev {port} nodad"]
                if self.far
                else [f"link set {port} master br0"]
            ),
            f"link set {port} up",
        )
        self.ns.batch(
            f"link set e0 mtu {UNDERLAY_MTU} up",
            f"addr add {self.underlay[4]}/24 dev e0",
            f"addr add {self.underlay[6]}/64 dev e0 nodad",
            f"route add default via {self.gateway[4]}",
            f"route add ::/0 via {self.gateway[6]} dev e0",
        )
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            shell.set_sysctl(self.ns.name, name, 1)

    def attach_pod(self, subnet_env: str) -> None:
        """Bridge and pod, with the addresses and the MTU that subnet.env tells."""
        told = dict(line.split("=", 1) for line in subnet_env.splitlines())
        self.mtu = int(told["FLANNEL_MTU"])
        self.ns.batch(
            f"link add cni0 mtu {self.mtu} type bridge",
            f"link add pod mtu {self.mtu} type veth peer name eth0 netns {self.pod_ns.name}",
            "link set pod master cni0 up",
            "link set cni0 up",
        )
        self.pod_ns.ip(f"link set eth0 mtu {self.mtu} up")
        for family, name, default in _ENV:
            if name in told:
                gateway, _, length = told[name].partition("/")
                self.pod[family] = re.sub("1$", "19", gateway)
                nodad = " nodad" if family == 6 else ""
                self.ns.ip(f"addr add {gateway}/{length} dev cni0{nodad}")
                self.pod_ns.ip(f"addr add {self.pod[family]}/{length} dev eth0{nodad}")
                self.pod_ns.ip(f"route add {default} via {gateway}")

    def macs(self) -> dict[Family, str]:
        """The MACs of its overlay devices now."""
        return {
            family: link["address"]
            for family, device in DEVICE.items()
            for link in self.ns.ip_json(f"link show {device}")
        }

    def kind(self) -> str:
        """What made its flannel.1: tun, vxlan."""
        return str(self.ns.ip_json("-d link show flannel.1")[0]["linkinfo"]["info_kind"])

    def peers(self) -> dict[str, str]:
        """The MAC by subnet of every peer that packets are sent to through the tunnel, as the kernel has it.

        A neighbour without a route counts too, under its address; a route without one as "".
        """
        found: dict[str, str] = {}
        for family, device in DEVICE.items():
            have = self.ns.ip_json(f"neigh show dev {device} nud permanent")
            macs = {entry["dst"]: entry["lladdr"] for entry in have if not entry["dst"].startswith("ff")}
            for route in self.ns.ip_json(f"-{family} route show dev {device}"):
                if "gateway" in route:
                    assert route["dst"].partition("/")[0] == route["gateway"]
                    assert "onlink" in route["flags"]  # and linkdown, while no daemon runs
                    found[route["dst"]] = macs.pop(route["gateway"], "")
            found |= macs
        return found


class Member(Daemon):
    """vxland as the daemon of a node: by a file, or by flanneld's flags."""

    def __init__(
        self, node: Node, directory: Path, etcd: Etcd, gear: Gear = "compiled", *, flags: bool = False
    ) -> None:
        super().__init__(node.ns, directory / f"vxland-{node.letter}", gear)
        self.node = node
        self._etcd = etcd
        self._flags = flags
        self.settings = {
            "registry": {"kind": "etcd"},
            "etcd": {"endpoints": [etcd.url]},
            "underlay": {"interface": "e0"},
            "overlay": {},
            "firewall": {"masquerade": True, "forward": True},
            "control": {"socket": str(self.directory / "control.sock")},
            "metrics": {"listen": f"127.0.0.1:{METRICS_PORT}"},
        }

    def command(self, *options: str) -> tuple[str, ...]:
        """The command that starts it."""
        if not self._flags:
            return super().command(*options)
        return self.vxland(
            *("flanneld", f"--etcd-endpoints={self._etcd.url}", "-iface", "e0", "--ip-masq"),
            *("--subnet-file", str(self.subnet_file), "--healthz-ip=127.0.0.1", f"--healthz-port={METRICS_PORT}"),
        )

    def cleanup(self) -> subprocess.CompletedProcess[str]:
        """How `vxland run --cleanup` ended."""
        return shell.attempt(self.command("--cleanup"))

    def start(self) -> None:
        """Start it, and return once it is ready."""
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return once it says that it is ready."""
        wait_until(lambda: self._alive() and self.readiness() == (200, "vxland is ready\n"), "readiness", self._state)

    def wait_for_peers(self, wanted: Mapping[str, str]) -> None:
        """Return once the kernel has these peers, MACs by subnet, and no others."""
        wait_until(
            lambda: self.node.peers() == dict(wanted),
            f"node {self.node.letter} has {wanted}",
            lambda: f"{self.node.peers()}\n{self.said()}",
        )

    def readiness(self) -> tuple[int, str]:
        """Status and text of /readyz; (0, "") where nobody answers."""
        status, text = self._get("readyz")
        assert status in {0, 200, 503}, self.said()
        return status, text

    def metric(self, name: str) -> float:
        """A gauge of /metrics."""
        status, text = self._get("metrics")
        assert status == 200
        (found,) = (line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))
        return float(found)

    def subnet_env(self) -> str:
        """The text of its subnet.env."""
        return self.subnet_file.read_text()

    def _get(self, path: str) -> tuple[int, str]:
        def get() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/{path}", timeout=5) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as exc:
                with exc:
                    return exc.code, exc.read().decode()
            except OSError:
                return 0, ""

        return self.ns.inside(get)

    def _state(self) -> str:
        return f"{self.readiness()}\n{self.said()}"


class Cluster:
    """Nodes, their underlay and their store; `conf` is flannel's configuration, as Python has JSON."""

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
        """The vxlands that run."""
        return {letter: member for letter, member in self.members.items() if member.running}

    def member(self, letter: str, gear: Gear = "compiled", *, flags: bool = False) -> Member:
        """A vxland for a node, not started."""
        self.members[letter] = Member(self.nodes[letter], self.directory, self.etcd, gear, flags=flags)
        return self.members[letter]

    def flanneld(self, letter: str) -> Flanneld:
        """A flanneld for a node, not started."""
        node = self.nodes[letter]
        return Flanneld(node.ns, self.etcd, {family: node.underlay[family] for family in self.families})

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
        """The last part of a node's key."""
        address = self.nodes[letter].underlay[4]
        (found,) = (name for name, text in self.etcd.subnets().items() if json.loads(text)["PublicIP"] == address)
        return found

    def ghost(self, number: int, mac: str = GHOST_MAC, **fields: str) -> tuple[str, str]:
        """Key and lease of a node that does not exist: its subnet's number, and what is special about it."""
        address = fields.get("address", f"192.168.111.{number}")
        return key({4: f"10.244.{number}.0/24"}), value({4: address}, {4: mac}, fields.get("backend", "vxlan"))

    def agree(self, what: str, instead: Mapping[str, str] = MappingProxyType({})) -> None:
        """Return once each running vxland's kernel has every vxlan lease of the others, and nothing else.

        `instead` tells MACs by subnet that are not those of the store. How long it took is printed.
        """
        started = time.monotonic()
        entries = self.etcd.subnets()
        for letter, member in self.running.items():
            wanted = {subnet: mac for _, (subnet, _, mac) in peers(entries, self.name_of(letter))} | dict(instead)
            member.wait_for_peers(wanted)
        print(f"{what}: {time.monotonic() - started:.2f} s")  # noqa: T201  (-rP shows it)

    def heard(self) -> None:
        """Return once the running vxlands have heard of everything in the store until now."""
        name, text = self.ghost(next(_marks))
        subnet = name.replace("-", "/")
        self.etcd.put(f"subnets/{name}", text)
        for member in self.running.values():
            wait_until(lambda member=member: subnet in member.node.peers(), subnet, member.said)  # type: ignore[misc]
        self.etcd.delete(f"subnets/{name}")
        for member in self.running.values():
            wait_until(lambda member=member: subnet not in member.node.peers(), subnet, member.said)  # type: ignore[misc]

    def reaches(self, letter: str, address: str) -> None:
        """Return once `address` answers the node's pod."""
        ns, said = self.nodes[letter].pod_ns, self.members[letter].said
        wait_until(lambda: ns.attempt("ping", "-c1", "-W1", address).returncode == 0, f"{address} answers", said)

    @contextmanager
    def only(self, *subnets: str, between: str = "ab") -> Iterator[None]:
        """Meanwhile a and b touch no route or neighbour but of `subnets`, and no datagram `between` pods is lost."""
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
    """The address that a datagram from one namespace to another's `address` comes from, after its reply came back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.socket(address) as far, source.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as near:
        near.settimeout(5)
        near.sendto(b"?", far.getsockname())
        _, whence = far.recvfrom(16)
        far.sendto(b"!", whence)
        assert near.recv(16) == b"!"
    return str(whence[0])
