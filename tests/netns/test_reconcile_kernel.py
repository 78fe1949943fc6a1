"""The Reconciler and netlink/client.py on a real kernel: the state they make, repairs, and what the kernel refuses."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import subprocess
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
import uvloop

from tests.kernel import plan, read, set_want
from tests.netns.namespace import Netns
from tests.netns.overlay_device import DEV, WANT, netlink, until_true, want, with_device
from tests.patience import PATIENCE_S
from vxland.model.actions import (
    Action,
    DelAddress,
    DelNeighbour,
    DelRoute,
    ReplaceRoute,
    SetMtu,
)
from vxland.model.errors import ConfigError, StartError
from vxland.model.kernel_state import Route
from vxland.netlink.client import Netlink
from vxland.netlink.rtnl import KernelRefusedError
from vxland.reconcile import reconciler as reconciler_module
from vxland.reconcile.plan import Want
from vxland.reconcile.reconciler import Reconciler

pytestmark = pytest.mark.netns

Runner = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """A namespace with a fresh TAP."""
    return with_device(netns)


async def settled(kernel: Netlink, wanted: Want = WANT) -> None:
    """Return once nothing is left to do."""
    deadline = time.monotonic() + PATIENCE_S
    while actions := plan(wanted, await read(kernel, WANT)):
        assert time.monotonic() < deadline, [str(action) for action in actions]
        await asyncio.sleep(0.01)


def shown(ns: Netns) -> list[object]:
    """Return everything that `ip` shows of the device, except for values that differ between machines."""
    found = [json.loads(ns.ip(f"-j -d {what} dev {DEV}")) for what in ("route show", "-6 route show", "neigh show")]
    (link,) = json.loads(ns.ip(f"-j addr show dev {DEV}"))
    addresses = sorted((a["local"], a["prefixlen"]) for a in link["addr_info"] if a["scope"] == "global")
    neighbours = sorted(found.pop(), key=lambda entry: str(entry["dst"]))
    routes = [[r for r in routes if r["protocol"] != "kernel"] for routes in found]  # made with the addresses
    return [routes, neighbours, addresses, link["mtu"], link["address"], "UP" in link["flags"]]


@pytest.mark.parametrize("runner", [uvloop.run, asyncio.run])
def test_the_kernel_state_equals_that_of_the_printed_commands(
    node: Netns, netns: Callable[[], Netns], runner: Runner
) -> None:
    """The Reconciler makes the same state through netlink as `ip` with the commands that vxlandctl prints."""

    async def main() -> list[str]:
        async with netlink() as kernel:
            reconciler = Reconciler(kernel)
            await set_want(reconciler, WANT)
            commands = [str(action) for action in await reconciler.preview()]
            task = asyncio.create_task(reconciler.run())
            await settled(kernel)
            assert reconciler.counters.failed.total() == 0
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return commands

    commands = node.run_async(main, runner)
    by_hand = netns()
    by_hand.ip(f"tuntap add dev {DEV} mode tap")
    for command in commands:
        by_hand.run(*command.split())
    assert shown(node) == shown(by_hand)
    assert node.run("cat", f"/proc/sys/net/ipv6/conf/{DEV}/accept_ra") == "0\n"
    route = re.sub(" +linkdown *", "", node.ip("route show 10.244.1.0/24")).strip()
    assert route == "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink"


DRIFTS = {
    "route deleted": ["route del 10.244.1.0/24"],
    "IPv6 route deleted": ["-6 route del fd00:244:1::/64"],
    "all routes flushed": [f"route flush dev {DEV}", f"-6 route flush dev {DEV}"],
    "route with an MTU": ["route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink mtu 1300"],
    "route with a source": ["route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink src 10.244.0.0"],
    "route of another protocol": ["route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink proto static"],
    "route through another device": ["route replace 10.244.1.0/24 dev lo"],
    "IPv6 route through another device": ["-6 route del fd00:244:1::/64", "-6 route add fd00:244:1::/64 dev lo"],
    "IPv6 route with a second nexthop": ["-6 route append fd00:244:1::/64 via fd00:244:2:: dev flannel.1 onlink"],
    "a route prepended to ours": ["route prepend 10.244.1.0/24 dev lo"],
    "a blackhole prepended to ours": ["route prepend blackhole 10.244.1.0/24"],
    "neighbours flushed": [f"neigh flush dev {DEV} nud permanent"],
    "neighbour of another MAC": ["neigh replace 10.244.1.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent"],
    "neighbour not permanent": ["neigh replace fd00:244:1:: lladdr 02:00:00:00:00:01 dev flannel.1 nud reachable"],
    "MAC changed": [f"link set {DEV} address 02:00:00:00:00:98"],
    "MTU changed": [f"link set {DEV} mtu 1500"],
    "MTU too small for IPv6": [f"link set {DEV} mtu 1000"],
    "address deleted": [f"address del 10.244.0.0/32 dev {DEV}"],
    "IPv6 address deleted": [f"address del fd00:244::/128 dev {DEV}"],
    "address added": [f"address add 10.244.77.1/32 dev {DEV}"],
    "link down": [f"link set {DEV} down"],
    "link down and up": [f"link set {DEV} down", f"link set {DEV} up"],
    "stale route": ["route add 10.244.99.0/24 via 10.244.99.0 dev flannel.1 onlink"],
    "stale neighbour": ["neigh add 10.244.99.0 lladdr 02:00:00:00:00:97 dev flannel.1 nud permanent"],
    "device made again": [f"link del {DEV}", f"tuntap add dev {DEV} mode tap"],
}


async def do(node: Netns, commands: list[str]) -> None:
    """Run `ip` commands; all of them again if the Reconciler repaired one before the next was run."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                for command in commands:
                    await asyncio.to_thread(node.ip, command)
            except subprocess.CalledProcessError:
                continue
            return


