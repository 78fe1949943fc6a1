"""A model of the kernel's links, routes and neighbours, and of time, for tests of plan() and the Reconciler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

import pytest

from vxland.model.actions import (
    Action,
    AddAddress,
    DelAddress,
    DelNeighbour,
    DelRoute,
    ReplaceBlackhole,
    ReplaceDirectRoute,
    ReplaceNeighbour,
    ReplaceRoute,
    SetAcceptRa,
    SetMac,
    SetMtu,
    SetUp,
)
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import (
    BLACKHOLE_METRIC,
    KIND_BLACKHOLE,
    KIND_UNICAST,
    Have,
    KernelChanges,
    LinkState,
    Neighbour,
    Route,
    RouteEvent,
)
from vxland.model.lease import Address, Change, Lease, Mac, Subnet, Vtep
from vxland.reconcile.plan import Want, plan_device, plan_peers
from vxland.reconcile.reconciler import Reconciler
from vxland.reconcile.view import OverlayKernel

DEV = "flannel.1"
MAC = Mac.parse("ce:5f:f6:73:cf:b9")
OWN: IPv4Interface | IPv6Interface = ip_interface("10.244.0.0/32")
NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"))
METRIC = {4: 0, 6: 1024}
FRESH = LinkState(index=7, kind="tun", mac=Mac(2), mtu=1500, up=False, accept_ra=1)


def lease(subnet: str, mac: int = 0x02_00_00_00_00_01, vtep: str = "192.0.2.1") -> Lease:
    """Return a peer's lease."""
    return Lease(ip_network(subnet), Vtep(ip_address(vtep), Mac(mac)))


def want(*leases: Lease) -> Want:
    """Return node 0's wanted state with these peers."""
    return Want(DEV, 1450, MAC, frozenset({OWN}), NETWORKS, frozenset(leases))


def ours(subnet: Subnet, device: str = DEV) -> Route:
    """Return the route that flannel would write."""
    return Route(subnet, subnet.network_address, device, onlink=True, metric=METRIC[subnet.version])


def route(subnet: str, gateway: str | None = "192.0.2.9", device: str = "eth0", *, metric: int = 0) -> Route:
    """Return a route of another program."""
    return Route(ip_network(subnet), None if gateway is None else ip_address(gateway), device, metric=metric)


def direct(subnet: str, gateway: str = "192.0.2.1", device: str = "eth0") -> Route:
    """Return the route of DirectRouting."""
    where = ip_network(subnet)
    return Route(where, ip_address(gateway), device, metric=METRIC[where.version])


def blackhole(subnet: str, metric: int = BLACKHOLE_METRIC) -> Route:
    """Return a blackhole, vxland's by default, as the kernel lists it."""
    where = ip_network(subnet)
    return Route(where, None, "" if where.version == 4 else "lo", metric=metric, kind=KIND_BLACKHOLE)


def put_route(have: Have, put: Route) -> Have:
    """Return the routes after `ip route replace`."""
    refusing = [r for r in have.routes if r.subnet == put.subnet and r.subnet.version == 6 and r.in_flannels_slot]
    for r in refusing if put.onlink else ():
        assert r.device in {"", "lo", put.device} or r.kind != KIND_UNICAST, "RTNETLINK answers: Invalid argument"
    slot = [r for r in have.routes if (r.subnet, r.metric, r.tos) == (put.subnet, put.metric, 0)]
    assert put not in slot[1:], "RTNETLINK answers: File exists"
    return replace(have, routes=(*(r for r in have.routes if r not in slot[:1]), put))


