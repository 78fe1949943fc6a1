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
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from vxland.inspect.reasons import QUEUES
from vxland.lab import shell

T = TypeVar("T")
Gear: TypeAlias = Literal["compiled", "interpreted"]
Kind: TypeAlias = Literal["compiled", "interpreted", "kernel"]
Family: TypeAlias = Literal[4, 6]
Place: TypeAlias = Literal["host", "pod"]

ROOT: Final = Path(__file__).parents[3]
PORT: Final = 8472
UNDERLAY_MTU: Final = 1500
OVERHEAD: Final[dict[Family, int]] = {4: 50, 6: 70}
NETWORK: Final[dict[Family, str]] = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}
FAMILIES: Final[tuple[Family, Family]] = (4, 6)
FLANNELS_OUTER: Final = "ttl 0 tos 0 noudp6zerocsumtx noudp6zerocsumrx"  # no noudpcsum: IPv4 has checksums
DEADLINE_S: Final = 20.0  # every expected event takes less than a second

_numbers = itertools.count(1)


def wait_until(condition: Callable[[], T], what: str, hint: Callable[[], str] = str) -> T:
    """Return the result of `condition()` once it is true. AssertionError, with the hint, if it never is."""
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        if time.monotonic() > end:
            msg = f"waited {DEADLINE_S:.0f} s in vain: {what}\n{hint()}"
            raise AssertionError(msg)
        time.sleep(0.02)
    return found


def plain(said: str) -> str:
    """Return the output of a vxland with `--log-format json`, with `fatal` events as plain text."""
    lines = []
    for line in said.splitlines():
        event = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        lines.append(f"vxland: {event['error']}" if event.get("event") == "fatal" else line)
    return "\n".join(lines)


