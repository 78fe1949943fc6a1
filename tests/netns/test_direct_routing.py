"""DirectRouting, blackholes and two planes on a real kernel.

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
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

import pytest

from tests.netns.namespace import Netns
from vxland.model.lease import Lease, Mac, Vtep
from vxland.netlink.client import Netlink
from vxland.reconcile.plan import Want, plan
from vxland.reconcile.reconciler import Reconciler

pytestmark = pytest.mark.netns

T = TypeVar("T")

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


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """The node above, with its router."""
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
            reconciler.set_want(want)
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
        async with asyncio.timeout(5):
            while plan(want, await kernel.read(want.device, want.networks, want.vteps)):
                await kernel.wait_change()


async def do(node: Netns, *commands: str) -> None:
    """Run `ip` commands without blocking the loop."""
    for command in commands:
        await asyncio.to_thread(node.ip, command)


async def until(reconciler: Reconciler, verb: str, count: int) -> None:
    """Return once an action was done `count` times."""
    deadline = time.monotonic() + 5
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
    monitor = subprocess.Popen(["ip", "-n", node.name, "-o", "monitor", *objects], stdout=subprocess.PIPE, text=True)
    assert monitor.stdout is not None
    try:

        def mark(number: int) -> None:
            """Add a dummy route: everything that happened earlier is printed before it."""
            table = 4242 + number
            heard = False
            while not heard:  # the monitor may not listen yet
                node.ip(f"route replace 203.0.113.0/24 dev lo table {table} proto 99")
                node.ip(f"route del 203.0.113.0/24 table {table}")
                assert monitor.stdout is not None
                for line in monitor.stdout:
                    if line.startswith("Deleted 203.0.113.0/24") and f"table {table}" in line:
                        heard = True
                        break
                    if "203.0.113.0/24" not in line:
                        lines.append(line.strip())

        mark(0)
        lines.clear()
        yield lines
        mark(1)
    finally:
        monitor.kill()
        monitor.wait()
        monitor.stdout.close()


TUNNEL = {
    4: {"10.244.1.0/24": ("10.244.1.0", DEV, True), "10.244.2.0/24": ("10.244.2.0", DEV, True)},
    6: {"fd00:244:1::/64": ("fd00:244:1::", DEV6, True), "fd00:244:2::/64": ("fd00:244:2::", DEV6, True)},
}
DIRECT = {
    4: TUNNEL[4] | {"10.244.1.0/24": ("192.0.2.2", "eth0", False)},
    6: TUNNEL[6] | {"fd00:244:1::/64": ("2001:db8::2", "eth0", False)},
}


def test_direct_and_tunnelled_peers(node: Netns) -> None:
    """The routes are flannel's; each device has only neighbours of its own family."""

    async def main() -> None:
        async with reconciling(WANT4, WANT6):
            pass

    node.run_async(main)
    assert {version: routes(node, version) for version in (4, 6)} == DIRECT
    assert neighbours(node) == {"10.244.2.0", "fd00:244:2::"}
    before = node.ip("-d route show 10.244.1.0/24")
    node.ip("route replace 10.244.1.0/24 via 192.0.2.2")
    assert node.ip("-d route show 10.244.1.0/24") == before
    before = node.ip("-6 -d route show fd00:244:1::/64")
    node.ip("-6 route replace fd00:244:1::/64 via 2001:db8::2")
    assert node.ip("-6 -d route show fd00:244:1::/64") == before


