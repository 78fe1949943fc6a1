"""The Reconciler and netlink/client.py on a real kernel.

+--------------------- namespace vxt-... ----------------------+
|  flannel.1: a persistent TAP, not attached (NO-CARRIER)      |
|    10.244.0.0/32, fd00:244::/128                             |
|    10.244.1.0/24 via 10.244.1.0 onlink,  neighbour permanent |
|    fd00:244:1::/64 via fd00:244:1:: onlink,  the same        |
|  veth0 -- veth1: an underlay, where a test needs one         |
+--------------------------------------------------------------+
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

import pytest
import uvloop

from tests.kernel import plan, read, set_want
from tests.netns.namespace import Netns
from tests.netns.planes import until
from tests.patience import PATIENCE_S
from vxland.model.actions import (
    Action,
    AddAddress,
    DelAddress,
    DelNeighbour,
    DelRoute,
    ReplaceNeighbour,
    ReplaceRoute,
    SetMtu,
)
from vxland.model.errors import ConfigError, StartError
from vxland.model.kernel_state import KernelChanges, Neighbour, Route, RouteEvent
from vxland.model.lease import Change, Lease, Mac, Vtep
from vxland.netlink.client import Netlink
from vxland.netlink.rtnl import KernelRefusedError
from vxland.reconcile import reconciler as reconciler_module
from vxland.reconcile.plan import Want, plan_device
from vxland.reconcile.reconciler import Reconciler
from vxland.reconcile.record import Record

pytestmark = pytest.mark.netns

T = TypeVar("T")
Runner = Callable[[Coroutine[Any, Any, Any]], Any]

DEV = "flannel.1"
NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"))


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """A namespace with a fresh TAP."""
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


async def settled(kernel: Netlink, wanted: Want = WANT) -> None:
    """Return once nothing is left to do."""
    deadline = time.monotonic() + PATIENCE_S
    while actions := plan(wanted, await read(kernel, WANT)):
        assert time.monotonic() < deadline, [str(action) for action in actions]
        await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


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


async def watch(kernel: Netlink) -> None:
    """Watch the device, and forget what came before."""
    link = await kernel.link(DEV)
    assert link is not None
    kernel.watch(DEV, link.index, NETWORKS, underlay=False)
    await kernel.changes()


def test_an_overrun_is_an_event_and_our_own_events_do_not_wake(node: Netns) -> None:
    """ENOBUFS wakes once, and asks for a read of everything; our own changes are collected without a wake."""

    async def main() -> None:
        async with netlink() as kernel:
            await kernel.apply(plan(WANT, await read(kernel, WANT)))
            await watch(kernel)
            with suppress(TimeoutError):
                while True:  # the last of them may come late
                    await asyncio.wait_for(kernel.wait_change(), 0.5)
            await kernel.changes()
            routes: list[Action] = [DelRoute(DEV, Route.flannels(lease.subnet, DEV)) for lease in WANT.peers]
            await kernel.apply(routes)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kernel.wait_change(), 0.1)
            assert len((await kernel.changes()).events) == len(routes)
            kernel._events.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            await asyncio.to_thread(node.ip, f"neigh flush dev {DEV} nud permanent")
            await asyncio.to_thread(node.ip, f"route flush dev {DEV}")
            await asyncio.wait_for(kernel.wait_change(), PATIENCE_S)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kernel.wait_change(), 0.1)
            assert (await kernel.changes()).everything
            neighbour = Neighbour(ip_address("10.244.1.0"), Mac.parse("02:00:00:00:00:01"), permanent=True)
            await asyncio.to_thread(node.ip, f"neigh add 10.244.1.0 lladdr {neighbour.mac} dev {DEV} nud permanent")
            await asyncio.wait_for(kernel.wait_change(), PATIENCE_S)
            assert await kernel.changes() == KernelChanges([neighbour])

    node.run_async(main)


def test_a_flood_of_events_leaves_turns_for_other_tasks(node: Netns) -> None:
    """`ip route flush` among 8,000 leases held the event loop for 60 ms: each wait returned at once, without a rest."""
    floods = 4

    async def main() -> int:
        async with netlink() as kernel, netlink() as other:
            await kernel.apply(plan_device(WANT, await read(kernel, WANT)))
            await watch(kernel)
            base = ip_address("10.244.1.0")
            await other.apply([ReplaceNeighbour(DEV, base + n, Mac(2)) for n in range(floods * 64)])
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(floods - 1):  # the last events may be those of one drain
                    await kernel.wait_change()
            counting.cancel()
            return turns

    assert node.run_async(main) > 1


def test_our_own_events_are_there_when_the_kernel_acknowledges(node: Netns) -> None:
    """So that the record of the kernel is true after each batch: every action is followed by its event, at once."""
    four, six = ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")

    async def main() -> None:
        async with netlink() as kernel:
            await kernel.apply(plan_device(WANT, await read(kernel, WANT)))
            await watch(kernel)
            with suppress(TimeoutError):  # the event of an IPv6 address, alone, comes later: from a work queue
                await asyncio.wait_for(kernel.wait_change(), 0.5)
            await kernel.changes()

            async def seen(*actions: Action) -> KernelChanges:
                """Return what the event socket has at the moment of the acknowledgements."""
                assert await kernel.apply(actions) == {}
                kernel._events._drain(kernel._rtnl.portid)
                changes, kernel._events._changes = kernel._events._changes, KernelChanges()
                return changes

            for subnet in (four, six):
                route, base = Route.flannels(subnet, DEV), subnet.network_address
                there = Neighbour(base, Mac(2), permanent=True)
                for action, events in (
                    (ReplaceNeighbour(DEV, base, Mac(2)), [there]),
                    (ReplaceNeighbour(DEV, base, Mac(2)), []),
                    (ReplaceNeighbour(DEV, base, Mac(4)), [replace(there, mac=Mac(4))]),
                    (ReplaceRoute(DEV, subnet), [RouteEvent(route)]),
                    (DelRoute(DEV, route), [RouteEvent(route, gone=True)]),
                ):
                    assert (await seen(action)).events == list(events), action
                await asyncio.to_thread(node.ip, f"route add {subnet} dev {DEV}")
                assert len((await kernel.changes()).events) == 1
                assert (await seen(ReplaceRoute(DEV, subnet))).events == [RouteEvent(route, replaces=True)]
                gone = await seen(DelNeighbour(DEV, base))  # first it fails, then it is deleted
                assert {replace(event, mac=None) for event in gone.events if isinstance(event, Neighbour)} == {
                    Neighbour(base, None, permanent=False)
                }
            batch: list[Action] = [ReplaceNeighbour(DEV, four.network_address + n, Mac(2 * n)) for n in range(1, 60)]
            assert len((await seen(*batch)).events) == len(batch)
            own = ip_interface("10.244.0.9/32")
            assert (await seen(AddAddress(DEV, own))).device
            assert (await seen(DelAddress(DEV, own))).everything

    node.run_async(main)


def test_changes_without_events_of_their_own_come_with_one_that_asks_for_a_read(node: Netns) -> None:
    """The record would go on showing routes and neighbours that are gone."""

    async def main() -> None:
        async with netlink() as kernel:
            for command, lost in (
                (f"link set {DEV} down", "routes"),
                (f"link set {DEV} address 02:00:00:00:00:98", "neighbours"),
                ("address del 10.244.0.0/32 dev flannel.1", "routes"),
                (f"link set {DEV} mtu 1000", "routes"),
            ):
                while actions := plan(WANT, await read(kernel, WANT)):
                    await kernel.apply(actions)
                have = await read(kernel, WANT)
                record = Record(DEV, {})
                record.set_device(have)
                await watch(kernel)
                await asyncio.to_thread(node.ip, command)
                await asyncio.wait_for(kernel.wait_change(), PATIENCE_S)
                assert getattr(await read(kernel, WANT), lost) != getattr(have, lost), command
                changes = await kernel.changes()
                for event in changes.events:
                    record.fold(event)
                assert changes.everything or record.unsure, command

    node.run_async(main)


def test_a_change_touches_its_own_route_and_neighbour_and_nothing_else(node: Netns) -> None:
    """With 5,000 leases one changed MAC cost 319 ms of CPU time: everything was read and compared, twice."""
    own = frozenset({ip_interface("10.244.0.0/32")})  # the event of an IPv6 one may come late, and has it read
    peers = replace(want(200), addresses=own)
    (old,) = (lease for lease in peers.peers if str(lease.subnet) == "10.244.7.0/24")
    moved = replace(old, vtep=replace(old.vtep, mac=Mac(0x02_00_00_00_77_77)))
    new = replace(old, subnet=ip_network("10.244.250.0/24"))

    async def main() -> None:
        async with netlink() as kernel, netlink() as other:
            reconciler = Reconciler(kernel)
            task = asyncio.create_task(reconciler.run())
            await set_want(reconciler, peers)
            await reconciler.tried.wait()
            assert plan(peers, await read(kernel, peers)) == []
            assert reconciler.counters.reads == 1

            async def requests(change: Change) -> tuple[int, set[str]]:
                """Return the number of requests to the kernel for a change, and its events' objects."""
                done, before = reconciler.counters.repaired.total(), kernel.requests
                await watch(other)
                await reconciler.follow(change)
                await until_true(lambda: reconciler.counters.repaired.total() > done)
                passes = reconciler.counters.passes
                reconciler.set_want(peers)  # a pass after the one that applied it
                await until_true(lambda: reconciler.counters.passes > passes)
                events = (await other.changes()).events
                routes = {str(event.route.subnet) for event in events if isinstance(event, RouteEvent)}
                return kernel.requests - before, routes | {str(e.address) for e in events if isinstance(e, Neighbour)}

            gone, come = frozenset({old}), frozenset({moved})
            assert await requests(Change(gone, come)) == (1, {"10.244.7.0"})
            assert await requests(Change(added=frozenset({new}))) == (2, {"10.244.250.0", "10.244.250.0/24"})
            assert await requests(Change(removed=frozenset({new}))) == (2, {"10.244.250.0", "10.244.250.0/24"})
            assert reconciler.counters.reads == 1
            before = kernel.requests
            await asyncio.to_thread(node.ip, f"route flush dev {DEV}")  # by batches: nothing is lost on the way
            await until(reconciler, "replace_route", 400 + 1 + 200)
            view = reconciler._view
            assert view is not None
            await until_true(lambda: not view.is_dirty and not reconciler.counters.pending)
            assert (kernel.requests - before, reconciler.counters.reads) == (200, 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    node.run_async(main)


def test_events_of_others_do_not_wake(node: Netns) -> None:
    """Other devices, other tables and routes outside the overlay networks do not concern us."""

    async def main() -> None:
        async with netlink() as kernel:
            await watch(kernel)
            for command in (
                "link add veth0 type veth peer name veth1",
                "link set veth0 up",
                "address add 192.0.2.1/24 dev veth0",
                "route add 10.9.0.0/24 via 192.0.2.9 dev veth0 onlink",
                "route add 10.244.5.0/24 via 192.0.2.9 dev veth0 onlink table 77",
                "neigh add 192.0.2.9 lladdr 02:00:00:00:00:96 dev veth0",
            ):
                await asyncio.to_thread(node.ip, command)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kernel.wait_change(), 0.1)
            assert await kernel.changes() == KernelChanges()
            await asyncio.to_thread(node.ip, "route add 10.244.5.0/24 via 192.0.2.9 dev veth0 onlink")
            await asyncio.wait_for(kernel.wait_change(), PATIENCE_S)

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
