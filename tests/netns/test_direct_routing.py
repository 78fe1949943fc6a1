"""DirectRouting, blackholes and two planes on a real kernel; planes.py shows the topology."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.kernel import set_want
from tests.netns.namespace import Netns
from tests.netns.planes import (
    DEV,
    DEV6,
    FAR,
    FAR6,
    WANT4,
    WANT6,
    do,
    lease,
    monitored,
    neighbours,
    node_with_router,
    reconciling,
    routes,
    settled,
    until,
)
from vxland.model.lease import Mac

pytestmark = pytest.mark.netns

TUNNEL = {
    4: {"10.244.1.0/24": ("10.244.1.0", DEV, True), "10.244.2.0/24": ("10.244.2.0", DEV, True)},
    6: {"fd00:244:1::/64": ("fd00:244:1::", DEV6, True), "fd00:244:2::/64": ("fd00:244:2::", DEV6, True)},
}
DIRECT = {
    4: TUNNEL[4] | {"10.244.1.0/24": ("192.0.2.2", "eth0", False)},
    6: TUNNEL[6] | {"fd00:244:1::/64": ("2001:db8::2", "eth0", False)},
}


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """The node of planes.py, with its router."""
    return node_with_router(netns)


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
                await set_want(reconciler, want)
                await settled(want)
            assert routes(node, 4).keys() == {"10.244.2.0/24"}
            assert routes(node, 6).keys() == {"fd00:244:2::/64"}
            for reconciler, want in ((four, WANT4), (six, WANT6)):
                off = replace(want, direct=False)
                await set_want(reconciler, off)
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
        return json.loads(node.ip(f"-j route get {address}"))[0].get("dev", "nowhere")  # type: ignore[no-any-return]  # as JSON has it

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
                await set_want(reconciler, want)
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
                        await set_want(reconciler, now)
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
