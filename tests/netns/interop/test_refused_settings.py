"""Configuration files that `vxland run` and `vxland check` refuse or accept: a line per problem, and an exit code.

    +------------ vxi-<pid>-<n>-a ------------+
    |  e0  192.168.111.128/24, MTU 1500 ------+----- e0 of an empty namespace
    +-----------------------------------------+

Exit code 2 is for the configuration; test_refusals.py has the refusals because of the machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from .asking import ask_json
from .daemon import ROOT
from .lab import Node, Vxland
from .starting import check, refusals, refused

pytestmark = pytest.mark.netns


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


def test_check_in_a_container_without_a_network(vxland: Vxland) -> None:
    """A good file without an underlay was refused where `docker run --network none` checked it; a bad one still is."""
    vxland.settings["underlay"] = {}
    wrapper = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    checked = check(vxland, wrapper=wrapper)
    assert (checked.returncode, checked.stdout) == (0, f"{vxland.path}: good\n")
    assert "there is no default route" in checked.stderr
    assert check(vxland, "--here", wrapper=wrapper).returncode == 2
    vxland.settings["overlay"]["mtu"] = 1500
    assert check(vxland, wrapper=wrapper).stdout.startswith("overlay.mtu: 1500: ")


def test_the_first_existing_interface(node: Node, vxland: Vxland) -> None:
    """Only nodes of etcd and Kubernetes accepted a list of interfaces, patterns and can_reach."""
    vxland.settings["underlay"] = {"interface": ["gone0", node.underlay[4]]}
    vxland.start()
    assert vxland.wait_for("devices_open")["underlay"] == "e0"
    assert vxland.stop() == 0
    vxland.settings["underlay"] = {"interface_regex": "^e[0-9]$"}
    vxland.start()
    assert vxland.wait_for("devices_open")["address"] == node.underlay[4]
