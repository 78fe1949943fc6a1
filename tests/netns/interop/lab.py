"""Two nodes of a flannel cluster as separate network namespaces, and the flannel.1 of each.

      node a (vxi-<pid>-<n>-a)                    node b (vxi-<pid>-<n>-b)
     +-----------------------------+             +-----------------------------+
     |  flannel.1  10.244.0.0/32   |             |  flannel.1  10.244.1.0/32   |
     |      vxland, either gear    |             |   the kernel's, or vxland   |
     |                             |    veth     |                             |
     |  e0     192.168.111.128 ----+-------------+-- e0     192.168.111.129    |
     |         fd00:111::128       |   MTU 1500  |         fd00:111::129       |
     |  cni0       10.244.0.1/24   |             |  cni0       10.244.1.1/24   |
     +----|------------------------+             +----|------------------------+
     +----|------------------------+             +----|------------------------+
     |  eth0      10.244.0.19/24   |             |  eth0      10.244.1.19/24   |
     +-----------------------------+             +-----------------------------+
      its pod (vxi-<pid>-<n>-a-pod)               its pod (vxi-<pid>-<n>-b-pod)

Every overlay device also carries IPv6: fd00:10:244:10::/64 at node a, :11:: at node b; the rest as in IPv4.
The lab changes nothing outside these namespaces, and removes them.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from vxland.inspect.reasons import QUEUES
from vxland.lab import shell

from .daemon import Daemon, Gear
from .ns import Ns, wait_until
from .wires import Wire, send_only_mtu_sized

DataPath: TypeAlias = Literal["compiled", "interpreted", "fast-path"]
"""A gear of the daemon alone, or the compiled one beside the programs of the fast path."""
Kind: TypeAlias = Literal[DataPath, "kernel"]
Family: TypeAlias = Literal[4, 6]
Place: TypeAlias = Literal["host", "pod"]

PORT: Final = 8472
UNDERLAY_MTU: Final = 1500
OVERHEAD: Final[dict[Family, int]] = {4: 50, 6: 70}
NETWORK: Final[dict[Family, str]] = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}
FAMILIES: Final[tuple[Family, Family]] = (4, 6)
FLANNELS_OUTER: Final = "ttl 0 tos 0 noudp6zerocsumtx noudp6zerocsumrx"  # no noudpcsum: IPv4 has checksums

_numbers = itertools.count(1)


class Node:
    """One node: its namespaces and its addresses; each dict is by IP version of the overlay."""

    def __init__(self, name: str, number: int, underlay: Family) -> None:
        self.number = number
        self.letter = "abc"[number]
        self.ns = Ns(f"{name}-{self.letter}")
        self.pod_ns = Ns(f"{name}-{self.letter}-pod")
        self.underlay: dict[Family, str] = {4: f"192.168.111.{128 + number}", 6: f"fd00:111::{128 + number}"}
        self.vtep = self.underlay[underlay]
        self.way = "e0"  # the interface of the underlay
        self.mtu = UNDERLAY_MTU - OVERHEAD[underlay]
        self.subnet: dict[Family, str] = {4: f"10.244.{number}.0/24", 6: f"fd00:10:244:1{number}::/64"}
        self.base: dict[Family, str] = {4: f"10.244.{number}.0", 6: f"fd00:10:244:1{number}::"}
        self.gateway: dict[Family, str] = {4: f"10.244.{number}.1", 6: f"fd00:10:244:1{number}::1"}
        self.pod: dict[Family, str] = {4: f"10.244.{number}.19", 6: f"fd00:10:244:1{number}::19"}

    def end(self, place: Place) -> tuple[Ns, dict[Family, str]]:
        """Return namespace and addresses of the node itself (those of its cni0), or of its pod."""
        return (self.ns, self.gateway) if place == "host" else (self.pod_ns, self.pod)

    def build(self) -> None:
        """Make the bridge and the pod; e0 exists."""
        self.ns.batch(
            f"link set e0 mtu {UNDERLAY_MTU} up",
            f"addr add {self.underlay[4]}/24 dev e0",
            f"addr add {self.underlay[6]}/64 dev e0 nodad",
            f"link add cni0 mtu {self.mtu} type bridge",
            f"addr add {self.gateway[4]}/24 dev cni0",
            f"addr add {self.gateway[6]}/64 dev cni0 nodad",
            "link set cni0 up",
            f"link add pod mtu {self.mtu} type veth peer name eth0 netns {self.pod_ns.name}",
            "link set pod master cni0 up",
        )
        for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            shell.set_sysctl(self.ns.name, key, 1)
        self.pod_ns.batch(
            f"link set eth0 mtu {self.mtu} up",
            f"addr add {self.pod[4]}/24 dev eth0",
            f"addr add {self.pod[6]}/64 dev eth0 nodad",
            f"route add default via {self.gateway[4]}",
            f"route add ::/0 via {self.gateway[6]}",
        )

    def mac(self) -> str:
        """Return the current MAC of flannel.1."""
        return str(self.ns.ip_json("link show flannel.1")[0]["address"])


class KernelVtep:
    """The kernel's vxlan device as a node's flannel.1, made as flannel makes it (reference/flannel.md section 4)."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def create(self, mac: str | None = None, outer: str = FLANNELS_OUTER) -> None:
        """Make the device, by default with a random MAC; `outer` has ip-link(8)'s options for outer headers."""
        node = self.node
        address = f"address {mac} " if mac else ""
        node.ns.batch(
            f"link add flannel.1 {address}mtu {node.mtu} type vxlan id 1 dev {node.way} local {node.vtep} "
            f"dstport {PORT} ageing 300 nolearning noproxy norsc nol2miss nol3miss {outer}",
            f"addr add {node.base[4]}/32 dev flannel.1",
            f"addr add {node.base[6]}/128 dev flannel.1 nodad",
            "link set flannel.1 up",
        )

    def add_peer(self, peer: Node, mac: str) -> None:
        """Add neighbour, FDB entry and route of each family, in flannel's order."""
        for family in FAMILIES:
            self.node.ns.batch(f"neigh replace {peer.base[family]} lladdr {mac} dev flannel.1 nud permanent")
            self.node.ns.run("bridge", "fdb", "replace", mac, "dev", "flannel.1", "dst", peer.vtep, "self", "permanent")
            self.node.ns.batch(f"route replace {peer.subnet[family]} via {peer.base[family]} dev flannel.1 onlink")

    def delete(self) -> None:
        """Remove the device, and with it everything that add_peer() made."""
        self.node.ns.ip("link delete flannel.1")


