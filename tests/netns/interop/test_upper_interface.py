"""VTEPs at an interface above e0, a VLAN or a macvlan, with the fast path and without.

node a: vxland                                                        node b: the kernel's vxlan, or vxland
pod a - cni0 - flannel.1 - up0 (192.168.113.128) - e0 ===== e0 - up0 (192.168.113.129) - flannel.1 - cni0 - pod b
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vxland.model.errors import StartError

from .asking import carried
from .conftest import running
from .lab import FAMILIES, DataPath, Kind, Lab
from .traffic import HEADERS, exchange_udp, no_checksum_errors, ping, send_tcp, send_udp_train
from .wires import Wire

pytestmark = pytest.mark.netns

KINDS = {"vlan": "vlan id 7", "macvlan": "macvlan mode private"}
LABS: list[tuple[DataPath, Kind, Wire]] = [
    ("compiled", "kernel", "veth"),
    ("fast-path", "kernel", "veth"),
    ("fast-path", "fast-path", "mtu-sized"),
]


class UpperLab(Lab):
    """A lab whose VTEPs are addresses of interfaces of a kind above e0."""

    kind = ""

    def build(self) -> None:
        """Build the lab and the interfaces."""
        super().build()
        for node in self.nodes:
            try:
                node.ns.ip(f"link add link e0 name up0 type {KINDS[self.kind]}")
            except StartError as exc:
                if "Unknown device type" in exc.cause:
                    pytest.skip(f"this kernel has no {self.kind}")
                raise
            node.ns.batch(f"addr add {node.vtep}/24 dev up0", "link set up0 up")


@pytest.fixture(scope="module", params=LABS, ids="-".join)
def lab(request: pytest.FixtureRequest, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Both nodes, up."""
    data_path, other, wire = request.param
    made = UpperLab(tmp_path_factory.mktemp("upper"), data_path, other)
    made.kind, made.wire = kind, wire
    for node in made.nodes:
        node.way, node.vtep = "up0", f"192.168.113.{128 + node.number}"
    for vxland in made.daemons:
        vxland.settings["underlay"] = {"interface": "up0"}
    yield from running(made)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, _able: None) -> str:
    """The kind of interface."""
    chosen: str = request.param
    return chosen


def test_pods(lab: Lab) -> None:
    """Pings that fill the MTU, streams, datagrams and superframes cross; programs at the interface take part."""
    before = [carried(lab.vxland, "encap"), carried(lab.vxland, "decap")]
    assert lab.a.ns.ip_json("link show flannel.1")[0]["mtu"] == lab.a.mtu
    with no_checksum_errors(*(ns for node in lab.nodes for ns in (node.ns, node.pod_ns))):
        for near, far in ((lab.a, lab.b), (lab.b, lab.a)):
            for family in FAMILIES:
                ping(near.pod_ns, far.pod[family], near.mtu - HEADERS[family])
                send_tcp(near.pod_ns, far.pod_ns, far.pod[family], 2_000_000)
                exchange_udp(near.pod_ns, near.pod[family], far.pod_ns, far.pod[family], (1, 1400, 3000))
                send_udp_train(near.pod_ns, near.pod[family], far.pod_ns, far.pod[family], 1200, 40)
    after = [carried(lab.vxland, "encap"), carried(lab.vxland, "decap")]
    assert [now > then for now, then in zip(after, before, strict=True)] == [lab.vxland.has_fast_path] * 2
    for vxland in lab.daemons:
        assert vxland.stop() == 0
        assert vxland.drops("encap").keys() <= {"bum"}
        assert vxland.drops("decap") == {}