def model(have: Have, action: Action) -> Have:  # noqa: C901  (one case per action)
    """Return the kernel's next state: replace takes the first route of the slot, fails after it. Kernel: fib_trie.c."""
    assert have.link is not None
    match action:
        case SetMac(mac=mac):
            return replace(have, link=replace(have.link, mac=mac), neighbours=())
        case SetMtu(mtu=mtu):
            return replace(have, link=replace(have.link, mtu=mtu))
        case SetAcceptRa(value=value):
            return replace(have, link=replace(have.link, accept_ra=value))
        case SetUp():
            return replace(have, link=replace(have.link, up=True))
        case AddAddress(address=address):
            return replace(have, addresses=(*have.addresses, address))
        case DelAddress(device=device, address=address):
            left = tuple(a for a in have.addresses if a != address)
            routes = have.routes if left else tuple(r for r in have.routes if r.device != device)
            return replace(have, addresses=left, routes=routes)
        case ReplaceRoute(device=device, subnet=subnet):
            assert have.link.up, "RTNETLINK answers: Network is down"
            return put_route(have, ours(subnet, device))
        case ReplaceDirectRoute(device=device, subnet=subnet, gateway=gateway):
            assert have.on_link.get(gateway) == device, "RTNETLINK answers: Network is unreachable"
            return put_route(have, direct(str(subnet), str(gateway), device))
        case ReplaceBlackhole(subnet=subnet):
            return put_route(have, blackhole(str(subnet)))
        case DelRoute(route=gone):
            assert gone in have.routes, "RTNETLINK answers: No such process"
            return replace(have, routes=tuple(r for r in have.routes if r != gone))
        case ReplaceNeighbour(address=where, mac=mac):
            left_over = tuple(n for n in have.neighbours if n.address != where)
            return replace(have, neighbours=(*left_over, Neighbour(where, mac, permanent=True)))
        case DelNeighbour(address=where):
            return replace(have, neighbours=tuple(n for n in have.neighbours if n.address != where))


def settle(wanted: Want, have: Have) -> Have:
    """Plan and apply until nothing is left, within the rounds that the Reconciler allows itself."""
    for _ in range(5):
        actions = plan(wanted, have)
        if not actions:
            return have
        for action in actions:
            have = model(have, action)
    pytest.fail(f"still wants {plan(wanted, have)}")


class FakeKernel:
    """The model, with failures on request; `calls` are the applied batches.

    Every change makes the events that the real one makes; assign `have` for a change that makes none.
    """

    def __init__(self) -> None:
        self.have = Have(link=FRESH)
        self.calls: list[list[Action]] = []
        self.refuse: Callable[[Action], bool] = lambda _: False
        self.unreadable = False
        self.reads = 0
        self.device_reads = 0
        self.looked_up: list[frozenset[Address]] = []
        self.changed = asyncio.Event()
        self._queue = KernelChanges()
        self._watched: tuple[object, ...] = ()

    async def read_device(self, device: str) -> Have:
        """Return the model's link and addresses."""
        assert device == DEV
        self._answer()
        self.device_reads += 1
        return Have(self.have.link, self.have.addresses, marked=self.have.marked)

    async def scan(
        self, device: str, index: int, networks: Sequence[Subnet], found: Callable[[Route | Neighbour], None]
    ) -> None:
        """List the model's routes and neighbours."""
        assert (device, networks) == (DEV, NETWORKS)
        assert self.have.link is not None
        assert index == self.have.link.index
        self._answer()
        self.reads += 1
        for route in self.have.routes:
            found(route)
        for neighbour in self.have.neighbours:
            found(neighbour)

    async def on_link(self, vteps: Collection[Address], overlay: int) -> dict[Address, str]:
        """Look them up in the model."""
        assert overlay == FRESH.index
        self._answer()
        if vteps:
            self.looked_up.append(frozenset(vteps))
        return {vtep: self.have.on_link[vtep] for vtep in vteps if vtep in self.have.on_link}

    def watch(self, device: str, index: int, networks: Sequence[Subnet], *, underlay: bool) -> bool:
        """Note what is watched; the model makes the same events for all."""
        wanted = device, index, tuple(networks), underlay
        before, self._watched = self._watched, wanted
        return before == wanted

    async def changes(self) -> KernelChanges:
        """Return the events since the last call."""
        self._answer()
        taken, self._queue = self._queue, KernelChanges()
        self.changed.clear()
        return taken

    async def apply(self, actions: Sequence[Action]) -> dict[Action, VxlandError]:
        """Apply the actions to the model, except those that must fail."""
        self.calls.append(list(actions))
        refused = {action: VxlandError("refused") for action in actions if self.refuse(action)}
        for action in actions:
            if action not in refused:
                self._become(model(self.have, action))
        return refused

    async def wait_change(self) -> None:
        """Wait for drift()."""
        await self.changed.wait()
        self.changed.clear()

    def drift(self, have: Have) -> None:
        """Change the kernel as another program would, one object after the other."""
        self._become(have)
        self.changed.set()

    def lose_events(self) -> None:
        """Overrun the event socket."""
        self._queue = KernelChanges(everything=True)
        self.changed.set()

    def _become(self, have: Have) -> None:
        before, self.have = self.have, have
        self._queue.events += events(before, have)
        self._queue.device |= before.addresses != have.addresses
        self._queue.everything |= bool(set(before.addresses) - set(have.addresses)) or None in {before.link, have.link}
        self._queue.paths |= before.on_link != have.on_link

    def _answer(self) -> None:
        if self.unreadable:
            msg = "kernel on holiday"
            raise VxlandError(msg)


