"""Packets that do not fit: a router with a smaller MTU on the underlay, and an underlay that shrinks.

     node a                  router                  node b
       e0 ---- 1500 ---- ra         rb ---- 1400 ---- e0
     vxland                                       kernel vxlan
   in either gear,
   or with the fast path

The rest is as in lab.py. Node b's e0 keeps its MTU of 1500 for receiving; only the router's link to it is narrow.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vxland.lab import shell

from .asking import ask_json
from .conftest import running
from .lab import FAMILIES, OVERHEAD, UNDERLAY_MTU, DataPath, Family, Lab, Node
from .ns import Ns, wait_until
from .traffic import HEADERS, ping, send_tcp

pytestmark = pytest.mark.netns

NARROW = 1400
FITS = NARROW - OVERHEAD[4]
DATA_PATHS: tuple[DataPath, ...] = ("compiled", "interpreted", "fast-path")


class RoutedLab(Lab):
    """A lab with a router between the nodes, whose link to node b has an MTU of NARROW."""

    def __init__(self, directory: Path, data_path: DataPath) -> None:
        super().__init__(directory, data_path)
        self.router = Ns(self.a.ns.name + "-r")

    def build(self) -> None:
        """Make the namespaces; e0 of each node ends at the router."""
        for node in self.nodes:
            node.ns.create()
            node.pod_ns.create()
        self.router.create()
        shell.set_sysctl(self.router.name, "ipv4.ip_forward", 1)
        for node, other in ((self.a, self.b), (self.b, self.a)):
            near, net = f"r{node.letter}", f"10.9.{node.number}"
            self.router.ip(f"link add {near} type veth peer name e0 netns {node.ns.name}")
            self.router.batch(f"link set {near} up", f"addr add {net}.1/24 dev {near}")
            self.router.ip(f"route add {node.vtep}/32 dev {near}")
            node.build()
            node.ns.batch(f"addr add {net}.2/24 dev e0", f"route add {other.vtep}/32 via {net}.1")
        self.router.ip(f"link set rb mtu {NARROW}")

    def down(self) -> None:
        """Remove the lab and the router."""
        try:
            super().down()
        finally:
            self.router.delete()


@pytest.fixture(params=DATA_PATHS)
def routed(request: pytest.FixtureRequest, tmp_path: Path, _able: None) -> Iterator[RoutedLab]:
    """A lab with a narrow router; node a's datagrams have DF set."""
    made = RoutedLab(tmp_path, request.param)
    made.vxland.settings["underlay"]["df"] = "set"
    for item in running(made):
        assert isinstance(item, RoutedLab)
        yield item


@pytest.fixture(params=DATA_PATHS)
def plain(request: pytest.FixtureRequest, tmp_path: Path, _able: None) -> Iterator[Lab]:
    """A lab without a router, whose pods' MTU is configured."""
    made = Lab(tmp_path, request.param)
    made.vxland.settings["overlay"]["mtu"] = made.a.mtu
    yield from running(made)


def refused(source: Ns, address: str, family: Family, size: int) -> int | None:
    """Return the MTU that `ping` gets when a packet of `size` bytes with DF does not pass."""
    done = source.attempt("ping", "-c", "1", "-W", "1", "-s", str(size - HEADERS[family]), "-M", "do", address)
    found = re.search(r"mtu ?= ?(\d+)", done.stdout + done.stderr)
    return int(found[1]) if found else None


def learned(source: Ns, address: str) -> int | None:
    """Return the path MTU that a pod's kernel has for a destination."""
    (route,) = source.ip_json(f"route get {address}")
    return next((int(metrics["mtu"]) for metrics in route.get("metrics", []) if "mtu" in metrics), None)


def status(lab: Lab) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return the plane of node a from vxlandctl."""
    return ask_json(lab.vxland, "status")["planes"][0]


def set_underlay_mtu(lab: Lab, mtu: int) -> None:
    """Change both ends of the link between the nodes."""
    for node in lab.nodes:
        node.ns.ip(f"link set e0 mtu {mtu}")


def ends(lab: Lab) -> tuple[Node, Node]:
    """Return node a and node b."""
    return lab.a, lab.b


def gets_what_fits(lab: Lab, family: Family) -> None:
    """Return once the pod of node a has the MTU of the path to pod b."""
    near, target = lab.a, lab.b.pod[family]
    wait_until(lambda: refused(near.pod_ns, target, family, near.mtu) == FITS, "the pod has it", lab.vxland.said)
    assert learned(near.pod_ns, target) == FITS


def test_a_pod_learns_a_routers_mtu(routed: RoutedLab) -> None:
    """The router sends it to this node, the kernel stores it, and vxland sends it to the pod's ping."""
    near, far = ends(routed)
    for family in FAMILIES:
        gets_what_fits(routed, family)
        assert status(routed)["underlay"]["narrower"] == {far.vtep: NARROW}
        ping(near.pod_ns, far.pod[family], FITS - HEADERS[family])
    assert ask_json(routed.vxland, "stats")["encap"]["drops"]["too_big"] > 0
    assert routed.vxland.events("path_mtu_changed")


