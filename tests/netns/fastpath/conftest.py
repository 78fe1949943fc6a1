"""The programs, loaded once for each module in a namespace of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from itertools import count

import pytest
from pyroute2.netns import popns, pushns

from tests.frames import OUTER_A
from tests.netns.fastpath.loaded import PEER, PEER_MAC, POD, TAP, TAP_MTU, UNDERLAY, Loaded
from tests.netns.fastpath.packets import MANY
from tests.netns.namespace import Netns
from vxland.fastpath.libbpf import library
from vxland.model.lease import Mac

_numbers = count(1)


@pytest.fixture(scope="module")
def namespace(_able: None) -> Iterator[None]:
    """Run the module's tests in a namespace, with the other end of each device there too.

    pod ── tap ── the programs ── e0 ── peer
    """
    if library() is None:
        pytest.skip("apt-get install libbpf1")
    name = f"vxt-{os.getpid()}-fastpath-{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        ns = Netns(name)
        ns.ip("link set lo up")
        for device, other in ((TAP, POD), (UNDERLAY, PEER)):
            ns.ip(f"link add {device} type veth peer name {other}")
            for each in (device, other):
                ns.run("sysctl", "-qw", f"net.ipv6.conf.{each}.disable_ipv6=1")
                ns.ip(f"link set {each} mtu {TAP_MTU} up")
        ns.ip(f"address add {OUTER_A}/24 dev {UNDERLAY}")
        for vtep in {lease.vtep for lease in MANY}:
            ns.ip(f"neighbour add {vtep.address} lladdr {Mac(PEER_MAC)} dev {UNDERLAY}")
        pushns(name)
        try:
            yield
        finally:
            popns()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture(scope="module")
def loaded(namespace: None) -> Iterator[Loaded]:  # noqa: ARG001  (entered)
    """Return the loaded programs."""
    loaded = Loaded()
    try:
        yield loaded
    finally:
        loaded.close()
