"""One node of the lab: its namespaces, its pod, its kernel's entries for the peers, and its vxland."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests import web
from tests.netns.interop.daemon import Daemon, Gear
from tests.netns.interop.lab import UNDERLAY_MTU, Family
from tests.netns.interop.ns import Ns, wait_until
from vxland.lab import shell

from .fake_flanneld import DEVICE
from .store import Etcd

METRICS_PORT: Final = 9472
_DROPS: Final = re.compile(r'^vxland_drops_total{.*reason="(\w+)".*} (\S+)$', re.MULTILINE)

_ENV: Final[tuple[tuple[Family, str, str], ...]] = (
    (4, "FLANNEL_SUBNET", "default"),
    (6, "FLANNEL_IPV6_SUBNET", "::/0"),
)


class Node:
    """One node: its namespaces, its addresses by IP version, and its pod's addresses once attached."""

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
        """Make the node's end of the underlay, and its pod's namespace."""
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
        """Attach the pod to the bridge, with addresses and MTU from subnet.env."""
        settings = dict(line.split("=", 1) for line in subnet_env.splitlines())
        self.mtu = int(settings["FLANNEL_MTU"])
        self.ns.batch(
            f"link add cni0 mtu {self.mtu} type bridge",
            f"link add pod mtu {self.mtu} type veth peer name eth0 netns {self.pod_ns.name}",
            "link set pod master cni0 up",
            "link set cni0 up",
        )
        self.pod_ns.ip(f"link set eth0 mtu {self.mtu} up")
        for family, name, default in _ENV:
            if name in settings:
                gateway, _, length = settings[name].partition("/")
                self.pod[family] = re.sub("1$", "19", gateway)
                nodad = " nodad" if family == 6 else ""
                self.ns.ip(f"addr add {gateway}/{length} dev cni0{nodad}")
                self.pod_ns.ip(f"addr add {self.pod[family]}/{length} dev eth0{nodad}")
                self.pod_ns.ip(f"route add {default} via {gateway}")

    def macs(self) -> dict[Family, str]:
        """Return the current MACs of its overlay devices."""
        return {
            family: link["address"]
            for family, device in DEVICE.items()
            for link in self.ns.ip_json(f"link show {device}")
        }

    def kind(self) -> str:
        """Return the kind of its flannel.1: tun or vxlan."""
        return str(self.ns.ip_json("-d link show flannel.1")[0]["linkinfo"]["info_kind"])

    def peers(self) -> dict[str, str]:
        """Return the MAC by subnet of every peer that the kernel reaches through the tunnel.

        A neighbour without a route counts too, under its address; a route without a neighbour has "".
        """
        found: dict[str, str] = {}
        for family, device in DEVICE.items():
            have = self.ns.ip_json(f"neigh show dev {device} nud permanent")
            macs = {entry["dst"]: entry["lladdr"] for entry in have if not entry["dst"].startswith("ff")}
            for route in self.ns.ip_json(f"-{family} route show dev {device}"):
                if "gateway" in route:
                    assert route["dst"].partition("/")[0] == route["gateway"]
                    assert "onlink" in route["flags"]  # and linkdown while no daemon runs
                    found[route["dst"]] = macs.pop(route["gateway"], "")
            found |= macs
        return found


class Member(Daemon):
    """vxland as the daemon of a node: started with a file, or with flanneld's flags."""

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
            "datapath": {"fast_path": "auto"},
            "firewall": {"masquerade": True, "forward": True},
            "control": {"socket": str(self.directory / "control.sock")},
            "metrics": {"listen": f"127.0.0.1:{METRICS_PORT}"},
        }

    def write(self) -> None:
        """Write the settings to the file: with flags, only the sections that flags do not cover."""
        whole = self.settings
        if self._flags:
            self.settings = {
                name: whole[name] for name in ("security", "probe", "control", "datapath") if name in whole
            }
        super().write()
        self.settings = whole

    def command(self, *options: str) -> tuple[str, ...]:
        """Return the command that starts it."""
        if not self._flags:
            return super().command(*options)
        return self.vxland(
            *("flanneld", f"--etcd-endpoints={self._etcd.url}", "-iface", "e0", "--ip-masq"),
            *("--subnet-file", str(self.subnet_file), "--healthz-ip=127.0.0.1", f"--healthz-port={METRICS_PORT}"),
            *("--vxland-config", str(self.path)),
        )

    def cleanup(self) -> subprocess.CompletedProcess[str]:
        """Run `vxland run --cleanup` and return its result."""
        return shell.attempt(self.command("--cleanup"))

    def start(self) -> None:
        """Start it, and return once it is ready."""
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return once it reports that it is ready."""
        wait_until(lambda: self._alive() and self.readiness() == (200, "vxland is ready\n"), "readiness", self._state)

    def wait_for_peers(self, wanted: Mapping[str, str]) -> None:
        """Return once the kernel has these peers, MACs by subnet, and no others."""
        wait_until(
            lambda: self.node.peers() == dict(wanted),
            f"node {self.node.letter} has {wanted}",
            lambda: f"{self.node.peers()}\n{self.said()}",
        )

    def readiness(self) -> tuple[int, str]:
        """Return status and first line of /readyz (others list silent peers); (0, "") without an answer."""
        status, text = self._get("readyz")
        assert status in {0, 200, 503}, self.said()
        return status, "".join(text.splitlines(keepends=True)[:1])

    def metric(self, name: str) -> float:
        """Return a gauge of /metrics."""
        status, text = self._get("metrics")
        assert status == 200
        (found,) = (line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))
        return float(found)

    def drops(self) -> Counter[str]:
        """Return the dropped frames by reason, both directions together."""
        found: Counter[str] = Counter()
        for reason, count in _DROPS.findall(self._get("metrics")[1]):
            found[reason] += int(float(count))
        return found

    def subnet_env(self) -> str:
        """Return the text of its subnet.env."""
        return self.subnet_file.read_text()

    def _get(self, path: str) -> tuple[int, str]:
        def get() -> tuple[int, str]:
            try:
                return web.get(f"http://127.0.0.1:{METRICS_PORT}/{path}")
            except OSError:
                return 0, ""

        return self.ns.inside(get)

    def _state(self) -> str:
        return f"{self.readiness()}\n{self.said()}"
