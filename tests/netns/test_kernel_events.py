"""Events of a real kernel, and the record that the Reconciler keeps by them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from tests.kernel import plan, read, set_want
from tests.netns.namespace import Netns
from tests.netns.overlay_device import DEV, NETWORKS, WANT, netlink, until_true, want, with_device
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
)
from vxland.model.kernel_state import KernelChanges, Neighbour, Route, RouteEvent
from vxland.model.lease import Change, Mac
from vxland.netlink.client import Netlink
from vxland.reconcile.plan import plan_device
from vxland.reconcile.reconciler import Reconciler
from vxland.reconcile.record import Record

pytestmark = pytest.mark.netns


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """A namespace with a fresh TAP."""
    return with_device(netns)


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
