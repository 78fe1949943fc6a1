"""Requests as built and objects as parsed: the one read back through the other; errors."""

from __future__ import annotations

import errno
import os
import struct
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from pyroute2.netlink.rtnl import RTM_DELNEIGH, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE

from vxland.model.actions import AddAddress, DelRoute, ReplaceNeighbour, ReplaceRoute, SetMac, SetUp
from vxland.model.errors import StartError, VxlandError
from vxland.model.kernel_state import InterfaceAddress, Neighbour, Route
from vxland.model.lease import Mac
from vxland.netlink import rtnl
from vxland.netlink.build import build_request
from vxland.netlink.parse import LocalAddress, RouteScope, parse_address, parse_link, parse_neighbour, parse_route

DEV, INDEX = "flannel.1", 7
WATCH = RouteScope(DEV, INDEX, [ip_network("10.244.0.0/16"), ip_network("fd00:244::/32")])
INDICES = {DEV: INDEX, "eth0": 2}
AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7


def built(action: object) -> tuple[int, bytes]:
    """(type, octets) of the request for an action."""
    request = build_request(action, INDICES.__getitem__)  # type: ignore[arg-type]
    octets = rtnl._encode(request.message, request.kind, request.flags, 1)
    (message,) = rtnl.messages(octets)
    assert message[4] == octets
    return message[0], octets


def name(index: int) -> str:
    """The interface of an index."""
    return {index: name for name, index in INDICES.items()}[index]


@pytest.mark.parametrize(("subnet", "family"), [("10.244.1.0/24", AF_INET), ("fd00:244:1::/64", AF_INET6)])
def test_our_route_is_built_as_flannel_shapes_it(subnet: str, family: int) -> None:
    """Read back it is flannel's, but for the metric that the kernel fills in for IPv6."""
    kind, octets = built(ReplaceRoute(DEV, ip_network(subnet)))
    route = parse_route(octets, WATCH, name, family)
    assert kind == RTM_NEWROUTE
    assert route == Route(ip_network(subnet), ip_network(subnet).network_address, DEV, onlink=True)
    assert parse_route(octets, WATCH, name, AF_INET + AF_INET6 - family) is None


def test_a_route_elsewhere_reads_back_as_it_was() -> None:
    """Every field that the kernel needs to find the route to delete."""
    route = Route(ip_network("10.244.1.0/24"), ip_address("192.0.2.9"), "eth0", metric=20, tos=16, proto=4, scope=253)
    assert parse_route(built(DelRoute(DEV, route))[1], WATCH, name, AF_INET) == route
    outside = Route(ip_network("10.9.0.0/24"), None, "eth0")
    assert parse_route(built(DelRoute(DEV, outside))[1], WATCH, name, AF_INET) is None


def test_neighbours_and_addresses_read_back() -> None:
    """Permanent, with its MAC; only of the device asked for."""
    kind, octets = built(ReplaceNeighbour(DEV, ip_address("fd00:244:1::"), Mac(6)))
    assert kind == RTM_NEWNEIGH
    assert parse_neighbour(octets, INDEX, AF_INET6) == Neighbour(ip_address("fd00:244:1::"), Mac(6), permanent=True)
    assert parse_neighbour(octets, INDEX + 1, AF_INET6) is None
    address: InterfaceAddress = ip_interface("10.244.0.0/32")
    assert parse_address(built(AddAddress(DEV, address))[1]) == LocalAddress(INDEX, address, 0, marked=True)


def test_links_read_back() -> None:
    """A link that says little is still a link."""
    assert parse_link(built(SetMac(DEV, Mac(0x02_00_00_00_00_07)))[1]).mac == Mac(0x02_00_00_00_00_07)
    assert parse_link(built(SetUp(DEV))[1]).up


def test_events_that_concern_us() -> None:
    """By index, by name, by destination; the bridge FDB is not ours."""
    neighbour = built(ReplaceNeighbour(DEV, ip_address("10.244.1.0"), Mac(6)))[1]
    assert WATCH.concerns(RTM_DELNEIGH, neighbour)
    bridge = bytearray(neighbour)
    bridge[rtnl.HDR.size] = AF_BRIDGE
    assert not WATCH.concerns(RTM_NEWNEIGH, bytes(bridge))
    assert not RouteScope(DEV, INDEX + 1, []).concerns(RTM_NEWNEIGH, neighbour)
    link = bytes(16 + 4) + struct.pack("=i", 99) + bytes(8) + struct.pack("=HH", 14, 3) + b"flannel.1\0\0\0"
    assert WATCH.concerns(RTM_NEWLINK, link)
    assert not RouteScope("flannel.2", INDEX, []).concerns(RTM_NEWLINK, link)


def test_truncated_attributes_and_messages_end() -> None:
    """At every length the walkers stop, and say no more than there is."""
    octets = built(ReplaceRoute(DEV, ip_network("10.244.1.0/24")))[1]
    whole = rtnl.attributes(octets, rtnl.HDR.size + 12)
    for length in range(len(octets)):
        assert rtnl.attributes(octets[:length], rtnl.HDR.size + 12).items() <= whole.items()
        list(rtnl.messages(octets[:length]))
    assert rtnl.attributes(bytes(8), 0) == {}
    assert list(rtnl.messages(bytes(32))) == []


def attribute(kind: int, *parts: bytes) -> bytes:
    """A netlink attribute."""
    body = b"".join(parts)
    return (struct.pack("=HH", 4 + len(body), kind) + body).ljust((4 + len(body) + 3) & ~3, b"\0")


def link_message(*attributes: bytes) -> bytes:
    """An RTM_NEWLINK of interface 7, which is up."""
    body = struct.pack("=BxHiII", 0, 1, INDEX, 0x1043, 0) + b"".join(attributes)
    return rtnl.HDR.pack(rtnl.HDR.size + len(body), RTM_NEWLINK, 0, 1, 0) + body


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
def test_a_device_made_anew_concerns_us_by_its_name(raw: bytes) -> None:
    """Under another index, whatever bytes its name has; others do not."""
    scope = RouteScope(os.fsdecode(raw), INDEX + 1, [])
    assert scope.concerns(RTM_NEWLINK, link_message(attribute(3, raw, b"\0")))
    assert not scope.concerns(RTM_NEWLINK, link_message(attribute(3, raw, b"x\0")))


def test_errors() -> None:
    """A missing capability says so; every other refusal names the command, the errno and the kernel's own words."""
    assert isinstance(rtnl.refusal("ip link set", errno.EPERM), StartError)
    assert "CAP_NET_ADMIN" in str(rtnl.refusal("ip link set", errno.EPERM))
    request = rtnl.HDR.pack(20, 24, 5, 1, 0) + bytes(4)
    words = b"Nexthop has invalid gateway\0"
    body = rtnl.HDR.pack(0, 2, 0x200, 1, 0) + struct.pack("=i", -errno.EINVAL) + request
    error = rtnl._parse_error("ip route replace", body + struct.pack("=HH", 4 + len(words), 1) + words)
    assert isinstance(error, VxlandError)
    assert str(error) == "ip route replace: Invalid argument (Nexthop has invalid gateway)"
    assert rtnl._parse_error("ip", rtnl.HDR.pack(36, 2, 0, 1, 0) + bytes(20)) is None