def test_a_peer_leaves_the_link_and_returns(node: Netns) -> None:
    """Netlink events trigger the change, and no other peer's route is touched."""
    leave = ("route add 192.0.2.2 via 192.0.2.254", "-6 route add 2001:db8::2 via 2001:db8::fe")
    come_back = ("route del 192.0.2.2 via 192.0.2.254", "-6 route del 2001:db8::2 via 2001:db8::fe")

    async def main() -> None:
        async with reconciling(WANT4, WANT6) as (four, six):
            assert {version: routes(node, version) for version in (4, 6)} == DIRECT
            with monitored(node, "route") as lines:
                await do(node, *leave)
                await until(four, "replace_route", 2)
                await until(six, "replace_route", 2)
                assert {version: routes(node, version) for version in (4, 6)} == TUNNEL
                assert neighbours(node) == {"10.244.1.0", "10.244.2.0", "fd00:244:1::", "fd00:244:2::"}
                await do(node, *come_back)
                await until(four, "del_neighbour", 1)
                await until(six, "del_neighbour", 1)
            assert {version: routes(node, version) for version in (4, 6)} == DIRECT
            assert neighbours(node) == {"10.244.2.0", "fd00:244:2::"}
            peers = [line for line in lines if "10.244." in line or "fd00:244:" in line]
            assert not [line for line in peers if ".2.0/24" in line or ":2::/64" in line]
            assert len([line for line in peers if ".1.0/24" in line]) == 2
            deleted = [line.split()[1:4] for line in peers if line.startswith("Deleted")]
            assert deleted == [
                ["fd00:244:1::/64", "via", "2001:db8::2"]
            ]  # otherwise the kernel would refuse the tunnel's

    node.run_async(main)


def test_the_link_goes_down_and_comes_up(node: Netns) -> None:
    """The kernel removes the direct routes without an event; the tunnel carries until the link is back."""

    async def main() -> None:
        async with reconciling(WANT4) as (four,):
            await do(node, "link set eth0 down")
            await until(four, "replace_route", 2)
            assert routes(node, 4) == TUNNEL[4]
            await do(node, "link set eth0 up")
            await until(four, "replace_direct_route", 2)
            assert routes(node, 4) == DIRECT[4]

    node.run_async(main)


def test_departures_and_remains_of_an_earlier_run(node: Netns) -> None:
    """A stale direct route is removed, at start and later; a user's of another protocol stays."""
    node.ip("route add 10.244.9.0/24 via 192.0.2.9")
    node.ip("-6 route add fd00:244:9::/64 via 2001:db8::9")
    node.ip("route add 10.244.8.0/24 via 192.0.2.9 proto static")

    async def main() -> None:
        async with reconciling(WANT4, WANT6) as (four, six):
            assert {version: routes(node, version) for version in (4, 6)} == DIRECT
            for reconciler, want in (
                (four, replace(WANT4, peers=frozenset({FAR}))),
                (six, replace(WANT6, peers=frozenset({FAR6}))),
            ):
                reconciler.set_want(want)
                await settled(want)
            assert routes(node, 4).keys() == {"10.244.2.0/24"}
            assert routes(node, 6).keys() == {"fd00:244:2::/64"}
            for reconciler, want in ((four, WANT4), (six, WANT6)):
                off = replace(want, direct=False)
                reconciler.set_want(off)
                await settled(off)
            assert {version: routes(node, version) for version in (4, 6)} == TUNNEL

    node.run_async(main)
    assert node.ip("route show proto static").split()[:3] == ["10.244.8.0/24", "via", "192.0.2.9"]


