"""Choice of the underlay and route lookups on a real kernel.

+------- node --------+
|  eth0 10.0.2.15/24  | default route, IPv4
|  ens3 192.168.56.11 | /24, 2001:db8:56::11/64; default route, IPv6; to 198.51.100.0/24 with src 192.168.56.12
+---------------------+
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest

from tests.netns.namespace import Netns
from vxland.config import settings_of
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import Underlay, UnderlaySelector
from vxland.netlink.client import Netlink
from vxland.node.plane_opening import choose_planes
from vxland.node.underlays import find_underlays
from vxland.registry.net_conf import NetConf

pytestmark = pytest.mark.netns

T = TypeVar("T")


@pytest.fixture
def node(netns: Callable[[], Netns]) -> Netns:
    """Make the node above."""
    ns = netns()
    for command in (
        "link add eth0 type veth peer name eth0p",
        "link add ens3 mtu 1400 type veth peer name ens3p",
        "link set eth0p up",
        "link set ens3p up",
        "link set eth0 up",
        "link set ens3 up",
        "address add 10.0.2.15/24 dev eth0",
        "address add 192.168.56.11/24 dev ens3",
        "address add 192.168.56.12/24 dev ens3",
        "address add 2001:db8:56::11/64 dev ens3 nodad",
        "address add 2001:db8:56::9/64 dev ens3 nodad preferred_lft 0",
        "route add default via 10.0.2.2 dev eth0",
        "-6 route add default via 2001:db8:56::1 dev ens3",
        "route add 198.51.100.0/24 via 192.168.56.1 src 192.168.56.12",
        "route add unreachable 203.0.113.0/24",
    ):
        ns.ip(command)
    return ns


def test_find_underlays(node: Netns) -> None:
    """Default route, name, pattern, address and route lookup choose it; an unreachable address is refused."""
    v4, v6 = "192.168.56.11", "2001:db8:56::11"

    async def main() -> None:
        with closing(Netlink()) as netlink:

            async def found(selector: UnderlaySelector, *versions: int) -> list[str]:
                underlays: list[Underlay] = list((await netlink.find_underlays(selector, versions)).values())
                return [underlays[0].interface, str(underlays[0].mtu), *(str(u.address) for u in underlays)]

            assert await found(UnderlaySelector(), 4) == ["eth0", "1500", "10.0.2.15"]
            assert await found(UnderlaySelector(), 6) == ["ens3", "1400", v6]
            with pytest.raises(ConfigError, match="that of IPv4 is eth0, that of IPv6 is ens3"):
                await found(UnderlaySelector(), 4, 6)
            assert await found(UnderlaySelector(("ens3",)), 4, 6) == ["ens3", "1400", v4, v6]
            assert await found(UnderlaySelector(("2001:db8:56::9",)), 4, 6) == ["ens3", "1400", v4, "2001:db8:56::9"]
            assert await found(UnderlaySelector(patterns=(r"56",)), 4, 6) == ["ens3", "1400", v4, v6]
            reach = UnderlaySelector(can_reach=ip_address("198.51.100.7"))
            assert await found(reach, 4, 6) == ["ens3", "1400", "192.168.56.12", v6]
            reach6 = UnderlaySelector(can_reach=ip_address("2001:db8:99::1"))
            assert await found(reach6, 4, 6) == ["ens3", "1400", v4, v6]
            for nowhere in ("203.0.113.7", "192.168.56.11"):
                with pytest.raises(ConfigError, match=f"can_reach: '{nowhere}'"):
                    await found(UnderlaySelector(can_reach=ip_address(nowhere)), 4)
            secondary = UnderlaySelector(addresses={4: ip_address("192.168.56.12")})
            assert await found(secondary, 4, 6) == ["ens3", "1400", "192.168.56.12", v6]

    node.run_async(main)


def choice(node: Netns, **underlay: object) -> dict[int, tuple[str, str, str]]:
    """Return interface, bound and advertised address of each plane of a dual-stack node with these settings."""
    settings = settings_of({"registry": {"kind": "kube"}, "underlay": underlay})
    conf = NetConf((ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")))

    async def choose() -> dict[int, tuple[str, str, str]]:
        chosen = choose_planes(settings, conf, await find_underlays(settings, conf))
        return {
            found.address.version: (
                found.interface,
                str(found.address),
                str(plane.underlay.public_address or found.address),
            )
            for plane, found in chosen
        }

    return node.run_async(choose)


def test_an_advertised_address_of_our_own_is_bound(node: Netns) -> None:
    """With --iface and --public-ip, peers send to the latter, so it must be bound; behind NAT it is the router's."""
    v6 = ("ens3", "2001:db8:56::11", "2001:db8:56::11")
    assert choice(node, interface="ens3") == {4: ("ens3", "192.168.56.11", "192.168.56.11"), 6: v6}
    own = choice(node, interface="ens3", public_address="192.168.56.12")
    assert own == {4: ("ens3", "192.168.56.12", "192.168.56.12"), 6: v6}
    nat = choice(node, interface="ens3", public_address="203.0.113.7", public_address_v6="2001:db8:56::11")
    assert nat == {4: ("ens3", "192.168.56.11", "203.0.113.7"), 6: v6}
    bound = choice(node, interface="ens3", address="192.168.56.11", public_address="192.168.56.12")
    assert bound == {4: ("ens3", "192.168.56.11", "192.168.56.12"), 6: v6}