def events(before: Have, now: Have) -> list[RouteEvent | Neighbour | LinkState]:
    """Return the events of a change, as the kernel makes them; some changes have none."""
    found: list[RouteEvent | Neighbour | LinkState] = []
    if now.link is not None and before.link is not None:
        link = replace(now.link, accept_ra=None)
        found += [link] if link != replace(before.link, accept_ra=None) else []
    flushed = now.link is None or not now.link.up or len(now.addresses) < len(before.addresses)
    for route in before.routes:
        slot = [r for r in now.routes if r.slot == route.slot]
        replaced = len(slot) == 1 and slot[0] not in before.routes
        if route not in now.routes and not replaced and not (flushed and route.subnet.version == 4):
            found.append(RouteEvent(route, gone=True))
    for route in now.routes:
        replaces = any(r.slot == route.slot and r not in now.routes for r in before.routes)
        found += [RouteEvent(route, replaces=replaces)] if route not in before.routes else []
    left = {n.address for n in now.neighbours}
    found += [replace(n, mac=None, permanent=False) for n in before.neighbours if n.address not in left]
    found += [n for n in now.neighbours if n not in before.neighbours]
    return found


def plan(wanted: Want, have: Have) -> list[Action]:
    """Compare everything."""
    return [*plan_device(wanted, have), *plan_peers(wanted, have)]


async def read(kernel: OverlayKernel, wanted: Want) -> Have:
    """Return all that the kernel has of what is wanted."""
    have = await kernel.read_device(wanted.device)
    if have.link is None:
        return have
    found: list[Route | Neighbour] = []
    await kernel.scan(wanted.device, have.link.index, wanted.watched, found.append)
    return replace(
        have,
        routes=tuple(each for each in found if isinstance(each, Route)),
        neighbours=tuple(each for each in found if isinstance(each, Neighbour)),
        on_link=await kernel.on_link(set(wanted.direct_gateways.values()), have.link.index),
    )


async def set_want(reconciler: Reconciler, wanted: Want) -> None:
    """Set all that a Reconciler wants, peers and all."""
    view = reconciler._view
    held = frozenset() if view is None else frozenset(lease for here in view._wanted.leases.values() for lease in here)
    reconciler.set_want(wanted)
    await reconciler.follow(Change(held - wanted.peers, wanted.peers - held))


class Clock:
    """Time that advances only by pass_time()."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Return a future that pass_time() resolves."""
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, sleeper))
        return sleeper

    async def pass_time(self, seconds: float) -> None:
        """Advance the time, and wake each sleeper at its own."""
        await idle()
        end = self.now + seconds
        while due := [date for date, sleeper in self._sleepers if not sleeper.done() and date <= end]:
            self.now = min(due)
            for date, sleeper in self._sleepers:
                if date <= self.now and not sleeper.done():
                    sleeper.set_result(None)
            await idle()
        self.now = end


async def idle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(50):
        await asyncio.sleep(0)
