"""A fast path that follows leases and routes of a real kernel: what a change writes and looks up, and what it does not.

+-------- node --------+
|  tap   flannel.1     |
|  e0    192.0.2.1/24  | to all VTEPs
|  e1    198.51.100.1  | to one of them, later
+----------------------+
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.netns.namespace import Netns
from tests.patience import PATIENCE_S
from vxland.config import Settings
from vxland.datapath.owners import Owners
from vxland.fastpath.layout import pack_mac, pack_number
from vxland.fastpath.libbpf import Map, library
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Lease, Mac, Vtep
from vxland.model.source_check import SourceCheck
from vxland.netlink.client import Netlink
from vxland.netlink.path_events import PathEvents
from vxland.node.fast_path import FastPath
from vxland.node.tunnel import Tunnel

pytestmark = pytest.mark.netns

OWN = IPv4Address("192.0.2.1")
COUNT = 100
FILE = {
    "overlay": {"network": "10.244.0.0/16", "subnet": "10.244.0.0/24"},
    "underlay": {"address": str(OWN)},
    "registry": {"kind": "static", "peers": []},
}


def lease(number: int, mac: int = 0) -> Lease:
    """Return the lease of a node."""
    vtep = Vtep(IPv4Address(0xC000_0200 + number), Mac(0x02_00_00_00_00_00 + (mac or number)))
    return Lease(IPv4Network((0x0AF4_0000 + (number << 8), 24)), vtep)


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """Make the node above."""
    if library() is None:
        pytest.skip("apt-get install libbpf1")
    ns = netns()
    ns.ip("tuntap add flannel.1 mode tap")
    ns.ip("link set flannel.1 up")
    for device, address in (("e0", f"{OWN}/24"), ("e1", "198.51.100.1/24")):
        ns.ip(f"link add {device} type veth peer name {device}p")
        ns.ip(f"address add {address} dev {device}")
        ns.ip(f"link set {device}p up")
        ns.ip(f"link set {device} up")
    return ns


class Node:
    """The fast path of the node, with the writes to its maps and the addresses whose routes were looked up."""

    def __init__(self, netlink: Netlink) -> None:
        self.owners, self.following = Owners(), asyncio.Lock()
        self.writes: list[tuple[str, bytes, bytes | None]] = []
        self.looked_up: list[Address] = []
        interfaces_to = netlink.interfaces_to

        async def noted(addresses: Iterable[Address], vrf: int = 0) -> dict[Address, int]:
            self.looked_up += addresses
            return await interfaces_to(self.looked_up[-len(list(addresses)) :], vrf)

        netlink.interfaces_to = noted  # type: ignore[method-assign]
        tunnel = Tunnel(
            underlay=Underlay("e0", socket.if_nametoindex("e0"), OWN, 1500),
            mac=Mac(1),
            mtu=1450,
            narrow={},
            source_ports=[50_000],
            public=[],
            check_source=SourceCheck.VTEP,
        )
        settings = Settings.model_validate(FILE)
        self.path = FastPath(settings, netlink, self.owners, self.following, lambda: tunnel, self._drained)

    async def _drained(self) -> tuple[int, int]:
        return 0, 0

    async def change(self, removed: Iterable[Lease], added: Iterable[Lease]) -> None:
        """Change leases."""
        async with self.following:
            await self.path.follow_owners(self.owners.change(removed, added))

    def taken(self) -> tuple[list[tuple[str, bytes, bytes | None]], list[Address]]:
        """Return the writes and the look-ups since the last call."""
        found = self.writes[:], self.looked_up[:]
        self.writes.clear()
        self.looked_up.clear()
        return found


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """Run the fast path with COUNT leases, from when it is on."""
    netlink = Netlink()
    node = Node(netlink)
    put, delete = Map.put, Map.delete

    def noted_put(self: Map, key: bytes, value: bytes) -> None:
        node.writes.append((self._name, key, value))
        put(self, key, value)

    def noted_delete(self: Map, key: bytes) -> None:
        node.writes.append((self._name, key, None))
        delete(self, key)

    monkeypatch.setattr(Map, "put", noted_put)
    monkeypatch.setattr(Map, "delete", noted_delete)
    await node.change((), [lease(number) for number in range(2, COUNT + 2)])
    ready = asyncio.Event()
    ready.set()
    jobs = [asyncio.create_task(node.path.run(ready)), asyncio.create_task(node.path.watch_routes())]
    try:
        await until(lambda: not node.path.off)
        yield node
    finally:
        for job in jobs:
            job.cancel()
            with suppress(asyncio.CancelledError):
                await job
        node.path.remove()
        netlink.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is done on a beat."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  (a list sets no event)
            await asyncio.sleep(0.01)


def test_a_change_costs_what_it_changes(node: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    """All entries were computed and compared for each change, and the routes to all VTEPs looked up every 5 seconds."""

    async def inside() -> None:
        async with running(monkeypatch) as path:
            writes, looked_up = path.taken()
            assert sorted(looked_up) == [lease(number).vtep.address for number in range(2, COUNT + 2)]
            assert len(writes) == 3 * COUNT + 1  # and the TAP
            assert len({(name, key) for name, key, _ in writes}) == len(writes)

            await path.change([lease(50)], [lease(50, 0x99)])
            writes, looked_up = path.taken()
            assert [name for name, _, value in writes if value is None] == ["peers"]
            assert sorted(name for name, _, value in writes if value is not None) == ["inner_v4", "peers", "sources"]
            assert looked_up == []

            await path.change((), [lease(200)])
            await until(lambda: path.path.sends_to(lease(200).vtep))
            writes, looked_up = path.taken()
            assert [name for name, _, _ in writes] == ["inner_v4", "sources", "peers"]
            assert looked_up == [lease(200).vtep.address]

            await path.change([lease(200)], ())
            writes, looked_up = path.taken()
            assert [(name, value) for name, _, value in writes] == [
                ("peers", None),
                ("sources", None),
                ("inner_v4", None),
            ]
            assert looked_up == []

    node.run_async(inside)


def test_a_changed_route_is_followed(node: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another interface, and back; the other VTEPs' entries are not written."""

    async def inside() -> None:
        async with running(monkeypatch) as path:
            vtep = lease(50).vtep
            for command, device in (("add", "e1"), ("del", "e0")):
                path.taken()
                node.ip(f"route {command} {vtep.address} via 198.51.100.2")
                await until(lambda: bool(path.writes))
                index = pack_number(socket.if_nametoindex(device))
                ((name, key, value),) = path.writes
                assert (name, key, (value or b"")[12:16]) == ("peers", pack_mac(vtep.mac), index)

    node.run_async(inside)


def test_events_of_pods_and_leases_are_ignored(node: Netns) -> None:
    """On a node with many pods, interfaces come and go all the time; each lease has a route into the device."""

    async def inside() -> None:
        events = PathEvents()
        own, tap, used = 1, socket.if_nametoindex("flannel.1"), {socket.if_nametoindex("e0")}

        def wakes(*commands: str) -> bool:
            for command in commands:
                node.ip(command)
            return bool(events._drain(own, tap, used))

        try:
            events._drain(own, tap, used)
            assert not wakes("link add pod type veth peer name podp", "link set pod up", "link del pod")
            assert not wakes("route add 10.244.7.0/24 dev flannel.1", "route del 10.244.7.0/24 dev flannel.1")
            assert not wakes("address add 10.9.9.9/32 dev lo")
            for command in (
                "route add 203.0.113.0/24 via 192.0.2.77",
                "route del 203.0.113.0/24",
                "rule add to 203.0.113.0/24 lookup 7",
                "link set e0 mtu 1400",
            ):
                assert wakes(command), command
        finally:
            events.close()

    node.run_async(inside)
