"""Protection against injection, with a kernel peer and forgers: strict checks and input filters.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
                                  =====  further addresses of node b's e0, which forgers use
"""

from __future__ import annotations

import copy
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether

from tests.pinging import Pinging
from vxland.lab import shell

from .conftest import running
from .injecting import (
    C_VTEP,
    NODE_C,
    TABLE,
    UNKNOWN,
    arrives,
    elements,
    everything_moves,
    further_addresses,
    listed,
    only_peers_arrive,
    refused,
    restart,
)
from .lab import Lab
from .ns import wait_until
from .wire import Forger, Listener, vxlan_header

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", params=["compiled", "interpreted", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """The usual lab; two workers if the gear has more than one."""
    made = Lab(tmp_path_factory.mktemp("injection"), request.param)
    made.vxland.settings["datapath"] |= {"workers": 2}
    made.vxland.settings["firewall"] = {"resync_s": 1}
    yield from running(made)


@pytest.fixture(autouse=True)
def _as_before(lab: Lab) -> Iterator[None]:
    """Further underlay addresses at node b; afterwards the node has its original settings."""
    further_addresses(lab)
    for device in (
        "all",
        "flannel.1",
        "e0",
    ):  # a node's own address arrives through the tunnel here, and replies bypass it
        shell.set_sysctl(lab.a.ns.name, f"ipv4.conf.{device}.rp_filter", 0)
    settings = copy.deepcopy(lab.vxland.settings)
    yield
    if lab.vxland.settings != settings:
        lab.vxland.settings = settings
        restart(lab.vxland)


def test_strict_accepts_only_a_nodes_own(lab: Lab) -> None:
    """The same forged frames with vtep and with strict, by reload; the kernel peer's traffic passes with both."""
    lab.vxland.peers.append(NODE_C)
    lab.vxland.reload()
    assert arrives(lab, lab.b.vtep, "10.244.2.5", 5) == 5
    lab.vxland.settings["security"]["source_check"] = "strict"
    lab.vxland.reload()
    before = refused(lab.vxland, "inner_source_foreign")
    for src in ("10.244.2.5", "10.244.9.9", "192.0.2.1", C_VTEP):
        assert arrives(lab, lab.b.vtep, src, 5) == 0
    assert refused(lab.vxland, "inner_source_foreign") == before + 20
    assert arrives(lab, C_VTEP, "10.244.2.5", 5) == 5
    assert arrives(lab, lab.b.vtep, lab.b.vtep, 5) == 5  # the node itself, from its underlay address
    everything_moves(lab)
    with Listener(lab.a.ns, lab.a.gateway[4]) as listener, lab.b.ns.socket(lab.b.vtep) as sock:
        sock.sendto(b"end", (lab.a.gateway[4], listener.port))  # the kernel's route through flannel.1
        listener.receive_until(b"end")
    assert refused(lab.vxland, "inner_source_foreign") == before + 20


def test_strict_checks_arp(lab: Lab) -> None:
    """The kernel accepts what vtep lets through: an address of node c at the forger's MAC."""
    macs, forged = (lab.b.mac(), lab.a.mac()), "02:00:00:00:00:99"

    def claim(address: str) -> None:
        reply = ARP(op=2, hwsrc=forged, psrc=address, hwdst=macs[1], pdst=lab.a.base[4])
        with Forger(lab.b.ns, lab.b.vtep, lab.a.vtep) as forger:
            forger.send(vxlan_header() + bytes(Ether(src=macs[0], dst=macs[1]) / reply))

    def known() -> dict[str, str]:
        entries = lab.a.ns.ip_json("neigh show dev flannel.1")
        return {entry["dst"]: entry.get("lladdr", "") for entry in entries}

    lab.a.ns.ip("neigh replace 10.244.2.77 lladdr 02:00:00:00:00:0c dev flannel.1 nud stale")
    lab.vxland.settings["security"]["source_check"] = "strict"
    lab.vxland.reload()
    before = refused(lab.vxland, "inner_source_foreign")
    claim("10.244.2.77")
    wait_until(lambda: refused(lab.vxland, "inner_source_foreign") == before + 1, "the forged reply is refused")
    assert known()["10.244.2.77"] == "02:00:00:00:00:0c"
    lab.vxland.settings["security"]["source_check"] = "vtep"
    lab.vxland.reload()

    def believed() -> bool:  # not within the first second of an entry, the kernel's locktime
        claim("10.244.2.77")
        return known()["10.244.2.77"] == forged

    wait_until(believed, "the forged reply is believed")
    lab.a.ns.ip("neigh del 10.244.2.77 dev flannel.1")


def test_reloads_of_the_check_lose_nothing(lab: Lab, tmp_path: Path) -> None:
    """Ten changes between strict and vtep during pings every 2 ms."""
    with Pinging(lab.a.pod_ns.name, lab.b.pod[4], tmp_path / "ping", 0.002) as pinging:
        for number in range(10):
            lab.vxland.settings["security"]["source_check"] = ("strict", "vtep")[number % 2]
            lab.vxland.reload()
        pinging.wait()
    assert not pinging.lost()


def test_unknown_senders_are_dropped_before_they_wake_vxland(lab: Lab) -> None:
    """The daemon does not receive them, the kernel counts them; the filter follows peers that join and leave."""
    lab.vxland.settings["security"]["input_filter"] = "nftables"
    restart(lab.vxland)
    only_peers_arrive(lab)


@pytest.mark.parametrize("spoil", ["delete table", "flush chain", "delete element", "add element"])
def test_a_spoiled_table_is_restored(lab: Lab, spoil: str) -> None:
    """By the next check, whatever the damage."""
    lab.vxland.settings["security"]["input_filter"] = "nftables"
    restart(lab.vxland)
    wait_until(lambda: elements(lab) == {lab.b.vtep}, "the filter's table", lambda: listed(lab))
    right = re.sub(r"packets \d+ bytes \d+", "", listed(lab))
    what = {
        "delete table": "",
        "flush chain": "input",
        "delete element": f"hosts {{ {lab.b.vtep} }}",
        "add element": f"hosts {{ {UNKNOWN} }}",
    }[spoil]
    lab.a.ns.run("nft", f"{spoil} {' '.join(TABLE)} {what}")
    wait_until(lambda: re.sub(r"packets \d+ bytes \d+", "", listed(lab)) == right, "as it was", lambda: listed(lab))
    everything_moves(lab)


def test_the_table_is_removed_with_its_daemon(lab: Lab) -> None:
    """It would drop nodes that join later: removed at the end, by the next start without it, and by --cleanup."""
    lab.vxland.settings["security"]["input_filter"] = "nftables"
    restart(lab.vxland)
    wait_until(lambda: elements(lab) == {lab.b.vtep}, "the filter's table")
    assert lab.vxland.stop() == 0
    assert listed(lab) == ""
    for another in (True, False):
        lab.vxland.start()
        wait_until(lambda: elements(lab) == {lab.b.vtep}, "the filter's table")
        assert lab.vxland.stop(signal.SIGKILL) == -signal.SIGKILL
        assert elements(lab) == {lab.b.vtep}
        if another:
            lab.vxland.settings["security"]["input_filter"] = "off"
            lab.vxland.start()
            assert listed(lab) == ""
            assert lab.vxland.stop() == 0
            lab.vxland.settings["security"]["input_filter"] = "nftables"
    lab.a.ns.run(*lab.vxland.command("--cleanup")[4:])
    assert listed(lab) == ""
    lab.vxland.start()
