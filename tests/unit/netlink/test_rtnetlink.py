"""Built requests are parsed back to the same objects; errors."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from types import SimpleNamespace

import pytest

from vxland.model.actions import AddAddress, DelRoute, ReplaceNeighbour, ReplaceRoute, SetMac, SetUp
from vxland.model.errors import StartError, VxlandError
from vxland.model.kernel_state import InterfaceAddress, KernelChanges, LinkState, Neighbour, Route, RouteEvent
from vxland.model.lease import Mac
from vxland.netlink import rtnl
from vxland.netlink.build import build_request
from vxland.netlink.dumps import InterfaceNames
from vxland.netlink.events import Events
from vxland.netlink.message import (
    AF_INET,
    AF_INET6,
    HDR,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    attributes,
    messages,
)
from vxland.netlink.parse import LocalAddress, RouteScope, parse_address, parse_link, parse_neighbour, parse_route

DEV, INDEX = "flannel.1", 7
WATCH = RouteScope(DEV, INDEX, [ip_network("10.244.0.0/16"), ip_network("fd00:244::/32")])
INDICES = {DEV: INDEX, "eth0": 2}


def built(action: object) -> tuple[int, bytes]:
    """Return (type, bytes) of the request for an action."""
    request = build_request(action, INDICES.__getitem__)  # type: ignore[arg-type]  # every action
    packed = rtnl._pack(request.body, request.kind, request.flags, 1)
    (message,) = messages(packed)
    assert message[4] == packed
    return message[0], packed


def name(index: int) -> str:
    """Return the interface of an index."""
    return {index: name for name, index in INDICES.items()}[index]


@pytest.mark.parametrize(("subnet", "family"), [("10.244.1.0/24", AF_INET), ("fd00:244:1::/64", AF_INET6)])
def test_our_route_is_built_as_flannel_shapes_it(subnet: str, family: int) -> None:
    """Parsed back it is flannel's, except for the metric that the kernel adds for IPv6."""
    kind, packed = built(ReplaceRoute(DEV, ip_network(subnet)))
    route = parse_route(packed, WATCH, name, family)
    assert kind == RTM_NEWROUTE
    assert route == Route(ip_network(subnet), ip_network(subnet).network_address, DEV, onlink=True)
    assert parse_route(packed, WATCH, name, AF_INET + AF_INET6 - family) is None


def test_a_foreign_route_is_parsed_back_whole() -> None:
    """The kernel needs every field to find the route to delete."""
    route = Route(ip_network("10.244.1.0/24"), ip_address("192.0.2.9"), "eth0", metric=20, tos=16, proto=4, scope=253)
    assert parse_route(built(DelRoute(DEV, route))[1], WATCH, name, AF_INET) == route
    outside = Route(ip_network("10.9.0.0/24"), None, "eth0")
    assert parse_route(built(DelRoute(DEV, outside))[1], WATCH, name, AF_INET) is None


def test_neighbours_and_addresses_are_parsed_back() -> None:
    """A neighbour is permanent, has its MAC, and belongs to the requested device."""
    kind, packed = built(ReplaceNeighbour(DEV, ip_address("fd00:244:1::"), Mac(6)))
    assert kind == RTM_NEWNEIGH
    assert parse_neighbour(packed, INDEX, AF_INET6) == Neighbour(ip_address("fd00:244:1::"), Mac(6), permanent=True)
    assert parse_neighbour(packed, INDEX + 1, AF_INET6) is None
    address: InterfaceAddress = ip_interface("10.244.0.0/32")
    assert parse_address(built(AddAddress(DEV, address))[1]) == LocalAddress(INDEX, address, 0, marked=True)


def test_links_are_parsed_back() -> None:
    """A link without most attributes is still a link."""
    assert parse_link(built(SetMac(DEV, Mac(0x02_00_00_00_00_07)))[1]).mac == Mac(0x02_00_00_00_00_07)
    assert parse_link(built(SetUp(DEV))[1]).up


