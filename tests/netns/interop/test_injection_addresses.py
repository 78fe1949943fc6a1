"""Addresses that datagrams come from and go to: a peer behind NAT, and the address to which sockets are bound.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vxland.lab import shell

from .asking import ask_json
from .daemon import Gear
from .injecting import UNKNOWN, everything_moves, refused
from .lab import FAMILIES, DataPath, Family, Lab
from .ns import Ns, wait_until
from .wire import Capture, Forger, Listener, inner_udp, vxlan_header

pytestmark = pytest.mark.netns


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


@pytest.mark.parametrize("data_path", ["compiled", "interpreted", "fast-path"])
@pytest.mark.parametrize("input_filter", ["off", "nftables"])
@pytest.mark.usefixtures("_able")
def test_a_peer_behind_nat_needs_its_sources(data_path: DataPath, input_filter: str, tmp_path: Path) -> None:
    """Refused without `security.sources`; with them, by reload, all traffic crosses, with strict too."""
    made = NatLab(tmp_path, data_path)
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
