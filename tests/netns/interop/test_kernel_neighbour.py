"""TCP between a vxland node whose pods, or whose clients, have links with other MTUs, and a kernel vxlan node.

    node a: vxland                                node b: the kernel's vxlan, as flannel sets it up, or vxland
    pod a - cni0 -+- flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b          (lab.py has the addresses)
    client - c0 --+                  wire

The wire is a plain veth pair, which carries pieces of 64 KiB that are neither cut nor summed, or one that only carries
packets of the MTU. The kernel counts a packet too big for its next link (FragFails, FragCreates): if both ends of a
stream know the MTUs of their own links, node a's kernel must not count any.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from .conftest import running
from .lab import FAMILIES, OVERHEAD, UNDERLAY_MTU, Family, Kind, Lab, Node
from .ns import Ns, wait_until
from .traffic import flowing, no_checksum_errors, send_tcp
from .wires import WIRES, Wire

pytestmark = pytest.mark.netns

STREAM = 4_000_000
"""More bytes than a stream gets across by time-outs alone, with one segment each."""
NARROW = 1280
CLIENT: dict[Family, str] = {4: "172.30.0.2", 6: "fd00:172:30::2"}
both_families = pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
both_ways = pytest.mark.parametrize("incoming", [True, False], ids=["from-kernel", "to-kernel"])


class NeighbourLab(Lab):
    """A lab with a client behind node a, whose address is in no subnet of the overlay."""

    def __init__(self, directory: Path, other: Kind, wire: Wire, fast_path: str) -> None:
        super().__init__(directory, "compiled", other)
        self.wire = wire
        if fast_path == "auto":
            self.with_fast_path()
        self.client_ns = Ns(self.a.ns.name + "-client")

    def build(self) -> None:
        """Build the lab and the client."""
        super().build()
        self.client_ns.create()
        self.a.ns.ip(f"link add c0 type veth peer name eth0 netns {self.client_ns.name}")
        self.a.ns.batch("link set c0 up", "addr add 172.30.0.1/24 dev c0", "addr add fd00:172:30::1/64 dev c0 nodad")
        self.client_ns.batch(
            "link set eth0 up",
            f"addr add {CLIENT[4]}/24 dev eth0",
            f"addr add {CLIENT[6]}/64 dev eth0 nodad",
            "route add default via 172.30.0.1",
            "route add ::/0 via fd00:172:30::1",
        )

    def up(self) -> None:
        """Start, and let node b send to the client through node a."""
        super().up()
        self.b.ns.ip(f"route add 172.30.0.0/24 via {self.a.base[4]} dev flannel.1 onlink")
        self.b.ns.ip(f"route add fd00:172:30::/64 via {self.a.base[6]} dev flannel.1 onlink")

    def down(self) -> None:
        """Remove the lab and the client."""
        try:
            super().down()
        finally:
            self.client_ns.delete()


LABS = [(other, wire, "auto") for other in ("kernel", "compiled") for wire in WIRES]
LABS += [("kernel", wire, "off") for wire in WIRES]


@pytest.fixture(scope="module", params=LABS, ids="-".join)
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None
) -> Iterator[NeighbourLab]:
    """A vxland node and either neighbour over either wire, with and without the fast path."""
    for made in running(NeighbourLab(tmp_path_factory.mktemp("neighbour"), *request.param)):
        assert isinstance(made, NeighbourLab)
        yield made


@contextmanager
def pods_of(node: Node, mtu: int) -> Iterator[None]:
    """Another MTU for the node's bridge, its pod, and both ends of the pod's link."""

    def set_mtu(wanted: int) -> None:
        node.pod_ns.ip(f"link set eth0 mtu {wanted}")
        node.ns.batch(f"link set pod mtu {wanted}", f"link set cni0 mtu {wanted}")

    set_mtu(mtu)
    try:
        yield
    finally:
        set_mtu(node.mtu)
        if mtu < NARROW:  # below this the kernel removes IPv6 from a device
            node.ns.ip(f"addr add {node.gateway[6]}/64 dev cni0 nodad")
            node.pod_ns.batch(f"addr add {node.pod[6]}/64 dev eth0 nodad", f"route add ::/0 via {node.gateway[6]}")


@contextmanager
def client_link(lab: NeighbourLab, mtu: int, client_mtu: int) -> Iterator[None]:
    """Another MTU for the client's link; the client's own end may have a third, as behind a router."""

    def set_mtu(wanted: int, client: int) -> None:
        lab.a.ns.ip(f"link set c0 mtu {wanted}")
        lab.client_ns.ip(f"link set eth0 mtu {client}")

    set_mtu(mtu, client_mtu)
    try:
        yield
    finally:
        set_mtu(UNDERLAY_MTU, UNDERLAY_MTU)


def too_big(ns: Ns) -> int:
    """Return the packets that a namespace's kernel found too big for their next link, in both families."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        ip = dict(zip(lines[0].split()[1:], map(int, lines[1].split()[1:]), strict=True))
        found = (line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
        ip6 = {key: int(value) for key, value in found}
        return sum((ip["FragFails"], ip["FragCreates"], ip6["Ip6InTooBigErrors"], ip6["Ip6FragFails"]))

    return ns.inside(read)


def send(lab: Lab, family: Family, incoming: bool, target: tuple[Ns, str] | None = None) -> None:
    """Send a stream between pod b and pod a, or another target of node a; content and checksums arrive correct."""
    near = (lab.a.pod_ns, lab.a.pod[family]) if target is None else target
    far = (lab.b.pod_ns, lab.b.pod[family])
    source, sink = (far, near) if incoming else (near, far)
    with no_checksum_errors(near[0], far[0], lab.a.ns, lab.b.ns):
        send_tcp(source[0], sink[0], sink[1], STREAM)


POD_MTUS = [(family, mtu) for family in FAMILIES for mtu in (600, 1279, 1280, 1400, 1449, 1450)]


@both_ways
@pytest.mark.parametrize(("family", "mtu"), [(f, mtu) for f, mtu in POD_MTUS if f == 4 or mtu >= NARROW])
def test_pods_with_a_smaller_mtu(lab: NeighbourLab, family: Family, mtu: int, incoming: bool) -> None:
    """Their streams from a kernel node ran at 0.2 Mbit/s or hung: superframes got a guessed segment size."""
    with pods_of(lab.a, mtu):
        before = too_big(lab.a.ns)
        send(lab, family, incoming)
        assert too_big(lab.a.ns) == before


@both_ways
@both_families
@pytest.mark.parametrize("mtu", [1451, 1500, 9000])
def test_pods_with_a_larger_mtu(lab: NeighbourLab, family: Family, mtu: int, incoming: bool) -> None:
    """Larger than the device's: path MTU discovery finds what it carries, as between kernel nodes."""
    with pods_of(lab.a, mtu), pods_of(lab.b, mtu):
        send(lab, family, incoming)


@both_ways
@both_families
def test_a_client_on_a_narrow_link(lab: NeighbourLab, family: Family, incoming: bool) -> None:
    """A link of 1,280 bytes behind node a, which the client knows."""
    with client_link(lab, NARROW, NARROW):
        before = too_big(lab.a.ns)
        send(lab, family, incoming, (lab.client_ns, CLIENT[family]))
        assert too_big(lab.a.ns) == before


@both_families
def test_a_client_that_does_not_know_the_narrow_link(lab: NeighbourLab, family: Family) -> None:
    """It accepts segments of any size, and only node a's own link is narrow: the stream arrives nevertheless."""
    with client_link(lab, NARROW, UNDERLAY_MTU):
        send(lab, family, True, (lab.client_ns, CLIENT[family]))


@both_ways
@both_families
def test_from_node_to_node(lab: NeighbourLab, family: Family, incoming: bool) -> None:
    """The same without a pod."""
    near, addresses = lab.a.end("host")
    far, far_addresses = lab.b.end("host")
    if incoming:
        send_tcp(far, near, addresses[family], STREAM)
    else:
        send_tcp(near, far, far_addresses[family], STREAM)


SHRINKING = [("kernel", "veth", "off"), ("kernel", "mtu-sized", "auto"), ("compiled", "veth", "auto")]


@pytest.fixture(scope="module", params=SHRINKING, ids="-".join)
def shrinking(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None
) -> Iterator[NeighbourLab]:
    """A lab with either neighbour, whose underlay shrinks."""
    for made in running(NeighbourLab(tmp_path_factory.mktemp("shrinking"), *request.param)):
        assert isinstance(made, NeighbourLab)
        yield made


@pytest.fixture(autouse=True)
def _forget(request: pytest.FixtureRequest) -> None:
    """Let all kernels of the shrinking lab forget the path MTUs of the test before."""
    if "shrinking" in request.fixturenames:
        lab: NeighbourLab = request.getfixturevalue("shrinking")
        for ns in (ns for node in lab.nodes for ns in (node.ns, node.pod_ns)):
            ns.ip("-4 route flush cache")
            ns.ip("-6 route flush cache")


def has_followed(node: Node, underlay_mtu: int) -> bool:
    """Return whether a node's device has the MTU that its underlay allows."""
    return bool(node.ns.ip_json("link show flannel.1")[0]["mtu"] == underlay_mtu - OVERHEAD[4])


@both_ways
@both_families
@pytest.mark.parametrize("lowered", [1400, 1350])
def test_the_underlay_shrinks_while_a_stream_runs(
    shrinking: NeighbourLab, family: Family, incoming: bool, lowered: int
) -> None:
    """Both underlays shrink and grow again, flannel.1 follows on both nodes: TCP hung until vxland was restarted."""
    lab = shrinking
    with flowing(lab, family, back=incoming) as flow:
        for mtu in (lowered, UNDERLAY_MTU):
            for node in lab.nodes:
                node.ns.ip(f"link set e0 mtu {mtu}")
            if lab.other is None:
                lab.b.ns.ip(f"link set flannel.1 mtu {mtu - OVERHEAD[4]}")
            for node in lab.nodes:
                wait_until(partial(has_followed, node, mtu), "flannel.1 has followed", lab.vxland.said)
            flow.pass_on()
    for mtu in (lowered, UNDERLAY_MTU):
        for node in lab.nodes:
            node.ns.ip(f"link set e0 mtu {mtu}")
        with pods_of(lab.a, mtu - OVERHEAD[4]), pods_of(lab.b, mtu - OVERHEAD[4]):
            send(lab, family, incoming)