def noted(kind: int, message: bytes, scope: RouteScope = WATCH, flags: int = 0) -> KernelChanges | None:
    """Return the changes after an event; None if it does not concern `scope`."""
    events = Events()
    try:
        events.scope = scope
        concerns = events._note(kind, flags, message, InterfaceNames(), foreign=True)
        return events._changes if concerns else None
    finally:
        events.close()


def test_events_of_routes_and_neighbours() -> None:
    """Index and destination decide; the bridge FDB is not ours."""
    neighbour = built(ReplaceNeighbour(DEV, ip_address("10.244.1.0"), Mac(6)))[1]
    there = Neighbour(ip_address("10.244.1.0"), Mac(6), permanent=True)
    assert noted(RTM_NEWNEIGH, neighbour) == KernelChanges([there])
    assert noted(RTM_DELNEIGH, neighbour) == KernelChanges([replace(there, mac=None, permanent=False)])
    bridge = bytearray(neighbour)
    bridge[HDR.size] = 7  # AF_BRIDGE
    assert noted(RTM_NEWNEIGH, bytes(bridge)) is None
    assert noted(RTM_NEWNEIGH, neighbour, RouteScope(DEV, INDEX + 1, [])) is None
    subnet = ip_network("10.244.1.0/24")
    ours, packed = Route.flannels(subnet, DEV), built(ReplaceRoute(DEV, subnet))[1]
    assert noted(RTM_NEWROUTE, packed, flags=0x100) == KernelChanges([RouteEvent(ours, replaces=True)])
    assert noted(RTM_DELROUTE, packed) == KernelChanges([RouteEvent(ours, gone=True)])
    elsewhere = built(ReplaceRoute("eth0", ip_network("10.9.0.0/24")))[1]
    assert noted(RTM_NEWROUTE, elsewhere) is None
    assert noted(RTM_NEWROUTE, elsewhere, RouteScope(DEV, INDEX, [], underlay=True)) == KernelChanges(paths=True)


def test_events_of_the_device() -> None:
    """A changed link is compared with the known one; a new device of the name, and a lost address, ask for all."""
    up = LinkState(INDEX, "", Mac(0), 0, up=True, accept_ra=None)
    named = attribute(3, DEV.encode(), b"\0")
    assert noted(RTM_NEWLINK, link_message(named)) == KernelChanges([up])
    assert noted(RTM_NEWLINK, link_message(attribute(3, b"other\0"))) == KernelChanges(everything=True)  # renamed
    assert noted(RTM_DELLINK, link_message(named)) == KernelChanges(everything=True)
    port = bytearray(link_message(named))
    port[HDR.size] = 7  # AF_BRIDGE
    assert noted(RTM_DELLINK, bytes(port)) == KernelChanges(device=True)
    address = built(AddAddress(DEV, ip_interface("10.244.0.0/32")))[1]
    assert noted(RTM_NEWADDR, address) == KernelChanges(device=True)
    assert noted(RTM_DELADDR, address) == KernelChanges(device=True, everything=True)
    assert noted(RTM_DELADDR, address, RouteScope(DEV, INDEX + 1, [])) is None


def test_truncated_attributes_and_messages_end() -> None:
    """Parsing ends at every length, and invents nothing."""
    packed = built(ReplaceRoute(DEV, ip_network("10.244.1.0/24")))[1]
    whole = attributes(packed, HDR.size + 12)
    for length in range(len(packed)):
        assert attributes(packed[:length], HDR.size + 12).items() <= whole.items()
        list(messages(packed[:length]))
    assert attributes(bytes(8), 0) == {}
    assert list(messages(bytes(32))) == []


def attribute(kind: int, *parts: bytes) -> bytes:
    """A netlink attribute."""
    body = b"".join(parts)
    return (struct.pack("=HH", 4 + len(body), kind) + body).ljust((4 + len(body) + 3) & ~3, b"\0")


def link_message(*parts: bytes) -> bytes:
    """An RTM_NEWLINK of interface 7, which is up."""
    body = struct.pack("=BxHiII", 0, 1, INDEX, 0x1043, 0) + b"".join(parts)
    return HDR.pack(HDR.size + len(body), RTM_NEWLINK, 0, 1, 0) + body