async def same(reconciler: Reconciler, kernel: Netlink, after: str) -> None:
    """Return once the record is what the kernel has."""
    view = reconciler._view
    assert view is not None
    await until_true(lambda: not view.is_dirty)
    fresh = await view._scan(await kernel.read_device(DEV))
    bases = fresh.bases | view._record.bases
    assert view._record.part(bases) == fresh.part(bases), after


def test_every_drift_is_repaired_at_its_event(node: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    """One running Reconciler repairs them in turn, on netlink events alone: reads by the clock are a day away."""
    monkeypatch.setattr(reconciler_module, "RESYNC_S", 86_400.0)
    monkeypatch.setattr(reconciler_module, "DEVICE_S", 86_400.0)

    async def main() -> None:
        async with netlink() as kernel:
            reconciler = Reconciler(kernel)
            await set_want(reconciler, WANT)
            task = asyncio.create_task(reconciler.run())
            await settled(kernel)
            good = shown(node)
            for name, commands in DRIFTS.items():
                before = reconciler.counters.repaired.total()
                await do(node, commands)
                deadline = time.monotonic() + PATIENCE_S
                while reconciler.counters.repaired.total() == before or reconciler.counters.pending:
                    assert time.monotonic() < deadline, name
                    await asyncio.sleep(0.005)
                await settled(kernel)
                assert shown(node) == good, name
                await same(reconciler, kernel, name)
            assert {cause for _, cause in reconciler.counters.repaired} == {"lease", "netlink"}
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    node.run_async(main, timeout_s=10 * PATIENCE_S)


def test_a_users_entries_stay_and_leases_come_and_go(node: Netns) -> None:
    """Routes of another form on the device survive; the end of a lease removes its route and neighbour."""
    theirs = "10.99.0.0/16 via 10.244.1.0 dev flannel.1 proto static onlink"

    async def main() -> None:
        async with netlink() as kernel:
            reconciler = Reconciler(kernel)
            await set_want(reconciler, WANT)
            task = asyncio.create_task(reconciler.run())
            await settled(kernel)
            await asyncio.to_thread(node.ip, "route add 10.99.0.0/16 via 10.244.1.0 dev flannel.1 onlink proto static")
            await set_want(reconciler, want(1))
            await settled(kernel, wanted=want(1))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    node.run_async(main)
    routes = [re.sub(" +linkdown *", "", line).strip() for line in node.ip("route show").splitlines()]
    assert sorted(routes) == ["10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink", theirs]
    assert node.ip("neigh show nud permanent").count("PERMANENT") == 2


def test_errors_name_the_command_and_the_kernels_reason(node: Netns) -> None:
    """Each action fails alone; an absent object counts as deleted; a missing device fails one action."""
    subnet = ip_network("10.244.1.0/24")
    gone: list[Action] = [
        DelRoute(DEV, Route(subnet, subnet.network_address, DEV, onlink=True)),
        DelNeighbour(DEV, subnet.network_address),
        DelAddress(DEV, ip_interface("10.244.0.0/32")),
    ]
    refused: list[Action] = [ReplaceRoute(DEV, subnet), SetMtu("nosuch0", 1450), SetMtu(DEV, 1 << 20)]

    async def main() -> None:
        async with netlink() as kernel:
            failures = await kernel.apply([*gone, *refused, SetMtu(DEV, 1400)])
            assert set(failures) == set(refused)
            codes = {
                str(action): error.code for action, error in failures.items() if isinstance(error, KernelRefusedError)
            }
            assert codes[str(refused[0])] == errno.ENETDOWN
            assert codes[str(refused[1])] == errno.ENODEV
            assert "mtu greater than device maximum" in str(failures[refused[2]])
            have = await read(kernel, WANT)
            assert have.link is not None
            assert have.link.mtu == 1400

    node.run_async(main)


def test_a_cancelled_read_leaves_nothing_behind(node: Netns) -> None:
    """The kernel would refuse another dump while one runs."""

    async def main() -> None:
        async with netlink() as kernel:
            await kernel.apply(plan(want(200), await read(kernel, WANT)))
            for turns in range(12):
                task = asyncio.create_task(read(kernel, WANT))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert plan(want(200), await read(kernel, WANT)) == []

    node.run_async(main)


def test_underlay_vxlan_and_cleanup(node: Netns) -> None:
    """The daemon finds its underlay at start, and `vxland run --cleanup` removes its device."""
    node.ip("link add veth0 mtu 1400 type veth peer name veth1")
    node.ip("address add 192.0.2.1/24 dev veth0")
    node.ip("address add 2001:db8::1/64 dev veth0 nodad")
    node.ip("link set veth0 up")
    node.ip("route add default via 192.0.2.254 dev veth0 onlink metric 50")
    node.ip("-6 route add default via 2001:db8::9 dev veth0")
    node.ip("link add vx0 type vxlan id 7 dstport 8472 dev veth0")

    async def main() -> None:
        async with netlink() as kernel:
            by_route = await kernel.find_underlay()
            assert (by_route.interface, str(by_route.address), by_route.mtu) == ("veth0", "192.0.2.1", 1400)
            assert await kernel.find_underlay("veth0") == by_route
            assert (await kernel.find_underlay(address=ip_address("2001:db8::1"))).index == by_route.index
            with pytest.raises(
                ConfigError, match=r"underlay\.interface: 'ens3': .* veth0 \(192\.0\.2\.1, 2001:db8::1\)"
            ):
                await kernel.find_underlay("ens3")
            with pytest.raises(ConfigError, match=r"underlay\.address: '192\.0\.2\.7'"):
                await kernel.find_underlay("veth0", ip_address("192.0.2.7"))
            assert await kernel.vxlan_devices_on_port(8472) == []  # a device that is down has no socket
            await asyncio.to_thread(node.ip, "link set vx0 up")
            assert await kernel.vxlan_devices_on_port(8472) == ["vx0"]
            assert await kernel.vxlan_devices_on_port(4789) == []
            assert [await kernel.link_kind(name) for name in (DEV, "vx0", "ens3")] == ["tun", "vxlan", None]
            with pytest.raises(StartError, match="vx0 is a vxlan device"):
                await kernel.delete_device_state("vx0")
            await kernel.apply(plan(WANT, await read(kernel, WANT)))
            assert await kernel.delete_device_state(DEV)
            assert not await kernel.delete_device_state(DEV)
            assert (await read(kernel, WANT)).link is None

    node.run_async(main)
    assert "10.244" not in node.ip("route show")