@pytest.fixture
def served(netns: Callable[[], Netns]) -> Netns:
    """Make a node with a DHCP and a SLAAC address, with lifetimes, beside a VIP and a static address of each family.

    The kernel lists IPv4 addresses oldest first, secondary ones last, and IPv6 ones newest first.
    """
    ns = netns()
    lease = "valid_lft 3600 preferred_lft 3600"
    for command in (
        "link add \udcff\x1b type veth peer name ensp",
        "link set \udcff\x1b name ens3",
        "link set ensp name \udcff\x1b",
        "link set \udcff\x1b up",
        "link set ens3 up",
        f"address add 10.9.0.1/24 dev ens3 {lease}",
        "address add 10.9.0.100/32 dev ens3",
        "address add 10.9.0.2/24 dev ens3",
        f"address add 2001:db8:9::1/64 dev ens3 nodad {lease}",
        "address add 2001:db8:9::100/128 dev ens3 nodad",
        "address add 2001:db8:9::2/64 dev ens3 nodad",
        "route add default via 10.9.0.254 dev ens3",
        "-6 route add default via fe80::1 dev ens3",
    ):
        ns.ip(command)
    return ns


def test_a_vip_is_no_vtep(served: Netns) -> None:
    """A VIP or a second static address, without a lifetime, was chosen before the node's own address from DHCP.

    The order of the list changes when the node's own address is renewed. If an administrator sets a route's source
    address, that counts. One link has a name that is not UTF-8.
    """

    def bound() -> list[str]:
        async def main() -> list[str]:
            with closing(Netlink()) as netlink:
                found = await netlink.find_underlays(UnderlaySelector(), (4, 6))
                return [str(underlay.address) for underlay in found.values()]

        return served.run_async(main)

    assert bound() == ["10.9.0.1", "2001:db8:9::1"]
    for prefix in ("10.9.0.1/24", "2001:db8:9::1/64"):  # the kernel deletes 10.9.0.2 too, as it is secondary
        served.ip(f"address del {prefix} dev ens3")
        served.ip(f"address add {prefix} dev ens3 valid_lft 3600 preferred_lft 3600 nodad")
    served.ip("address del 2001:db8:9::2/64 dev ens3")
    served.ip("route replace default via 10.9.0.254 dev ens3")
    assert bound() == ["10.9.0.1", "2001:db8:9::1"]
    served.ip("address add 10.9.0.3/24 dev ens3")
    served.ip("route replace default via 10.9.0.254 dev ens3 src 10.9.0.3")
    served.ip("-6 route replace default via fe80::1 dev ens3 src 2001:db8:9::100")
    assert bound() == ["10.9.0.3", "2001:db8:9::100"]
