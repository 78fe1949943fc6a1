"""Refusals to start because of the machine: each is one line with the cause and the remedy, and an exit code.

    +------------ vxi-<pid>-<n>-a ------------+
    |  e0  192.168.111.128/24, MTU 1500 ------+----- e0 of an empty namespace
    |  the cause of the refusal               |
    +-----------------------------------------+

The exit code is 1; test_refused_settings.py has those of the configuration. The code is the same in both gears.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from .daemon import plain
from .lab import PORT, Family, Node, Vxland
from .starting import attempt, refused

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("name", ["flannel.7", "vxlan-other"])
def test_port_held_by_a_kernel_vxlan_device(node: Node, vxland: Vxland, name: str) -> None:
    """The line names the device, and the command that removes it."""
    node.ns.batch(f"link add {name} type vxlan id 7 dev e0 dstport {PORT} nolearning", f"link set {name} up")
    try:
        line = refused(vxland, 1)
    finally:
        node.ns.ip(f"link delete {name}")
    assert line == (
        f"UDP port {PORT} is held by the kernel vxlan device {name}; stop what made it (flanneld?), "
        f"then 'ip link delete {name}'; or choose another overlay.port"
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.111.128"])  # noqa: S104  (inside a namespace)
def test_port_held_by_a_process(node: Node, vxland: Vxland, address: str) -> None:
    """The line has the process's name and id."""
    with node.ns.socket(address, port=PORT):
        line = refused(vxland, 1)
    name = Path("/proc/self/comm").read_text().strip()
    assert line == f"UDP port {PORT} is held by {name} (pid {os.getpid()}); stop it, or choose another overlay.port"


def test_port_held_by_a_hidden_process(node: Node, vxland: Vxland) -> None:
    """/proc does not show the process: still one line."""
    kept = node.ns.socket(node.vtep, port=PORT)
    with kept:
        line = refused(vxland, 1, "unshare", "--pid", "--fork", "--mount-proc")
    assert line == f"UDP port {PORT} is held by another process; stop it, or choose another overlay.port"


def test_device_is_a_kernel_vxlan(node: Node, vxland: Vxland) -> None:
    """A flannel.1 of flanneld exists: the line names it and the command that removes it, and leaves it unchanged."""
    node.ns.batch("link add flannel.1 type vxlan id 1 dev e0 dstport 4789 nolearning")
    assert refused(vxland, 1) == (
        "flannel.1 exists and is no TAP of ours; stop what made it (flanneld?), then 'ip link delete flannel.1', "
        "or set overlay.device"
    )
    assert node.ns.ip_json("-d link show flannel.1")[0]["linkinfo"]["info_kind"] == "vxlan"


def test_no_tun_driver(vxland: Vxland) -> None:
    """Neither module nor device node: the line has the remedy. The empty /dev/net is in a mount namespace."""
    script = 'mount -t tmpfs none /dev/net && exec "$@"'
    assert refused(vxland, 1, "unshare", "--mount", "sh", "-c", script, "sh") == (
        "/dev/net/tun is missing; run 'modprobe tun', or in a container pass the device: --device /dev/net/tun"
    )


def test_no_cap_net_admin(vxland: Vxland) -> None:
    """Root of a container without NET_ADMIN: the line names the capability."""
    drop = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    assert refused(vxland, 1, *drop) == (
        "no permission to open the TAP flannel.1; "
        "run as root or with CAP_NET_ADMIN (in a container: --cap-add NET_ADMIN)"
    )


def test_second_vxland_on_the_device(vxland: Vxland, tmp_path: Path) -> None:
    """The first one keeps the device and continues."""
    vxland.start()
    (tmp_path / "second").mkdir()
    second = Vxland(vxland.node, tmp_path / "second", "compiled")
    second.settings = {**vxland.settings, "overlay": vxland.settings["overlay"] | {"port": 8473}}
    assert (
        refused(second, 1) == "the TAP flannel.1 is in use by another process; stop that process; two cannot share it"
    )
    assert vxland.routes()
    assert vxland.stop() == 0


def test_unwritable_subnet_file(vxland: Vxland) -> None:
    """The CNI plugin's file cannot be written: its path, the kernel's reason, and the option that moves it."""
    vxland.subnet_file = Path("/proc/subnet.env")
    done = attempt(vxland)
    assert done.returncode == 1
    assert plain(done.stderr).splitlines()[-1] == (
        "vxland: /proc/subnet.env cannot be written: No such file or directory; "
        "make its directory writable, with room in it, or name another file with --subnet-file"
    )


def test_a_refusal_leaves_nothing_behind(node: Node, vxland: Vxland) -> None:
    """Each failed start left a TAP behind; an earlier one stays, with its entries.

    Once for a socket that cannot be opened, and once for a later failure, after the device is open.
    """

    def fail() -> None:
        with node.ns.socket("192.168.111.128", socket.SOCK_DGRAM, PORT):
            refused(vxland, 1)
        there, vxland.subnet_file = vxland.subnet_file, Path("/proc/subnet.env")
        assert attempt(vxland).returncode == 1
        vxland.subnet_file = there

    fail()
    assert "flannel.1" not in node.ns.links()
    vxland.start()
    assert vxland.stop() == 0
    there = node.ns.ip_json("addr show flannel.1"), vxland.routes(), vxland.neighbours()
    fail()
    assert (node.ns.ip_json("addr show flannel.1"), vxland.routes(), vxland.neighbours()) == there
    vxland.settings["datapath"] |= {"workers": 3}  # the existing device takes none of them
    fail()
    assert "flannel.1" in node.ns.links()


@pytest.mark.parametrize("family", [4, 6])
def test_too_few_source_ports(node: Node, vxland: Vxland, family: Family) -> None:
    """The error said that UDP port 8472 is held by another process."""
    before = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    vxland.settings["underlay"]["address"] = node.underlay[family]
    vxland.peers.clear()
    node.ns.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=50000 50007")
    try:
        assert refused(vxland, 1) == (
            f"no UDP port of {node.underlay[family]} is free to send from: "
            "net.ipv4.ip_local_port_range is 50000 50007, and vxland needs 17 of it; "
            "widen that range with sysctl, or lower underlay.source_ports"
        )
        vxland.settings["underlay"]["source_ports"] = 4
        vxland.start()
    finally:
        node.ns.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={' '.join(before)}")


def test_a_port_that_needs_a_capability(vxland: Vxland) -> None:
    """The line names the sysctl and the capability."""
    vxland.settings["overlay"]["port"] = 789
    drop = ("setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service")
    assert refused(vxland, 1, *drop) == (
        "UDP port 789 needs CAP_NET_BIND_SERVICE: net.ipv4.ip_unprivileged_port_start is 1024; "
        "grant it, set that sysctl to 789 or less, or choose another overlay.port"
    )


@pytest.mark.parametrize("limit", [14, 16, 18, 24, 34])
def test_too_few_descriptors(vxland: Vxland, limit: int) -> None:
    """The line names the limit and its remedy, no matter which of TAP, netlink and sockets fails first."""
    line = refused(vxland, 1, "prlimit", f"--nofile={limit}")
    assert (
        f" cannot be opened: this process already has its maximum of {limit} descriptors open; raise that limit" in line
    )
    assert "flannel.1" not in vxland.node.ns.links()
