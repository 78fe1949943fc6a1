"""Choosing the underlay as flannel does: by name, address, pattern, a route lookup, or the default route."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from vxland.model.errors import ConfigError
from vxland.model.kernel_state import KIND_BLACKHOLE, KIND_LOCAL, KIND_UNICAST, Route, UnderlaySelector
from vxland.model.lease import Mac
from vxland.netlink.parse import LinkInfo, LocalAddress, RouteLookup
from vxland.netlink.underlay import Inventory, choose_underlay, choose_underlays

TEMPORARY, DADFAILED, DEPRECATED, TENTATIVE, OPTIMISTIC, PERMANENT = 0x01, 0x08, 0x20, 0x40, 0x04, 0x80

LINKS = [LinkInfo("eth0", 2, "", Mac(2), 1500, True, None), LinkInfo("eth1", 3, "", Mac(4), 9000, True, None)]
ADDRESSES = [
    LocalAddress(3, ip_interface("2001:db8::1/64")),
    LocalAddress(3, ip_interface("fe80::1/64")),
    LocalAddress(3, ip_interface("192.0.2.1/24")),
]
DEFAULT = Route(ip_network("0.0.0.0/0"), ip_address("192.0.2.254"), "eth1")
DEFAULT6 = Route(ip_network("::/0"), ip_address("2001:db8::2"), "eth1")


@pytest.mark.parametrize(
    ("interface", "address", "routes", "chosen"),
    [
        (None, None, [DEFAULT, DEFAULT6], "192.0.2.1"),
        (None, None, [DEFAULT6], "2001:db8::1"),
        ("eth1", None, [], "192.0.2.1"),
        (None, "2001:db8::1", [], "2001:db8::1"),
        ("eth1", "2001:db8::1", [], "2001:db8::1"),
    ],
)
def test_choose_underlay(interface: str | None, address: str | None, routes: list[Route], chosen: str) -> None:
    """By name, by address, by the default route; IPv4 first."""
    underlay = choose_underlay(Inventory(LINKS, ADDRESSES, routes), interface, ip_address(address) if address else None)
    assert (underlay.interface, underlay.index, str(underlay.address), underlay.mtu) == ("eth1", 3, chosen, 9000)


@pytest.mark.parametrize(
    ("interface", "address", "routes", "says"),
    [
        (None, None, [], "underlay.interface: None: there is no default route; name one of eth0 (no address), eth1 ("),
        (
            None,
            None,
            [Route(ip_network("0.0.0.0/0"), None, "")],
            "underlay.interface: None: the default route has several",
        ),
        ("eth0", None, [], "underlay.interface: 'eth0': it has no global address"),
        ("eth9", None, [], "underlay.interface: 'eth9': no such interface"),
        (None, "192.0.2.7", [], "underlay.address: '192.0.2.7': use an address of this node"),
        ("eth1", "192.0.2.7", [], "underlay.address: '192.0.2.7': not an address of eth1; use one of 192.0.2.1"),
        (None, "fe80::1", [], "underlay.address: 'fe80::1'"),
    ],
)
def test_no_underlay(interface: str | None, address: str | None, routes: list[Route], says: str) -> None:
    """The error names the wrong key, and what exists instead."""
    with pytest.raises(ConfigError) as raised:
        choose_underlay(Inventory(LINKS, ADDRESSES, routes), interface, ip_address(address) if address else None)
    assert str(raised.value).startswith(says)


def link(name: str, index: int, mtu: int = 1500) -> LinkInfo:
    """An interface."""
    return LinkInfo(name, index, "", Mac(2 * index), mtu, True, None)


def local(index: int, address: str, flags: int = PERMANENT) -> LocalAddress:
    """An address of an interface."""
    return LocalAddress(index, ip_interface(address), flags)


def default(device: str, version: int = 4, *, kind: int = KIND_UNICAST) -> Route:
    """A default route."""
    where, gateway = ("0.0.0.0/0", "10.0.0.254") if version == 4 else ("::/0", "2001:db8::fe")
    return Route(ip_network(where), ip_address(gateway), device, kind=kind)


NODE = Inventory(
    links=[link("lo", 1, 65536), link("eth0", 2), link("ens3", 3), link("ens4", 4), link("wg0", 5, 1420)],
    addresses=[
        local(1, "127.0.0.1/8"),
        local(1, "::1/128"),
        local(2, "10.0.2.15/24"),
        local(3, "169.254.7.7/16"),
        local(3, "192.168.56.11/24"),
        local(3, "192.168.56.12/24"),
        local(3, "2001:db8:56::11/64"),
        local(3, "fe80::3/64"),
        local(4, "172.16.0.4/24"),
        local(4, "2001:db8:4::4/64"),
        local(5, "2001:db8:5::5/64"),
    ],
    default_routes=[default("eth0"), default("ens4", 6)],
)


def chosen(selector: UnderlaySelector, *versions: int, node: Inventory = NODE) -> tuple[str, ...]:
    """Return the interface and then the addresses that a selector chooses."""
    found = choose_underlays(node, selector, versions)
    assert set(found) == set(versions)
    (name,) = {underlay.interface for underlay in found.values()}
    return name, *(str(found[version].address) for version in sorted(found))


@pytest.mark.parametrize(
    ("selector", "versions", "found"),
    [
        (UnderlaySelector(), (4,), ("eth0", "10.0.2.15")),
        (UnderlaySelector(), (6,), ("ens4", "2001:db8:4::4")),
        (UnderlaySelector(addresses={4: ip_address("192.168.56.12")}), (4,), ("ens3", "192.168.56.12")),
        (
            UnderlaySelector(addresses={4: ip_address("192.168.56.12")}),
            (4, 6),
            ("ens3", "192.168.56.12", "2001:db8:56::11"),
        ),
        (UnderlaySelector(addresses={6: ip_address("2001:db8:4::4")}), (4, 6), ("ens4", "172.16.0.4", "2001:db8:4::4")),
        (UnderlaySelector(("ens3",)), (4,), ("ens3", "192.168.56.11")),
        (UnderlaySelector(("ens3",)), (6, 4), ("ens3", "192.168.56.11", "2001:db8:56::11")),
        (UnderlaySelector(("192.168.56.12",)), (4, 6), ("ens3", "192.168.56.12", "2001:db8:56::11")),
        (UnderlaySelector(("2001:db8:4::4",)), (4, 6), ("ens4", "172.16.0.4", "2001:db8:4::4")),
        (UnderlaySelector(("gone9", "10.9.9.9", "ens4")), (4,), ("ens4", "172.16.0.4")),
        (UnderlaySelector(("eth0", "ens4")), (4, 6), ("ens4", "172.16.0.4", "2001:db8:4::4")),
        (UnderlaySelector(("ens3",), addresses={4: ip_address("192.168.56.12")}), (4,), ("ens3", "192.168.56.12")),
        (UnderlaySelector(patterns=(r"192\.168",)), (4,), ("ens3", "192.168.56.11")),
        (UnderlaySelector(patterns=(r"\.12$",)), (4,), ("ens3", "192.168.56.12")),
        (UnderlaySelector(patterns=(r"4",)), (4, 6), ("ens4", "172.16.0.4", "2001:db8:4::4")),
        (UnderlaySelector(patterns=(r"192\.168",)), (6,), None),
        (UnderlaySelector(patterns=(r"ns4",)), (4,), ("ens4", "172.16.0.4")),
        (
            UnderlaySelector(patterns=(r"^s4", r"^(eth|wg)", r"^ens")),
            (4, 6),
            ("ens3", "192.168.56.11", "2001:db8:56::11"),
        ),
        (UnderlaySelector(("gone9",), patterns=(r"^ens4$",)), (4,), ("ens4", "172.16.0.4")),
        (UnderlaySelector(("ens3",), patterns=(r"^ens4$",)), (4,), ("ens3", "192.168.56.11")),
    ],
)
def test_selection(selector: UnderlaySelector, versions: tuple[int, ...], found: tuple[str, ...] | None) -> None:
    """The first hit wins; with two IP versions, only an interface with both is a hit."""
    if found is None:
        with pytest.raises(ConfigError):
            choose_underlays(NODE, selector, versions)
    else:
        assert chosen(selector, *versions) == found


@pytest.mark.parametrize(
    ("route", "found"),
    [
        (RouteLookup(KIND_UNICAST, 3, True, ip_address("192.168.56.12")), "192.168.56.12"),
        (RouteLookup(KIND_UNICAST, 3, False, None), "192.168.56.11"),
        (RouteLookup(KIND_UNICAST, 3, False, ip_address("172.16.0.4")), "172.16.0.4"),
        (RouteLookup(KIND_UNICAST, 3, False, ip_address("127.0.0.1")), "192.168.56.11"),
        (None, "underlay.can_reach: '8.8.8.8': no route leads there"),
        (RouteLookup(KIND_BLACKHOLE, 0, False, None), "underlay.can_reach: '8.8.8.8': no route leads there"),
        (RouteLookup(KIND_LOCAL, 1, False, ip_address("8.8.8.8")), "underlay.can_reach: '8.8.8.8': this node has it"),
    ],
)
def test_can_reach(route: RouteLookup | None, found: str) -> None:
    """The route lookup decides on interface and source address; an unreachable address chooses nothing."""
    node, selector = replace(NODE, reached=route), UnderlaySelector(can_reach=ip_address("8.8.8.8"))
    if found.startswith("underlay"):
        with pytest.raises(ConfigError) as raised:
            choose_underlays(node, selector, (4,))
        assert str(raised.value).startswith(found)
    else:
        assert chosen(selector, 4, node=node) == ("ens3", found)
    assert chosen(replace(selector, interfaces=("ens4",)), 4, node=node) == ("ens4", "172.16.0.4")


def test_two_versions_by_the_default_route() -> None:
    """One interface must have both default routes; the error names both interfaces, or the missing route."""
    both = replace(NODE, default_routes=[default("ens3"), default("ens3", 6), default("ens4", 6)])
    assert chosen(UnderlaySelector(), 4, 6, node=both) == ("ens3", "192.168.56.11", "2001:db8:56::11")
    with pytest.raises(ConfigError, match="that of IPv4 is eth0, that of IPv6 is ens4; name one of lo"):
        choose_underlays(NODE, UnderlaySelector(), (4, 6))
    refusing = replace(NODE, default_routes=[default("eth0"), default("lo", 6, kind=KIND_BLACKHOLE)])
    with pytest.raises(ConfigError, match="there is no IPv6 default route"):
        choose_underlays(refusing, UnderlaySelector(), (4, 6))


@pytest.mark.parametrize(
    ("addresses", "route", "best"),
    [
        (["169.254.1.1/16", "10.1.0.1/24"], None, "10.1.0.1"),
        (["169.254.1.1/16"], None, "169.254.1.1"),
        (["10.9.0.1/24 dynamic", "10.9.0.100/32"], None, "10.9.0.1"),
        (["10.9.0.100/32", "10.9.0.1/24 dynamic"], None, "10.9.0.1"),
        (["10.9.0.100/32", "10.9.0.1/24 dynamic"], "via 10.9.0.254", "10.9.0.1"),
        (["10.9.0.1/24 dynamic", "10.9.0.2/24 secondary"], "via 10.9.0.254", "10.9.0.1"),
        (["10.9.0.1/24 dynamic", "10.9.0.2/24 secondary"], "via 10.9.0.254 src 10.9.0.2", "10.9.0.2"),
        (["10.9.0.1/24", "10.9.0.2/24"], None, "10.9.0.1"),
        (["10.8.0.1/24", "10.9.0.1/24 dynamic"], "via 10.9.0.254", "10.9.0.1"),
        (["10.8.0.1/24", "10.9.0.1/24 dynamic"], "via 10.9.0.254 src 10.8.0.1", "10.8.0.1"),
        (["10.8.0.1/24", "10.9.0.1/24 dynamic"], "src 192.0.2.7", "10.8.0.1"),
        (["192.0.2.7/32", "10.9.0.1/29"], "via 192.0.2.1", "192.0.2.7"),
        (["192.0.2.7/32 dynamic", "192.0.2.99/32"], "via 192.0.2.1", "192.0.2.7"),
        (["2001:db8::100/128 made 7", "2001:db8::d/64 dynamic made 5"], None, "2001:db8::d"),
        (["2001:db8::100/64 made 7", "2001:db8::d/64 dynamic made 5"], "via fe80::1", "2001:db8::d"),
        (["2001:db8::100/64", "2001:db8::d/64 dynamic"], "via fe80::1", "2001:db8::d"),
        (["2001:db8::100/128 made 7", "2001:db8::d/128 dynamic made 5"], None, "2001:db8::d"),
        (["2001:db8::d/64 made 9", "2001:db8::9/64 made 8"], "via fe80::1 src 2001:db8::d", "2001:db8::d"),
        (["2001:db8:9::d/64 made 3", "2001:db8::9/64 made 8"], "via 2001:db8::1", "2001:db8::9"),
        (["2001:db8::7/64 dynamic temporary made 3", "2001:db8::d/64 dynamic made 5"], None, "2001:db8::d"),
        (["2001:db8::7/64 dynamic temporary"], None, "2001:db8::7"),
        (["2001:db8::1/64 deprecated", "2001:db8::2/64"], None, "2001:db8::2"),
        (["2001:db8::1/64 tentative", "2001:db8::2/64 dynamic"], None, "2001:db8::2"),
        (["2001:db8::2/64 dynamic made 4", "2001:db8::1/64 tentative optimistic made 3"], None, "2001:db8::1"),
        (["2001:db8::1/64 tentative dadfailed", "2001:db8::2/64 dynamic temporary"], None, "2001:db8::2"),
        (["fe80::1/64"], None, None),
        (["2001:db8::1/64 deprecated"], None, None),
        (["127.0.0.1/8"], None, None),
    ],
)
def test_the_best_address_of_an_interface(addresses: list[str], route: str | None, best: str | None) -> None:
    """A VIP beside a DHCP or SLAAC address became the VTEP, and vxland ended when it moved to another node.

    The kernel's own source address counts, then the oldest address; not an address's lifetime.
    """
    version = ip_interface(addresses[0].split()[0]).version
    found = []
    for text in addresses:
        address, *words = text.split()
        made = int(words.pop()) if "made" in words else 0
        bits = {"temporary": TEMPORARY, "secondary": TEMPORARY, "dadfailed": DADFAILED, "deprecated": DEPRECATED}
        bits |= {"tentative": TENTATIVE, "optimistic": OPTIMISTIC, "dynamic": 0, "made": 0}
        flags = sum(bits[word] for word in words) | (0 if "dynamic" in words else PERMANENT)
        found.append(LocalAddress(2, ip_interface(address), flags, made))
    routes = []
    if route is not None:
        words_of = dict(zip(route.split()[::2], map(ip_address, route.split()[1::2]), strict=True))
        routes.append(replace(default("eth0", version), gateway=words_of.get("via"), source=words_of.get("src")))
    node = Inventory([link("eth0", 2)], found, [default("eth9", version), *routes])
    if best is None:
        with pytest.raises(ConfigError):
            choose_underlays(node, UnderlaySelector(("eth0",)), (version,))
    else:
        assert chosen(UnderlaySelector(("eth0",)), version, node=node) == ("eth0", best)


def test_a_deprecated_address_can_be_configured() -> None:
    """An address that the settings name is used as it is."""
    node = Inventory([link("eth0", 2)], [local(2, "2001:db8::1/64", DEPRECATED)], [])
    selector = UnderlaySelector(addresses={6: ip_address("2001:db8::1")})
    assert chosen(selector, 6, node=node) == ("eth0", "2001:db8::1")
    assert chosen(UnderlaySelector(("2001:db8::1",)), 6, node=node) == ("eth0", "2001:db8::1")


@pytest.mark.parametrize(
    ("selector", "versions", "says"),
    [
        (
            UnderlaySelector(("eth0",)),
            (4, 6),
            "underlay.interface: 'eth0': it has no usable IPv6 address; use one of lo",
        ),
        (UnderlaySelector(("10.9.9.9",)), (4,), "underlay.interface: '10.9.9.9': no interface has this address; use"),
        (UnderlaySelector(("2001:db8:4::4",)), (4,), "underlay.interface: '2001:db8:4::4': no interface has this"),
        (
            UnderlaySelector(patterns=("^x",)),
            (4,),
            "underlay.interface_regex: '^x': it is found in no address and no name",
        ),
        (
            UnderlaySelector(("gone9",), ("^x",)),
            (4, 6),
            "underlay.interface: 'gone9, ^x': none of these has an IPv4 address and an IPv6 address; use one of lo",
        ),
        (
            UnderlaySelector(addresses={6: ip_address("2001:db8::9")}),
            (4, 6),
            "underlay.address_v6: '2001:db8::9': use an address of this node",
        ),
        (
            UnderlaySelector(addresses={4: ip_address("172.16.0.4"), 6: ip_address("2001:db8:56::11")}),
            (4, 6),
            "underlay.address_v6: '2001:db8:56::11': not an address of ens4; use one of 172.16.0.4, 2001:db8:4::4, or",
        ),
    ],
)
def test_refusals(selector: UnderlaySelector, versions: tuple[int, ...], says: str) -> None:
    """The error names the wrong key, its value, the reason, and what exists."""
    with pytest.raises(ConfigError) as raised:
        choose_underlays(NODE, selector, versions)
    assert str(raised.value).startswith(says)


def test_names_that_are_no_text() -> None:
    """A link's name may have any bytes: an error shows them escaped, and the name as typed finds the link."""
    odd = "e\udcff\x1b[2J"
    node = Inventory([link(odd, 2), link("eth1", 3)], [local(2, "10.0.0.1/24")], [])
    assert chosen(UnderlaySelector((odd,)), 4, node=node) == (r"e\udcff\x1b[2J", "10.0.0.1")
    with pytest.raises(ConfigError) as raised:
        choose_underlays(node, UnderlaySelector(("eth1",)), (4,))
    assert r"use one of e\udcff\x1b[2J (10.0.0.1), eth1 (no address)" in str(raised.value)


def test_an_interface_without_mtu() -> None:
    """No overlay MTU can follow from 0."""
    node = Inventory([link("eth0", 2, 0)], [local(2, "10.0.0.1/24")], [])
    with pytest.raises(ConfigError, match=r"underlay\.interface: 'eth0': its MTU is 0"):
        choose_underlays(node, UnderlaySelector(("eth0",)), (4,))
