"""Refusals to start: each is one line with the cause and the remedy, and an exit code.

    +------------ vxi-<pid>-<n>-a ------------+
    |  e0  192.168.111.128/24, MTU 1500 ------+----- e0 of an empty namespace
    |  the cause of the refusal               |
    +-----------------------------------------+

Exit code 1: the machine is the cause; 2: the configuration is. All of this code is the same in both gears.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .asking import ask_json
from .daemon import ROOT, plain
from .lab import PORT, Family, Lab, Node, Vxland
from .ns import DEADLINE_S

pytestmark = pytest.mark.netns

PEER = ("192.168.111.129", "3a:87:cf:81:6a:ce")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """The namespaces, without flannel.1."""
    lab = Lab(tmp_path_factory.mktemp("lab"), "compiled")
    try:
        lab.build()
        yield lab
    finally:
        lab.down()


@pytest.fixture
def node(made: Lab) -> Iterator[Node]:
    """Node a, without flannel.1."""
    yield made.a
    if "flannel.1" in made.a.ns.links():
        made.a.ns.ip("link delete flannel.1")


@pytest.fixture
def vxland(node: Node, tmp_path: Path) -> Iterator[Vxland]:
    """A vxland of node a with valid settings, not started."""
    daemon = Vxland(node, tmp_path, "compiled")
    daemon.peers.append({"subnet": ["10.244.1.0/24"], "vtep": PEER[0], "mac": PEER[1]})
    try:
        yield daemon
    finally:
        daemon.stop()


def attempt(vxland: Vxland, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run `vxland run` to its end; a wrapper runs inside the namespace."""
    vxland.write()
    ip, netns, execute, name, *command = vxland.command()
    return subprocess.run(
        (ip, netns, execute, name, *wrapper, *command),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def refusals(vxland: Vxland, code: int, *wrapper: str) -> list[str]:
    """Return every line that `vxland run` prints before it ends with this exit code, after a check of their form."""
    done = attempt(vxland, *wrapper)
    assert (done.returncode, done.stdout) == (code, ""), done
    lines = plain(done.stderr).splitlines()
    assert all(line.startswith("vxland: ") for line in lines), done.stderr
    return [line.removeprefix("vxland: ") for line in lines]


def refused(vxland: Vxland, code: int, *wrapper: str) -> str:
    """Return the only line that `vxland run` prints before it ends with this exit code."""
    (line,) = refusals(vxland, code, *wrapper)
    return line


def check(vxland: Vxland, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `vxland check` in node a."""
    vxland.write()
    return vxland.node.ns.attempt(
        "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "vxland", "check", "-c", str(vxland.path), *options
    )


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


def test_mtu_beyond_the_underlay(vxland: Vxland) -> None:
    """Key, value and remedy, with the sum of the sizes; `check` on this machine has the same line."""
    vxland.settings["overlay"]["mtu"] = 1500
    line = "overlay.mtu: 1500: use 1450 or less: the underlay MTU is 1500 and VXLAN over IPv4 adds 50"
    assert refused(vxland, 2) == line
    checked = check(vxland)
    assert (checked.returncode, checked.stdout, checked.stderr) == (2, line + "\n", "")


@pytest.mark.parametrize(
    ("underlay", "line"),
    [
        ({"interface": "ens33"}, "underlay.interface: 'ens33': no such interface; use one of "),
        ({"address": "10.9.8.7"}, "underlay.address: '10.9.8.7': use an address of this node: "),
        ({}, "underlay.interface: None: there is no default route; name one of "),
    ],
    ids=["interface", "address", "default"],
)
def test_no_such_underlay(vxland: Vxland, underlay: dict[str, str], line: str) -> None:
    """The requested value, and what exists instead."""
    vxland.settings["underlay"] = underlay
    found = refused(vxland, 2)
    assert found.startswith(line)
    assert "e0 (192.168.111.128, fd00:111::128)" in found


def test_every_problem_of_the_file_is_listed(vxland: Vxland) -> None:
    """A line per problem from `run`, the same from `check`, and as JSON from `check --json`; exit 2."""
    vxland.settings["overlay"]["vnii"] = 1
    mac = "ff:ff:ff:ff:ff:ff"
    vxland.peers[0]["mac"] = mac
    expected = {
        "overlay.vnii: 1: write vni: this key is not known",
        f"registry.peers[0].mac: {mac!r}: use a unicast MAC, with an even first byte: an odd one makes it multicast",
    }
    assert set(refusals(vxland, 2)) == expected
    checked = check(vxland)
    assert (checked.returncode, set(checked.stdout.splitlines())) == (2, expected)
    as_json = check(vxland, "--json")
    found = json.loads(as_json.stdout)
    assert as_json.returncode == 2
    assert found["ok"] is False
    assert {f"{p['key']}: {p['value']!r}: {p['remedy']}" for p in found["problems"]} == expected


def test_a_valid_file(vxland: Vxland) -> None:
    """`check` reports that it is valid, exits with 0, and changes nothing."""
    before = vxland.node.ns.links()
    checked = check(vxland)
    assert (checked.returncode, checked.stdout) == (0, f"{vxland.path}: good\n")
    assert vxland.node.ns.links() == before


def test_no_file(vxland: Vxland, tmp_path: Path) -> None:
    """A path that does not exist is a usage error."""
    vxland.path = tmp_path / "absent" / "vxland.yaml"
    done = vxland.node.ns.attempt(
        "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "vxland", "run", "-c", str(vxland.path)
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"vxland: {vxland.path}: 'No such file or directory': name a configuration file that can be read\n"
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
    vxland.settings["datapath"] = {"workers": 3}  # the existing device takes none of them
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
            "net.ipv4.ip_local_port_range is 50000 50007, and vxland needs 18 of it; "
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
    """Whether TAP, netlink or sockets fail first, the cause is the limit, and the line has the remedy."""
    line = refused(vxland, 1, "prlimit", f"--nofile={limit}")
    assert (
        f" cannot be opened: this process already has its maximum of {limit} descriptors open; raise that limit" in line
    )
    assert "flannel.1" not in vxland.node.ns.links()


def test_links_with_names_of_any_bytes(node: Node, vxland: Vxland) -> None:
    """A link of another program, named with any bytes, ended the start with a traceback.

    It is an underlay like any other, and its name is printed without control characters.
    """
    name = "v\udcff\x1b[2J"
    for command in (f"link add {name} type veth peer name vp", "link set vp up", f"link set {name} up",
                    f"addr add 192.0.2.7/24 dev {name}"):  # fmt: skip
        node.ns.ip(command)
    try:
        vxland.start()
        assert vxland.wait_for("devices_open")["underlay"] == "e0"
        assert vxland.stop() == 0
        vxland.settings["underlay"] = {"address": "192.0.2.7"}
        vxland.start()
        assert vxland.wait_for("devices_open")["underlay"] == r"v\udcff\x1b[2J"
        assert ask_json(vxland, "status")["planes"][0]["underlay"]["interface"] == r"v\udcff\x1b[2J"
        assert vxland.stop() == 0
        vxland.settings["underlay"] = {"interface": "nowhere"}
        assert r"v\udcff\x1b[2J (192.0.2.7)" in refused(vxland, 2)
    finally:
        node.ns.ip("link delete vp")


@pytest.mark.parametrize(
    ("underlay", "line"),
    [
        ({"address": "192.168.111.7"}, "underlay.address: '192.168.111.7': use an address of this node: "),
        ({"address": "192.168.111.7", "interface": "e0"}, "underlay.address: '192.168.111.7': not an address of e0; "),
        ({"address": "192.168.111.128", "interface": "ens33"}, "underlay.interface: 'ens33': no such interface; "),
        ({"address": "127.0.0.1"}, "underlay.address: '127.0.0.1': give the unicast address of one node's"),
        ({"address": "fe80::1"}, "underlay.address: 'fe80::1': give the unicast address of one node's"),
        ({}, "underlay.interface: None: there is no default route; name one of "),
        ({"interface": ["gone0", "e0"], "address": "fd00:111::128"}, "registry.peers[0].vtep: '192.168.111.129': use"),
    ],
)
def test_check_agrees_with_run(vxland: Vxland, underlay: dict[str, Any], line: str) -> None:
    """`vxland check` on the node accepted a file whose underlay `run` then refused."""
    vxland.settings["underlay"] = underlay
    if underlay.get("address") == "fe80::1":
        vxland.peers.clear()
    found = refused(vxland, 2)
    assert found.startswith(line)
    checked = check(vxland)
    assert (checked.returncode, checked.stdout, checked.stderr) == (2, found + "\n", "")


def test_check_on_another_machine(vxland: Vxland) -> None:
    """A machine that has nothing the file names: a note; with --here it is the node, and refuses."""
    vxland.settings["underlay"] = {"interface": "ens33", "address": "10.9.8.7"}
    checked = check(vxland)
    assert (checked.returncode, checked.stdout) == (0, f"{vxland.path}: good\n")
    assert checked.stderr.startswith("note: the underlay is not on this machine, so an MTU of 1500 is assumed for it (")
    checked = check(vxland, "--here")
    assert checked.returncode == 2
    assert checked.stdout == refused(vxland, 2) + "\n"


def test_the_first_existing_interface(node: Node, vxland: Vxland) -> None:
    """Only nodes of etcd and Kubernetes accepted a list of interfaces, patterns and can_reach."""
    vxland.settings["underlay"] = {"interface": ["gone0", node.underlay[4]]}
    vxland.start()
    assert vxland.wait_for("devices_open")["underlay"] == "e0"
    assert vxland.stop() == 0
    vxland.settings["underlay"] = {"interface_regex": "^e[0-9]$"}
    vxland.start()
    assert vxland.wait_for("devices_open")["address"] == node.underlay[4]