@pytest.mark.parametrize("first", ["bridge", "blackhole", "flanneld's blackhole"])
def test_a_blackhole_never_precedes_the_bridge(node: Netns, first: str) -> None:
    """In either order pods are reached over cni0; without it nothing leaves the node; in the end it is removed."""
    four = replace(WANT4, blackholes=(ip_network("10.244.0.0/24"),))
    six = replace(WANT6, blackholes=(ip_network("fd00:244::/64"),))
    bridge = ("link add cni0 type bridge", "link set cni0 up", "address add 10.244.0.1/24 dev cni0")
    bridge6 = ("address add fd00:244::1/64 dev cni0 nodad",)
    if first == "flanneld's blackhole":
        node.ip("route add blackhole 10.244.0.0/24")
        node.ip("-6 route add blackhole fd00:244::/64")
    if first != "blackhole":
        for command in (*bridge, *bridge6):
            node.ip(command)

    def goes(address: str) -> str:
        return json.loads(node.ip(f"-j route get {address}"))[0].get("dev", "nowhere")  # type: ignore[no-any-return]

    async def main() -> None:
        async with reconciling(four, six) as (reconciler4, reconciler6):
            if first == "blackhole":
                for address in ("10.244.0.7", "fd00:244::7"):
                    with pytest.raises(subprocess.CalledProcessError):
                        goes(address)
                await do(node, *bridge, *bridge6)
            assert [goes("10.244.0.7"), goes("fd00:244::7")] == ["cni0", "cni0"]
            await do(node, "route del blackhole 10.244.0.0/24 metric 4294967295")
            await until(reconciler4, "replace_blackhole", 2)
            assert len(node.ip("route show type blackhole").splitlines()) == 1
            assert len(node.ip("-6 route show type blackhole").splitlines()) == 1
            for reconciler, want in ((reconciler4, WANT4), (reconciler6, WANT6)):
                reconciler.set_want(want)
                await settled(want)
            assert node.ip("route show type blackhole") + node.ip("-6 route show type blackhole") == ""

    node.run_async(main)


def test_our_ipv6_address_is_usable_at_once_and_alone(node: Netns) -> None:
    """No duplicate address detection, which would wait for a TAP without a reader; other addresses are removed."""
    node.ip(f"link set {DEV6} up")
    node.ip(f"address add fd00:244:9::/128 dev {DEV6}")
    node.ip(f"address add fe80::9/64 dev {DEV6}")

    async def main() -> None:
        async with reconciling(WANT6):
            (link,) = json.loads(node.ip(f"-j -6 address show dev {DEV6}"))
            found = {a["local"]: a for a in link["addr_info"]}
            assert "fe80::9" in found
            assert [a for a in found if not a.startswith("fe80:")] == ["fd00:244::"]
            assert "tentative" not in found["fd00:244::"]

    node.run_async(main)


def test_a_peers_change_does_not_disturb_others(node: Netns) -> None:
    """A new MAC, a new subnet, a peer that leaves: the kernel reports no other peer's route or neighbour."""
    others = {lease(f"10.244.{n}.0/24", f"198.51.100.{n}", 2 * n) for n in range(10, 20)}
    others6 = {lease(f"fd00:244:{n:x}::/64", f"2001:db8:f::{n:x}", 2 * n) for n in range(10, 20)}
    new_mac = replace(FAR, vtep=replace(FAR.vtep, mac=Mac(0x02_00_00_00_00_44)))
    new_subnet = replace(new_mac, subnet=ip_network("10.244.3.0/24"))
    new_mac6 = replace(FAR6, vtep=replace(FAR6.vtep, mac=Mac(0x02_00_00_00_00_66)))
    new_subnet6 = replace(new_mac6, subnet=ip_network("fd00:244:3::/64"))

    async def main() -> None:
        four, six = (
            replace(want, direct=False, peers=frozenset(peers)) for want, peers in ((WANT4, others), (WANT6, others6))
        )
        async with reconciling(four, six) as (reconciler4, reconciler6):
            with monitored(node, "route", "neigh") as lines:
                for lease4, lease6 in ((FAR, FAR6), (new_mac, new_mac6), (new_subnet, new_subnet6), (None, None)):
                    for reconciler, want, changed in ((reconciler4, four, lease4), (reconciler6, six, lease6)):
                        now = replace(want, peers=want.peers | ({changed} if changed else set()))
                        reconciler.set_want(now)
                        await settled(now)
        subjects = {line.removeprefix("Deleted ").split()[0] for line in lines}
        assert subjects == {
            "10.244.2.0/24",
            "10.244.2.0",
            "10.244.3.0/24",
            "10.244.3.0",
            "fd00:244:2::/64",
            "fd00:244:2::",
            "fd00:244:3::/64",
            "fd00:244:3::",
        }
        assert {line.split()[1] for line in lines if line.startswith("Deleted")} == subjects

    node.run_async(main)
