"""A node whose network or subnet changes: its old addresses and routes are removed, those of others stay.

flannel.1 (vxland) of a node without peers; lab.py has the addresses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .lab import NETWORK, Vxland
from .ns import wait_until

pytestmark = pytest.mark.netns

BEFORE, AFTER = ["10.244.0.0/24", "fd00:10:244:10::/64"], ["10.42.7.0/24", "fd00:10:42:7::/64"]
AFTER_NETWORK = ["10.42.0.0/16", "fd00:10:42::/48"]
USERS = ["192.0.2.99/32", "192.0.2.1/24"]


def addresses(vxland: Vxland) -> list[str]:
    """Return the addresses of flannel.1 in order, without link-local ones."""
    (link,) = vxland.node.ns.ip_json("addr show flannel.1")
    found: list[dict[str, Any]] = link["addr_info"]
    return [f"{entry['local']}/{entry['prefixlen']}" for entry in found if entry["scope"] == "global"]


def blackholes(vxland: Vxland) -> set[str]:
    """Return all blackhole routes of the node."""
    ns = vxland.node.ns
    every = ns.ip_json("-4 route show type blackhole") + ns.ip_json("-6 route show type blackhole")
    return {str(route["dst"]) for route in every}


def settle(vxland: Vxland, wanted: list[str]) -> None:
    """Start it, and return once flannel.1 has these addresses."""
    vxland.start()
    wait_until(lambda: addresses(vxland) == wanted, str(wanted), lambda: f"{addresses(vxland)}\n{vxland.said()}")


@pytest.mark.parametrize("known_by", ["subnet.env", "mark"])
def test_the_old_network_is_removed(lone: Vxland, known_by: str) -> None:
    """The old overlay address stayed first on flannel.1, and was the source of the node's packets to pods.

    The old blackhole stayed too. Both are known from the previous subnet.env; the address also by its mark.
    """
    lone.settings["firewall"] = {"blackhole": True}
    settle(lone, ["10.244.0.0/32", "fd00:10:244:10::/128"])
    ns = lone.node.ns
    for address in USERS:
        ns.ip(f"addr add {address} dev flannel.1")
    ns.batch("route add blackhole 203.0.113.0/24 metric 4294967295", "route add blackhole 198.51.100.0/24")
    assert blackholes(lone) == {*BEFORE, "203.0.113.0/24", "198.51.100.0/24"}
    lone.stop()
    if known_by == "mark":
        lone.subnet_file.unlink()
    lone.settings["overlay"] |= {"network": AFTER_NETWORK, "subnet": AFTER}
    settle(lone, [*USERS, "10.42.7.0/32", "fd00:10:42:7::/128"])
    others = {*AFTER, "203.0.113.0/24", "198.51.100.0/24"}
    wait_until(lambda: blackholes(lone) >= others, "the new blackholes", lone.said)
    if known_by == "subnet.env":
        wait_until(lambda: blackholes(lone) == others, "no old blackhole", lone.said)
    assert lone.stop() == 0


def test_one_family_less(lone: Vxland) -> None:
    """A dual-stack node that becomes IPv4 only keeps no IPv6 address of the overlay."""
    settle(lone, ["10.244.0.0/32", "fd00:10:244:10::/128"])
    lone.stop()
    lone.settings["overlay"] |= {"network": NETWORK[4], "subnet": BEFORE[0]}
    settle(lone, ["10.244.0.0/32"])
    assert lone.stop() == 0


def test_what_flanneld_left_in_another_network(lone: Vxland) -> None:
    """Its address has no mark, and its blackhole no metric; subnet.env shows that they were the node's."""
    ns = lone.node.ns
    ns.batch(
        "tuntap add dev flannel.1 mode tap",
        "addr add 10.77.3.0/32 dev flannel.1",
        "link set flannel.1 up",
        "route add blackhole 10.77.3.0/24",
    )
    lone.subnet_file.write_text("FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.3.1/24\nFLANNEL_MTU=1450\n")
    settle(lone, ["10.244.0.0/32", "fd00:10:244:10::/128"])
    wait_until(lambda: blackholes(lone) == set(), "no old blackhole", lone.said)
    assert lone.stop() == 0


def test_disabled_rules_are_removed(lone: Vxland) -> None:
    """After masquerade and forward were switched off the rules stayed, because such a node ran no iptables."""
    ns = lone.node.ns
    lone.settings["firewall"] = {"masquerade": True, "forward": True}
    settle(lone, ["10.244.0.0/32", "fd00:10:244:10::/128"])
    assert "FLANNEL" in ns.run("iptables-save")
    lone.stop()
    del lone.settings["firewall"]
    lone.start()
    lone.wait_for("firewall_swept")
    assert "FLANNEL" not in ns.run("iptables-save") + ns.run("ip6tables-save")
    assert lone.stop() == 0


@pytest.mark.parametrize("change", [{"vni": 5}, {"device": "vxland0"}], ids=lambda change: next(iter(change)))
def test_the_device_of_the_previous_name(lone: Vxland, change: dict[str, Any]) -> None:
    """After a change of VNI or device name the old TAP stayed, with address and routes; others' TAPs stay."""
    ns = lone.node.ns
    settle(lone, ["10.244.0.0/32", "fd00:10:244:10::/128"])
    lone.stop()
    ns.batch("tuntap add dev users mode tap", "addr add 10.244.0.0/32 dev users")
    lone.settings["overlay"] |= change
    lone.start()
    lone.wait_for("former_device_removed")
    wait_until(lambda: "flannel.1" not in ns.links(), "the old device is gone", lone.said)
    assert {"users", "flannel.5" if "vni" in change else "vxland0"} <= ns.links()
    assert lone.stop() == 0


def test_a_device_of_a_running_vxland(lone: Vxland, tmp_path: Path) -> None:
    """Two instances with one subnet on one machine are a mistake; neither deletes the other's device."""
    settle(lone, ["10.244.0.0/32", "fd00:10:244:10::/128"])
    place = tmp_path / "second"
    place.mkdir()
    second = Vxland(lone.node, place, lone.gear)
    second.settings["overlay"] |= {"vni": 5, "port": 8473}
    try:
        second.start()
        assert {"flannel.1", "flannel.5"} <= lone.node.ns.links()
    finally:
        assert second.stop() == 0
    assert lone.stop() == 0