@pytest.mark.parametrize(("raw", "name"), [(b"e0", "e0"), ("ü0".encode(), "ü0"), (b"\xff\x1b0", "\udcff\x1b0")])
def test_links(raw: bytes, name: str) -> None:
    """One link anywhere on the machine whose name was not UTF-8 ended the start with a traceback."""
    info = attribute(18, attribute(1, b"vxlan\0"), attribute(2, attribute(15, b"\x21\x18")))
    found = parse_link(link_message(attribute(3, raw, b"\0"), attribute(1, bytes(5), b"\x09"), info))
    assert (found.name, found.index, found.kind, found.mac, found.up) == (name, INDEX, "vxlan", Mac(9), True)
    assert (found.mtu, found.vxlan_port, found.vrf) == (0, 8472, 0)
    slave = attribute(18, attribute(1, b"veth\0"), attribute(4, b"vrf\0"))
    found = parse_link(link_message(attribute(3, raw, b"\0"), attribute(4, struct.pack("=I", 9000)),
                                    attribute(10, struct.pack("=I", 12)), slave))  # fmt: skip
    assert (found.name, found.kind, found.mtu, found.vxlan_port, found.vrf) == (name, "veth", 9000, None, 12)
    bridged = attribute(18, attribute(4, b"bridge\0"))
    found = parse_link(link_message(attribute(3, raw, b"\0"), attribute(10, struct.pack("=I", 12)), bridged))
    assert (found.name, found.kind, found.vrf) == (name, "", 0)
    assert parse_link(link_message()).name == ""


@pytest.mark.parametrize("raw", [b"flannel.1", "flannel.é".encode(), b"fl\xff"])
def test_a_new_device_of_the_name_concerns_us(raw: bytes) -> None:
    """It has another index, and its name may have any bytes; other devices do not concern us."""
    scope = RouteScope(os.fsdecode(raw), INDEX + 1, [])
    assert noted(RTM_NEWLINK, link_message(attribute(3, raw, b"\0")), scope) == KernelChanges(everything=True)
    assert noted(RTM_NEWLINK, link_message(attribute(3, raw, b"x\0")), scope) is None


def test_batches_shrink_while_the_kernel_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel searches all routes of a device for each new one: 64 of 20,000 held the event loop for 25 ms."""
    clock = [0.0]
    monkeypatch.setattr(rtnl, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found = rtnl.Rtnl()
    try:
        cost_s = 0.0003

        def send(request: bytes) -> None:
            clock[0] += cost_s * len(request)

        monkeypatch.setattr(found, "_socket", SimpleNamespace(send=send, close=found._socket.close))
        sizes = []
        for _ in range(20):
            sizes.append(found.batch)
            found._send(bytes(found.batch))
        assert sizes[0] == rtnl.BATCH
        assert all(3 <= size <= 8 for size in sizes[8:])
        cost_s = 0.0
        for _ in range(rtnl.BATCH):
            found._send(b"")
        assert found.batch == rtnl.BATCH
    finally:
        found.close()


def test_errors() -> None:
    """The error names a missing capability; every other one the command, the errno and the kernel's message."""
    assert isinstance(rtnl.refusal("ip link set", errno.EPERM), StartError)
    assert "CAP_NET_ADMIN" in str(rtnl.refusal("ip link set", errno.EPERM))
    request = HDR.pack(20, 24, 5, 1, 0) + bytes(4)
    words = b"Nexthop has invalid gateway\0"
    body = HDR.pack(0, 2, 0x200, 1, 0) + struct.pack("=i", -errno.EINVAL) + request
    error = rtnl._parse_error("ip route replace", body + struct.pack("=HH", 4 + len(words), 1) + words)
    assert isinstance(error, VxlandError)
    assert str(error) == "ip route replace: Invalid argument (Nexthop has invalid gateway)"
    assert rtnl._parse_error("ip", HDR.pack(36, 2, 0, 1, 0) + bytes(20)) is None
