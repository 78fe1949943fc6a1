"""The lab of tests/netns/interop with one more pod at node a: the attacker's neighbour, which must not be affected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.interop.conftest import running
from tests.netns.interop.lab import Lab
from tests.netns.interop.ns import Ns


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland with one worker, so that all pods share one queue; node b uses the kernel's device."""
    gear = getattr(request, "param", "compiled")
    made = Lab(tmp_path_factory.mktemp("hostile"), "interpreted" if gear == "interpreted" else "compiled")
    if gear == "programs":
        made.with_fast_path()
    made.vxland.settings["datapath"] |= {"workers": 1}
    yield from running(made)


@pytest.fixture(scope="module")
def neighbour(lab: Lab) -> Iterator[Ns]:
    """Another pod on node a, next to the attacking one."""
    node, ns = lab.a, Ns(f"{lab.a.pod_ns.name}-2")
    try:
        ns.create()
        node.ns.batch(
            f"link add pod2 mtu {node.mtu} type veth peer name eth0 netns {ns.name}", "link set pod2 master cni0 up"
        )
        ns.batch(
            f"link set eth0 mtu {node.mtu} up",
            f"addr add {node.gateway[4].rpartition('.')[0]}.20/24 dev eth0",
            f"route add default via {node.gateway[4]}",
        )
        yield ns
    finally:
        ns.delete()
