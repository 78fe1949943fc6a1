"""Protection against injection, with a kernel peer and forgers: strict checks, input filters, a peer behind NAT.

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

from .asking import ask_json
from .conftest import running
from .daemon import Gear
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
from .lab import FAMILIES, Family, Lab
from .ns import Ns, wait_until
from .wire import Capture, Forger, Listener, inner_udp, vxlan_header

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
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


class NatLab(Lab):
    """Node b behind a router that gives its datagrams another source than the address that leads to it.

    a 192.168.111.128 ---- .140 and .150 router 10.99.0.1 ---- 10.99.0.2 b
    """

    ADVERTISED, SEEN = "192.168.111.140", "192.168.111.150"
    RULES = """
    table ip nat {
        chain pre {
            type nat hook prerouting priority dstnat
            ip daddr 192.168.111.140 udp dport 8472 dnat to 10.99.0.2
        }
        chain post {
            type nat hook postrouting priority srcnat
            ip saddr 10.99.0.2 snat to 192.168.111.150
        }
    }
    """

    def build(self) -> None:
        """Build as Lab does, with the router between the nodes."""
        self.router = Ns(f"{self.a.ns.name}-nat")
        self.router.create()
        self.b.underlay[4] = self.b.vtep = "10.99.0.2"
        for node in self.nodes:
            node.ns.create()
            node.pod_ns.create()
        for node, device in zip(self.nodes, ("left", "right"), strict=True):
            self.router.batch(f"link add {device} type veth peer name e0 netns {node.ns.name}", f"link set {device} up")
            node.build()
        self.router.batch(
            f"addr add {self.ADVERTISED}/24 dev left",
            f"addr add {self.SEEN}/24 dev left",
            "addr add 10.99.0.1/24 dev right",
        )
        shell.set_sysctl(self.router.name, "ipv4.ip_forward", 1)
        shell.run(*shell.exec_in(self.router.name, "nft", "-f", "-"), stdin=self.RULES)
        self.b.ns.ip("route add default via 10.99.0.1")

    def down(self) -> None:
        """Remove the lab and the router."""
        try:
            super().down()
        finally:
            self.router.delete()


@pytest.mark.parametrize("gear", ["compiled", "interpreted"])
@pytest.mark.parametrize("input_filter", ["off", "nftables"])
@pytest.mark.usefixtures("_able")
def test_a_peer_behind_nat_needs_its_sources(gear: Gear, input_filter: str, tmp_path: Path) -> None:
    """Refused without `security.sources`; with them, by reload, all traffic crosses, with strict too."""
    made = NatLab(tmp_path, gear)
    made.vxland.settings["security"] = {"source_check": "strict", "input_filter": input_filter}
    try:
        made.build()
        made.kernel.create()
        made.vxland.peers.append(
            {"subnet": list(made.b.subnet.values()), "vtep": NatLab.ADVERTISED, "mac": made.b.mac()}
        )
        made.vxland.start()
        made.kernel.add_peer(made.a, made.a.mac())
        with Capture(made.a.ns) as capture:
            assert made.b.pod_ns.attempt("ping", "-c", "1", "-W", "1", made.a.pod[4]).returncode == 1
            assert {datagram.outer_src for datagram in capture.datagrams()} == {NatLab.SEEN}
        made.vxland.peers[0]["sources"] = ["192.168.111.144/28"]
        made.vxland.reload()
        wait_until(
            lambda: made.b.pod_ns.attempt("ping", "-c", "1", "-W", "1", made.a.pod[4]).returncode == 0,
            "the peer is let in",
            made.vxland.said,
        )
        everything_moves(made)
        (peer, _) = ask_json(made.vxland, "peers")
        assert peer["sources"] == ["192.168.111.144/28"]
    finally:
        made.down()


@pytest.mark.usefixtures("_able")
@pytest.mark.parametrize("gear", ["compiled", "interpreted"])
@pytest.mark.parametrize("underlay", FAMILIES)
def test_sockets_receive_only_at_the_vteps_address(gear: Gear, underlay: Family, tmp_path: Path) -> None:
    """Each worker's socket is bound to it, and does not receive for another address of the node; IPv4 and IPv6."""
    other, unknown = {4: ("192.168.111.200", UNKNOWN), 6: ("fd00:111::200", "fd00:111::131")}[underlay]
    made = Lab(tmp_path, gear, underlay=underlay)
    made.vxland.settings["security"] = {"source_check": "strict", "input_filter": "nftables"}
    made.vxland.settings["datapath"] |= {"workers": 2}
    try:
        made.up()
        for node, address in ((made.a, other), (made.b, unknown)):
            node.ns.ip(f"addr add {address}/{24 if underlay == 4 else 64} dev e0" + (" nodad" if underlay == 6 else ""))
        lines = made.a.ns.run("ss", "-Hlun", "sport", "=", ":8472").splitlines()
        local = f"{made.a.vtep}:8472" if underlay == 4 else f"[{made.a.vtep}]:8472"
        assert [line.split()[3] for line in lines] == [local] * (2 if gear == "compiled" else 1)
        everything_moves(made)
        macs, addresses = (made.b.mac(), made.a.mac()), (made.b.gateway[4], made.a.gateway[4])
        with Listener(made.a.ns, addresses[1]) as listener:
            for outer_src, outer_dst in ((made.b.vtep, other), (unknown, made.a.vtep), (unknown, other)):
                with Forger(made.b.ns, outer_src, outer_dst) as forger:
                    for _ in range(5):
                        forger.send(vxlan_header() + inner_udp(macs, addresses, listener.port, b"forged"))
            for _ in range(8):  # from several ports, so that each worker gets some
                with Forger(made.b.ns, made.b.vtep, made.a.vtep) as known:
                    known.send(vxlan_header() + inner_udp(macs, addresses, listener.port, b"end"))
                assert listener.receive_until(b"end") == {}
        assert refused(made.vxland, "unknown_vtep") == 0
    finally:
        made.down()
