"""Two planes of a node behind a link with a router: Reconcilers for them, and the routes and neighbours they make.

               namespace node                          namespace router
+--------------------------------------------+        +---------------------------------+
| flannel.1     10.244.0.0/32                |        |                                 |
| flannel-v6.1  fd00:244::/128               |        |                                 |
|      eth0  192.0.2.1/24, 2001:db8::1/64 ------------- eth0  192.0.2.254, 2001:db8::fe |
+--------------------------------------------+        |       192.0.2.2,   2001:db8::2  |
                                                      |  lo   198.51.100.2, 2001:db8:f::2
                                                      +---------------------------------+
Peer 1 has the addresses ending in 2 on the link; those of peer 2 are behind the router. No process reads the TAPs.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from ipaddress import ip_address, ip_interface, ip_network

from tests.kernel import plan, read, set_want
from tests.netns.namespace import Netns
from tests.patience import PATIENCE_S
from vxland.model.lease import Lease, Mac, Vtep
from vxland.netlink.client import Netlink
from vxland.reconcile.plan import Want
from vxland.reconcile.reconciler import Reconciler

DEV, DEV6 = "flannel.1", "flannel-v6.1"


def lease(subnet: str, vtep: str, mac: int = 2) -> Lease:
    """Return a peer's lease."""
    return Lease(ip_network(subnet), Vtep(ip_address(vtep), Mac(mac)))


NEAR, FAR = lease("10.244.1.0/24", "192.0.2.2", 2), lease("10.244.2.0/24", "198.51.100.2", 4)
NEAR6, FAR6 = lease("fd00:244:1::/64", "2001:db8::2", 6), lease("fd00:244:2::/64", "2001:db8:f::2", 8)
WANT4 = Want(
    DEV,
    1450,
    Mac.parse("ce:5f:f6:73:cf:b9"),
    frozenset({ip_interface("10.244.0.0/32")}),
    (ip_network("10.244.0.0/16"),),
    frozenset({NEAR, FAR}),
    direct=True,
)
WANT6 = Want(
    DEV6,
    1430,
    Mac.parse("ce:5f:f6:73:cf:ba"),
    frozenset({ip_interface("fd00:244::/128")}),
    (ip_network("fd00:244::/32"),),
    frozenset({NEAR6, FAR6}),
    direct=True,
)


def node_with_router(netns: Callable[[], Netns]) -> Netns:
    """Return the node above, with its router."""
    node, router = netns(), netns()
    node.ip(f"link add eth0 type veth peer name eth0 netns {router.name}")
    for command in (
        f"tuntap add dev {DEV} mode tap",
        f"tuntap add dev {DEV6} mode tap",
        "link set eth0 up",
        "address add 192.0.2.1/24 dev eth0",
        "address add 2001:db8::1/64 dev eth0 nodad",
        "route add default via 192.0.2.254",
        "-6 route add default via 2001:db8::fe",
    ):
        node.ip(command)
    for command in (
        "link set eth0 up",
        "address add 192.0.2.254/24 dev eth0",
        "address add 192.0.2.2/24 dev eth0",
        "address add 2001:db8::fe/64 dev eth0 nodad",
        "address add 2001:db8::2/64 dev eth0 nodad",
        "address add 198.51.100.2/32 dev lo",
        "address add 2001:db8:f::2/128 dev lo",
    ):
        router.ip(command)
    return node


@asynccontextmanager
async def reconciling(*wants: Want) -> AsyncIterator[list[Reconciler]]:
    """Run a Reconciler for each Want, and yield them once they have settled."""
    kernels = [Netlink() for _ in wants]
    reconcilers = [Reconciler(kernel) for kernel in kernels]
    tasks = [asyncio.create_task(reconciler.run()) for reconciler in reconcilers]
    try:
        for reconciler, want in zip(reconcilers, wants, strict=True):
            await set_want(reconciler, want)
            await settled(want)
        yield reconcilers
        assert not any(task.done() for task in tasks)
        assert sum(reconciler.counters.failed.total() for reconciler in reconcilers) == 0
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for kernel in kernels:
            kernel.close()


async def settled(want: Want) -> None:
    """Return once nothing is left to do."""
    with closing(Netlink()) as kernel:
        async with asyncio.timeout(PATIENCE_S):
            while plan(want, await read(kernel, want)):
                await kernel.wait_change()


async def do(node: Netns, *commands: str) -> None:
    """Run `ip` commands without blocking the loop."""
    for command in commands:
        await asyncio.to_thread(node.ip, command)


async def until(reconciler: Reconciler, verb: str, count: int) -> None:
    """Return once an action was done `count` times."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(n for (done, _), n in reconciler.counters.repaired.items() if done == verb) < count:
        assert time.monotonic() < deadline, reconciler.counters
        await asyncio.sleep(0.005)


def routes(node: Netns, version: int) -> dict[str, tuple[str, str, bool]]:
    """Return gateway, interface and whether onlink, by subnet, of the routes to peers' subnets."""
    prefix = "10.244." if version == 4 else "fd00:244:"
    found = json.loads(node.ip(f"-j -{version} route show proto boot"))
    return {
        r["dst"]: (r["gateway"], r["dev"], "onlink" in r["flags"])
        for r in found
        if r["dst"].startswith(prefix) and "gateway" in r
    }


def neighbours(node: Netns) -> set[str]:
    """Return the permanent neighbours of both devices."""
    return {n["dst"] for n in json.loads(node.ip("-j neigh show nud permanent"))}


@contextmanager
def monitored(node: Netns, *objects: str) -> Iterator[list[str]]:
    """Yield the lines that `ip monitor` prints during the body; complete at the end."""
    lines: list[str] = []
    monitor = subprocess.Popen(["ip", "-n", node.name, "-o", "monitor", *objects], stdout=subprocess.PIPE)
    assert monitor.stdout is not None
    printed = _printed(monitor.stdout.fileno())

    def mark(table: int) -> None:
        """Add and delete a route: everything that happened earlier is printed before it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:  # the monitor may not listen yet
            node.ip(f"route replace 203.0.113.0/24 dev lo table {table} proto 99")
            node.ip(f"route del 203.0.113.0/24 table {table}")
            for line in iter(lambda: next(printed), ""):
                if line.startswith("Deleted 203.0.113.0/24") and f"table {table}" in line:
                    return
                if "203.0.113.0/24" not in line:
                    lines.append(line)
        raise AssertionError("`ip monitor` does not print a route that was deleted")

    try:
        mark(4242)
        lines.clear()
        yield lines
        mark(4243)
    finally:
        monitor.kill()
        monitor.wait()
        monitor.stdout.close()


def _printed(pipe: int) -> Iterator[str]:
    """Yield the lines that come through a pipe, stripped; an empty one after each 0.2 s without any."""
    rest = b""
    while True:
        if not select.select([pipe], [], [], 0.2)[0]:
            yield ""
            continue
        chunk = os.read(pipe, 65536)
        assert chunk, "the program has ended"
        *whole, rest = (rest + chunk).split(b"\n")
        yield from filter(None, (line.decode().strip() for line in whole))
