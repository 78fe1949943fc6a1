"""A namespace with one overlay device, and what a node with some peers wants there.

+--------------------- namespace vxt-... ----------------------+
|  flannel.1: a persistent TAP, not attached (NO-CARRIER)      |
|    10.244.0.0/32, fd00:244::/128                             |
|    10.244.1.0/24 via 10.244.1.0 onlink,  neighbour permanent |
|    fd00:244:1::/64 via fd00:244:1:: onlink,  the same        |
+--------------------------------------------------------------+
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_interface, ip_network

from tests.netns.namespace import Netns
from tests.patience import PATIENCE_S
from vxland.model.lease import Lease, Mac, Vtep
from vxland.netlink.client import Netlink
from vxland.reconcile.plan import Want

DEV = "flannel.1"
NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"))


def with_device(netns: Callable[[], Netns]) -> Netns:
    """Return a namespace with a fresh TAP."""
    ns = netns()
    ns.ip(f"tuntap add dev {DEV} mode tap")
    return ns


def want(peers: int = 3) -> Want:
    """Return the wanted state of node 0, with so many dual-stack peers."""
    leases = set()
    for n in range(1, peers + 1):
        vtep = Vtep(ip_address("192.0.2.1"), Mac(0x02_00_00_00_00_00 + n))
        leases |= {Lease(ip_network(f"10.244.{n}.0/24"), vtep), Lease(ip_network(f"fd00:244:{n:x}::/64"), vtep)}
    own = frozenset({ip_interface("10.244.0.0/32"), ip_interface("fd00:244::/128")})
    return Want(DEV, 1450, Mac.parse("ce:5f:f6:73:cf:b9"), own, NETWORKS, frozenset(leases))


WANT = want()


@asynccontextmanager
async def netlink() -> AsyncIterator[Netlink]:
    """Yield a Netlink, and close it at the end."""
    kernel = Netlink()
    try:
        yield kernel
    finally:
        kernel.close()


async def until_true(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
