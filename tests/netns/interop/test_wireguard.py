"""VXLAN in WireGuard, as in docs/mtu.md: WireGuard's userspace program, because not every kernel has the device.

node a: vxland                                                node b: kernel vxlan
  flannel.1 - wg-a (192.168.112.128) - e0 ====[capture]==== e0 - wg-b (192.168.112.129) - flannel.1
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from vxland.lab import shell

from .conftest import running
from .lab import FAMILIES, Lab, Node
from .ns import wait_until
from .traffic import HEADERS, ping, send_tcp
from .wire import Capture

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("_able")]

WG_PORT = 51820
WG_DATA = 4
WG_MTU = 1420  # WireGuard's own choice above 1500
OVERHEAD = 50
PATTERN = "5eafd00d"  # content of the pings


class WireGuardLab(Lab):
    """A lab whose VTEPs are addresses of WireGuard interfaces."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "compiled")
        self.vxland.fast_path_comes = False
        self.programs: list[subprocess.Popen[bytes]] = []
        self.directory = directory
        for node in self.nodes:
            node.way = f"wg{os.getpid()}{node.letter}"  # also its socket's name, in a folder shared by all namespaces
            node.vtep = f"192.168.112.{128 + node.number}"
            node.mtu = WG_MTU - OVERHEAD
        self.vxland.settings["underlay"] = {"interface": self.a.way}

    def build(self) -> None:
        """Build the lab and the interfaces, each with the other's key."""
        super().build()
        keys = {node.letter: shell.run("wg", "genkey") for node in self.nodes}
        for node in self.nodes:
            command = shell.exec_in(node.ns.name, "wireguard-go", "--foreground", node.way)
            self.programs.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for node, peer in ((self.a, self.b), (self.b, self.a)):
            wait_until(partial(_configurable, node), f"{node.way} is there")
            key = self.directory / f"key-{node.letter}"
            key.write_text(keys[node.letter])
            own = ("listen-port", str(WG_PORT), "private-key", str(key))
            reach = ("allowed-ips", f"{peer.vtep}/32", "endpoint", f"{peer.underlay[4]}:{WG_PORT}")
            node.ns.run("wg", "set", node.way, *own, "peer", _public(keys[peer.letter]), *reach)
            node.ns.batch(f"addr add {node.vtep}/24 dev {node.way}", f"link set {node.way} mtu {WG_MTU} up")

    def down(self) -> None:
        """Remove the lab and stop the programs, which removes their interfaces."""
        try:
            super().down()
        finally:
            for program in self.programs:
                program.terminate()
                program.wait(PATIENCE_S)


def _configurable(node: Node) -> bool:
    return node.ns.attempt("wg", "show", node.way).returncode == 0


def _is_wireguards_data(frame: bytes) -> bool:
    """Return whether a frame has IPv4 without options, UDP to the port, and a message of type 4 (transport data)."""
    return frame[12:15] == b"\x08\x00\x45" and frame[36:38] == WG_PORT.to_bytes(2, "big") and frame[42] == WG_DATA


def _public(key: str) -> str:
    done = subprocess.run(("wg", "pubkey"), input=key, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Both nodes, up."""
    yield from running(WireGuardLab(tmp_path).with_fast_path())


def test_over_wireguard(lab: Lab) -> None:
    """The MTU follows the interface's; pings that fill it and streams cross; the wire shows them encrypted."""
    near, far = lab.a, lab.b
    assert lab.vxland.events("fast_path_off")[0]["reason"] == "the underlay's interface has no Ethernet header"
    assert near.ns.ip_json("link show flannel.1")[0]["mtu"] == WG_MTU - OVERHEAD
    with Capture(near.ns) as capture:
        for family in FAMILIES:
            ping(near.pod_ns, far.pod[family], near.mtu - HEADERS[family], "-p", PATTERN)
            ping(far.pod_ns, near.pod[family], far.mtu - HEADERS[family])
        assert capture.datagrams() == []
    assert sum(map(_is_wireguards_data, capture.frames)) >= 2 * 2 * 3 * len(FAMILIES)
    assert not any(bytes.fromhex(PATTERN) * 2 in frame for frame in capture.frames)
    for one, other in ((near, far), (far, near)):
        for family in FAMILIES:
            send_tcp(one.pod_ns, other.pod_ns, other.pod[family], 2_000_000)