class Vxland(Daemon):
    """`vxland run` in a node's namespace."""

    def __init__(self, node: Node, directory: Path, data_path: DataPath) -> None:
        gear: Gear = "interpreted" if data_path == "interpreted" else "compiled"
        super().__init__(node.ns, directory / f"vxland-{node.letter}", gear)
        self.node = node
        self.settings = {
            "overlay": {"network": list(NETWORK.values()), "subnet": list(node.subnet.values())},
            "underlay": {"address": node.vtep},
            "registry": {"kind": "static", "peers": []},
            "datapath": {"fast_path": "auto" if data_path == "fast-path" else "off"},
            "security": {"source_check": "vtep"},
            "control": {"socket": str(self.directory / "control.sock")},
            "metrics": {"listen": ""},
            "probe": {"interval_s": 0},  # tests that count frames want no pings
        }
        self.fast_path_comes = True
        """True if the settings can have a fast path here; otherwise the log gives the reason."""

    @property
    def has_fast_path(self) -> bool:
        """True if programs carry frames of this node."""
        return self.settings["datapath"]["fast_path"] == "auto" and self.fast_path_comes

    @property
    def peers(self) -> list[dict[str, Any]]:
        """The settings' registry.peers, to be changed before write() or start()."""
        found: list[dict[str, Any]] = self.settings["registry"]["peers"]
        return found

    def add_peer(self, peer: Node, mac: str) -> None:
        """List a node in the settings."""
        self.peers.append({"subnet": list(peer.subnet.values()), "vtep": peer.vtep, "mac": mac})

    def start(self) -> None:
        """Write the settings, start the daemon, and return once it forwards to every peer it knows."""
        self.launch()
        assert self.wait_for("forwarding")["gear"] == self.gear
        self.wait_for_peers()
        if self.settings["datapath"]["fast_path"] == "auto":
            self.wait_for("fast_path_on" if self.fast_path_comes else "fast_path_off")

    def wait_for_peers(self) -> None:
        """Return once the kernel has a route and a neighbour for every subnet of the settings' peers, and no other."""
        subnets = {subnet: peer["mac"] for peer in self.peers for subnet in peer["subnet"]}
        neighbours = {subnet.partition("/")[0]: mac for subnet, mac in subnets.items()}
        wait_until(
            lambda: {route["dst"] for route in self.routes()} == set(subnets) and self.neighbours() == neighbours,
            "routes and neighbours for every peer",
            self.said,
        )

    def reload(self) -> None:
        """Write the settings, send SIGHUP, and return once the kernel has the wanted state."""
        self.write()
        self.hang_up("reloaded")
        self.wait_for_peers()

    def hang_up(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Send SIGHUP, and return `count` new events of that name."""
        seen = len(self.events(event))
        self.send_signal(signal.SIGHUP)
        wait_until(lambda: len(self.events(event)) >= seen + count, f"{count} {event}", self.said)
        return self.events(event)[seen:]

    def drops(self, direction: Literal["encap", "decap"]) -> dict[str, int]:
        """Return the drops, by reason, of the daemon that has stopped, since its start.

        Leaves out drops at the kernel's full queues: a TCP stream fills them to find the bandwidth.
        """
        total: dict[str, int] = {}
        for event in self.events("frames_dropped"):
            if event["direction"] == direction:
                for reason, count in event.items():
                    if isinstance(count, int) and reason not in QUEUES:
                        total[reason] = total.get(reason, 0) + count
        return total

    def routes(self) -> list[dict[str, Any]]:
        """Return the gateway routes on flannel.1, both families."""
        found = self.node.ns.ip_json("-4 route show dev flannel.1") + self.node.ns.ip_json(
            "-6 route show dev flannel.1"
        )
        return [route for route in found if "gateway" in route]

    def neighbours(self) -> dict[str, str]:
        """Return the permanent neighbours on flannel.1: address -> MAC."""
        found = self.node.ns.ip_json("neigh show dev flannel.1 nud permanent")
        return {entry["dst"]: entry["lladdr"] for entry in found if not entry["dst"].startswith("ff")}


class Lab:
    """Both nodes of one cluster. Node a runs vxland; node b the kernel's device, or vxland too."""

    def __init__(self, directory: Path, data_path: DataPath, other: Kind = "kernel", underlay: Family = 4) -> None:
        name = f"vxi-{os.getpid()}-{next(_numbers)}"
        self.underlay = underlay
        self.a, self.b = (Node(name, number, underlay) for number in (0, 1))
        self.nodes: Sequence[Node] = (self.a, self.b)
        self.vxland = Vxland(self.a, directory, data_path)
        self.kernel = KernelVtep(self.b)
        self.other = None if other == "kernel" else Vxland(self.b, directory, other)
        self.wire: Wire = "veth"
        for each in self.daemons:
            each.fast_path_comes = underlay == 4

    @property
    def daemons(self) -> Sequence[Vxland]:
        """The vxlands of both nodes."""
        return [each for each in (self.vxland, self.other) if each is not None]

    def with_fast_path(self) -> Self:
        """Let every vxland use the fast path, where it can; return the lab, which is not up yet."""
        for each in self.daemons:
            each.settings["datapath"]["fast_path"] = "auto"
        return self

    def build(self) -> None:
        """Make the namespaces and everything in them except flannel.1."""
        for node in self.nodes:
            node.ns.create()
            node.pod_ns.create()
        self.a.ns.batch(f"link add e0 type veth peer name e0 netns {self.b.ns.name}")
        for node in self.nodes:
            node.build()
            if self.wire == "mtu-sized":
                send_only_mtu_sized(node.ns)

    def up(self) -> None:
        """Build, and start the flannel.1 of each node."""
        self.build()
        if self.other is not None:
            self._up_vxlands(self.other)
            return
        self.kernel.create()
        self.vxland.add_peer(self.b, self.b.mac())
        self.vxland.start()  # it chooses its own MAC
        self.kernel.add_peer(self.a, self.a.mac())

    def _up_vxlands(self, other: Vxland) -> None:
        macs = ("ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce")
        for one, mac, peer, peer_mac in ((self.vxland, macs[0], self.b, macs[1]), (other, macs[1], self.a, macs[0])):
            one.settings["overlay"]["mac"] = mac
            one.add_peer(peer, peer_mac)
            one.start()

    def down(self) -> None:
        """Stop the daemons, and remove every namespace."""
        try:
            for each in self.daemons:
                each.stop()
        finally:
            for node in self.nodes:
                node.pod_ns.delete()
                node.ns.delete()