def test_tcp_adapts_to_the_path(routed: RoutedLab) -> None:
    """From the pod, with superframes: the stream arrives whole, in segments that fit the router's link."""
    near, far = ends(routed)
    for family in reversed(FAMILIES):  # the first one finds the MTU
        send_tcp(near.pod_ns, far.pod_ns, far.pod[family], 2_000_000)
        assert learned(near.pod_ns, far.pod[family]) == FITS


def test_a_path_mtu_expires_with_the_kernels(routed: RoutedLab) -> None:
    """Path MTUs are the kernel's; when it drops one, packets of full size are tried again."""
    near, far = ends(routed)
    wait_until(lambda: refused(near.pod_ns, far.pod[4], 4, near.mtu) == FITS, "the pod has it", routed.vxland.said)
    routed.router.ip(f"link set rb mtu {UNDERLAY_MTU}")
    near.ns.ip("route flush cache")
    near.pod_ns.ip("route flush cache")
    wait_until(lambda: status(routed)["underlay"]["narrower"] == {}, "the way is wide again", routed.vxland.said)
    ping(near.pod_ns, far.pod[4], near.mtu - HEADERS[4])


def test_an_underlay_that_shrinks(plain: Lab) -> None:
    """A configured MTU stays: packets without DF cross in fragments, the sender of others gets an ICMP error."""
    near, far = ends(plain)
    for family in FAMILIES:
        ping(near.pod_ns, far.pod[family], near.mtu - HEADERS[family])
    set_underlay_mtu(plain, NARROW)
    wait_until(lambda: status(plain)["underlay"]["mtu"] == NARROW, "the underlay is followed", plain.vxland.said)
    assert status(plain)["mtu"] == near.mtu
    with near.pod_ns.socket(near.pod[4]) as sender, far.pod_ns.socket(far.pod[4]) as receiver:
        for one, other in ((sender, receiver), (receiver, sender)):
            one.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT: linux/in.h
            one.sendto(bytes(near.mtu - HEADERS[4]), other.getsockname())
            assert other.recv(1 << 16) == bytes(near.mtu - HEADERS[4])
    done = ask_json(plain.vxland, "stats")
    assert done["encap"]["fragmented"] > 0
    assert done["decap"]["fragmented"] > 0
    for family in FAMILIES:
        gets_what_fits(plain, family)
    assert plain.vxland.events("underlay_mtu_changed")[0]["underlay_mtu"] == NARROW


def test_tcp_survives_an_underlay_that_shrinks(plain: Lab) -> None:
    """Superframes whose segments are now too big return to the sender, which cuts smaller ones."""
    near, far = ends(plain)
    set_underlay_mtu(plain, NARROW)
    for family in FAMILIES:
        send_tcp(near.pod_ns, far.pod_ns, far.pod[family], 2_000_000)
    assert ask_json(plain.vxland, "stats")["encap"]["frames"] > 0


@pytest.fixture(params=["compiled", "fast-path"])
def automatic(request: pytest.FixtureRequest, tmp_path: Path, _able: None) -> Iterator[Lab]:
    """A lab without a router, whose pods' MTU is the underlay's less the overhead."""
    yield from running(Lab(tmp_path, request.param))


def test_mtu_auto_follows_the_underlay(automatic: Lab) -> None:
    """The device and subnet.env follow, down and up; then this node's kernel sends the ICMP errors to pods."""
    near, far = ends(automatic)

    def has_followed(inner: int) -> bool:
        device = near.ns.ip_json("link show flannel.1")[0]["mtu"]
        return bool(device == inner) and f"FLANNEL_MTU={inner}\n" in automatic.vxland.subnet_file.read_text()

    for mtu in (NARROW, UNDERLAY_MTU):
        set_underlay_mtu(automatic, mtu)
        inner = mtu - OVERHEAD[4]
        wait_until(partial(has_followed, inner), "device and subnet.env have followed", automatic.vxland.said)
        for family in FAMILIES:
            near.pod_ns.ip("route flush cache")
            near.pod_ns.ip("-6 route flush cache")
            if mtu == NARROW:
                assert refused(near.pod_ns, far.pod[family], family, near.mtu) == inner
            ping(near.pod_ns, far.pod[family], inner - HEADERS[family])