class Ns:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self) -> None:
        """Make it: loopback up, IPv6 addresses usable at once."""
        shell.run("ip", "netns", "add", self.name)
        for scope in ("all", "default"):
            shell.set_sysctl(self.name, f"ipv6.conf.{scope}.accept_dad", 0)
            shell.set_sysctl(self.name, f"ipv6.conf.{scope}.router_solicitations", 0)
        self.ip("link set lo up")

    def delete(self) -> None:
        """Remove it if it exists."""
        shell.attempt(("ip", "netns", "del", self.name))

    def ip(self, command: str) -> str:
        """Return the output of one `ip` command, given without the `ip`; StartError if it fails."""
        return shell.run("ip", "-n", self.name, *command.split())

    def ip_json(self, command: str) -> list[dict[str, Any]]:
        """Return the output of one `ip -j` command; the empty list for a device that does not exist."""
        done = shell.attempt(("ip", "-n", self.name, "-j", *command.split()))
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return [entry for entry in found if entry]

    def batch(self, *lines: str) -> None:
        """Run several `ip` commands."""
        shell.ip_batch(self.name, lines)

    def run(self, *argv: str) -> str:
        """Return the output of a command run inside; StartError if it fails."""
        return shell.run(*shell.exec_in(self.name, *argv))

    def attempt(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return its result."""
        return shell.attempt(shell.exec_in(self.name, *argv))

    def inside(self, job: Callable[[], T]) -> T:
        """Run `job` in a thread that has entered the namespace; return its result."""
        return shell.inside(self.name, job)

    def socket(self, address: str, kind: socket.SocketKind = socket.SOCK_DGRAM, port: int = 0) -> socket.socket:
        """Return a bound socket of this namespace; it stays there whichever thread uses it."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.inside(lambda: socket.socket(family, kind))
        try:
            sock.settimeout(DEADLINE_S)
            sock.bind((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def links(self) -> set[str]:
        """Return the names of the devices."""
        return {link["ifname"] for link in self.ip_json("link show")}


class Node:
    """One node: its namespaces and its addresses; each dict is by IP version of the overlay."""

    def __init__(self, name: str, number: int, underlay: Family) -> None:
        self.number = number
        self.letter = "ab"[number]
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


class ServiceManager(Protocol):
    """A service manager, such as that of manager.py."""

    kept: list[tuple[str, int]]

    def launcher(self) -> tuple[str, ...]:
        """Return the words before a service's command line."""
        ...

    def environment(self) -> dict[str, str]:
        """Return a service's additional environment."""
        ...


class Daemon:
    """A vxland in a namespace; its events are read from its log."""

    def __init__(self, ns: Ns, directory: Path, gear: Gear) -> None:
        self.ns = ns
        self.gear = gear
        self.directory = directory
        self.directory.mkdir(exist_ok=True)
        self.path = self.directory / "vxland.yaml"
        self.subnet_file = self.directory / "subnet.env"
        self.log = self.directory / "log"
        self.settings: dict[str, dict[str, Any]] = {}
        self.manager: ServiceManager | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    @property
    def running(self) -> bool:
        """Whether it was started, and not waited for since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def write(self) -> None:
        """Write the settings to the file; JSON is YAML too."""
        self.path.write_text(json.dumps(self.settings))

    def command(self, *options: str) -> tuple[str, ...]:
        """Return the command `vxland run` inside the namespace, with the file and more options."""
        run = ("run", "-c", str(self.path), "--subnet-file", str(self.subnet_file), "--log-format", "json")
        return self.vxland(*run, *options)

    def vxland(self, *words: str) -> tuple[str, ...]:
        """Return a vxland command inside the namespace, in the daemon's gear."""
        gear = f"VXLAND_PURE={int(self.gear == 'interpreted')}"
        return (*shell.exec_in(self.ns.name, "env", gear), sys.executable, "-m", "vxland", *words)

    def launch(self) -> None:
        """Write the settings and start the daemon, without waiting."""
        self.write()
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (*(self.manager.launcher() if self.manager else ()), *self.command()),
                cwd=ROOT,
                env={
                    **os.environ,
                    "STATE_DIRECTORY": str(self.directory),  # each test has its own state
                    **(self.manager.environment() if self.manager else {}),
                },
                pass_fds=[fd for _, fd in self.manager.kept] if self.manager else (),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first event of that name since the daemon was started."""
        return wait_until(lambda: self.events(event) if self._alive() else [], f"vxland's {event}", self.said)[0]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon, if it runs; return its exit code, negative for a signal."""
        if self.running:
            self.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the daemon to end, if it was started; return its exit code, negative for a signal."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        try:
            return process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        return True

    def said(self) -> str:
        """Return the daemon's log since its latest start."""
        return self.log.read_bytes()[self._log_from :].decode(errors="replace")

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return its events of these names, in order."""
        found = []
        for line in self.said().splitlines(keepends=True):
            if line.endswith("\n"):
                with suppress(json.JSONDecodeError):  # a plain text line; said() shows it
                    event = json.loads(line)
                    if event.get("event") in names:
                        found.append(event)
        return found


class Vxland(Daemon):
    """`vxland run` in a node's namespace."""

    def __init__(self, node: Node, directory: Path, gear: Gear) -> None:
        super().__init__(node.ns, directory / f"vxland-{node.letter}", gear)
        self.node = node
        self.settings = {
            "overlay": {"network": list(NETWORK.values()), "subnet": list(node.subnet.values())},
            "underlay": {"address": node.vtep},
            "registry": {"kind": "static", "peers": []},
            "security": {"source_check": "vtep"},
            "control": {"socket": str(self.directory / "control.sock")},
            "metrics": {"listen": ""},
            "probe": {"interval_s": 0},  # tests that count frames want no pings
        }

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

    def __init__(self, directory: Path, gear: Gear, other: Kind = "kernel", underlay: Family = 4) -> None:
        name = f"vxi-{os.getpid()}-{next(_numbers)}"
        self.underlay = underlay
        self.a, self.b = (Node(name, number, underlay) for number in (0, 1))
        self.nodes: Sequence[Node] = (self.a, self.b)
        self.vxland = Vxland(self.a, directory, gear)
        self.kernel = KernelVtep(self.b)
        self.other = None if other == "kernel" else Vxland(self.b, directory, other)

    def build(self) -> None:
        """Make the namespaces and everything in them except flannel.1."""
        for node in self.nodes:
            node.ns.create()
            node.pod_ns.create()
        self.a.ns.batch(f"link add e0 type veth peer name e0 netns {self.b.ns.name}")
        for node in self.nodes:
            node.build()

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
            self.vxland.stop()
            if self.other is not None:
                self.other.stop()
        finally:
            for node in self.nodes:
                node.pod_ns.delete()
                node.ns.delete()
