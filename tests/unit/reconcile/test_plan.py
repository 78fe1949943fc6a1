"""plan() outside the tunnel: DirectRouting, blackholes, IPv6 addresses, and two planes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel import DEV, FRESH, MAC, METRIC, OWN, blackhole, direct, lease, ours, plan, route, settle, want
from vxland.model.actions import (
    Action,
    DelAddress,
    DelNeighbour,
    DelRoute,
    ReplaceBlackhole,
    ReplaceDirectRoute,
    ReplaceNeighbour,
    ReplaceRoute,
)
from vxland.model.kernel_state import Have, Neighbour, Route
from vxland.model.lease import Lease, Mac
from vxland.reconcile.plan import Want

NEAR, FAR = lease("10.244.1.0/24", 2, "192.0.2.1"), lease("10.244.2.0/24", 4, "198.51.100.2")
NEAR6, FAR6 = lease("fd00:244:1::/64", 2, "2001:db8::1"), lease("fd00:244:2::/64", 4, "2001:db8:2::2")
ON_LINK = {ip_address("192.0.2.1"): "eth0", ip_address("2001:db8::1"): "eth0"}
WANT = replace(want(NEAR, FAR, NEAR6, FAR6), direct=True)
SETTLED = settle(WANT, Have(link=FRESH, on_link=ON_LINK))


def commands(wanted: Want, have: Have) -> list[str]:
    """Return the plan as text."""
    return [str(action) for action in plan(wanted, have)]


def neighbours(have: Have) -> set[str]:
    """Return the addresses that have a permanent neighbour."""
    return {str(n.address) for n in have.neighbours if n.permanent}


def test_peers_on_the_link_get_plain_routes_and_no_neighbour() -> None:
    """Peers behind a gateway, and all without DirectRouting, use the tunnel."""
    assert set(SETTLED.routes) == {
        direct("10.244.1.0/24"),
        ours(FAR.subnet),
        direct("fd00:244:1::/64", "2001:db8::1"),
        ours(FAR6.subnet),
    }
    assert neighbours(SETTLED) == {"10.244.2.0", "fd00:244:2::"}
    off = replace(WANT, direct=False)
    assert {r for r in settle(off, SETTLED).routes if r.device != DEV} == set()


def test_to_the_link_and_back_with_the_neighbour_there_while_the_tunnel_is() -> None:
    """The neighbour goes a round after the direct route is there, and comes before the tunnel's route. IPv6 deletes."""
    away = replace(SETTLED, on_link={})
    assert commands(WANT, away) == [
        "ip neigh replace 10.244.1.0 lladdr 00:00:00:00:00:02 dev flannel.1 nud permanent",
        "ip neigh replace fd00:244:1:: lladdr 00:00:00:00:00:02 dev flannel.1 nud permanent",
        "ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        "ip -6 route del fd00:244:1::/64 via 2001:db8::1 dev eth0 proto boot metric 1024",
        "ip -6 route replace fd00:244:1::/64 via fd00:244:1:: dev flannel.1 onlink",
    ]
    back = replace(settle(WANT, away), on_link=ON_LINK)
    assert commands(WANT, back) == [
        "ip route replace 10.244.1.0/24 via 192.0.2.1 dev eth0",
        "ip -6 route replace fd00:244:1::/64 via 2001:db8::1 dev eth0",
    ]
    assert settle(WANT, back) == replace(back, routes=settle(WANT, back).routes, neighbours=SETTLED.neighbours)


def test_a_refused_direct_route_leaves_the_tunnel_whole() -> None:
    """Its neighbour stays as long as the tunnel's route."""
    tunnel = replace(settle(replace(WANT, direct=False), Have(link=FRESH)), on_link=ON_LINK)
    assert not [action for action in plan(WANT, tunnel) if isinstance(action, DelNeighbour)]


def test_the_link_moves_to_another_interface() -> None:
    """The route's interface is that of the lookup."""
    moved = replace(SETTLED, on_link=dict.fromkeys(ON_LINK, "eth1"))
    assert plan(WANT, moved) == [
        ReplaceDirectRoute("eth1", NEAR.subnet, ip_address("192.0.2.1")),
        ReplaceDirectRoute("eth1", NEAR6.subnet, ip_address("2001:db8::1")),
    ]


def test_a_peer_that_leaves_takes_its_direct_route_along() -> None:
    """State of other peers is unchanged."""
    assert plan(replace(WANT, peers=WANT.peers - {NEAR}), SETTLED) == [DelRoute(DEV, direct("10.244.1.0/24"))]


def test_a_route_of_another_shape_in_the_slot_is_replaced() -> None:
    """Routes with a source, another protocol or another gateway are replaced."""
    good = direct("10.244.1.0/24")
    others = tuple(r for r in SETTLED.routes if r != good)
    for bad in (
        replace(good, extras=("src",)),
        replace(good, proto=4),
        replace(good, gateway=ip_address("192.0.2.9")),
        replace(good, onlink=True),
    ):
        assert plan(WANT, replace(SETTLED, routes=(*others, bad))) == [
            ReplaceDirectRoute("eth0", NEAR.subnet, ip_address("192.0.2.1"))
        ]


STALE = direct("10.244.9.0/24", "192.0.2.9")


@pytest.mark.parametrize(
    ("left", "stays"),
    [
        (STALE, False),
        (direct("fd00:244:9::/64", "2001:db8::9"), False),
        (direct("10.244.9.0/24", "10.244.0.7", "cni0"), True),
        (replace(STALE, proto=4), True),
        (replace(STALE, metric=100), True),
        (replace(STALE, extras=("metrics",)), True),
        (replace(STALE, onlink=True), True),
        (replace(STALE, device="", extras=("nexthop",)), True),
        (replace(STALE, gateway=None), True),
    ],
)
def test_stale_direct_routes(left: Route, stays: bool) -> None:
    """They go only with DirectRouting, and only in exactly its form; a pod that routes for others is no peer."""
    have = replace(SETTLED, routes=(*SETTLED.routes, left))
    assert plan(WANT, have) == ([] if stays else [DelRoute(DEV, left)])
    off = replace(WANT, direct=False)
    assert left in settle(off, have).routes


def test_no_direct_route_where_none_can_be() -> None:
    """A VTEP of the other IP version, or a subnet outside the networks, whose route would not be read."""
    mixed, outside = lease("fd00:244:1::/64", 2, "192.0.2.1"), lease("10.9.1.0/24", 4, "192.0.2.1")
    wanted = replace(want(mixed, outside), direct=True)
    have = settle(wanted, Have(link=FRESH, on_link=ON_LINK))
    assert {r.device for r in have.routes} == {DEV}


def test_nested_subnets_of_which_one_is_direct_share_no_neighbour() -> None:
    """The base address resolves to the one in the tunnel."""
    wide = lease("10.244.1.0/23".replace("1.0", "2.0"), 6, "198.51.100.3")
    near = lease("10.244.2.0/24", 2, "192.0.2.1")
    have = settle(replace(want(wide, near), direct=True), Have(link=FRESH, on_link=ON_LINK))
    assert have.neighbours == (Neighbour(ip_address("10.244.2.0"), Mac(6), permanent=True),)


HOLES = replace(want(NEAR), blackholes=(ip_network("10.244.0.0/24"), ip_network("fd00:244::/64")))


def test_blackholes_come_and_go() -> None:
    """Each of our subnets has one after every other route to it; ours of other subnets go."""
    have = settle(want(NEAR), Have(link=FRESH))
    assert commands(HOLES, have) == [
        "ip route replace blackhole 10.244.0.0/24 metric 4294967295",
        "ip -6 route replace blackhole fd00:244::/64 metric 4294967295",
    ]
    held = settle(HOLES, have)
    assert set(held.routes) - set(have.routes) == {blackhole("10.244.0.0/24"), blackhole("fd00:244::/64")}
    assert settle(want(NEAR), held) == have
    moved = replace(HOLES, blackholes=(ip_network("10.244.5.0/24"),))
    assert commands(moved, held) == [
        "ip route replace blackhole 10.244.5.0/24 metric 4294967295",
        "ip route del blackhole 10.244.0.0/24 proto boot metric 4294967295",
        "ip -6 route del blackhole fd00:244::/64 dev lo proto boot metric 4294967295",
    ]


def test_whose_blackhole() -> None:
    """Flanneld's on our own subnet, which may precede the bridge's route, is replaced by ours; a user's stay."""
    theirs = (
        blackhole("10.244.0.0/24", 0),
        blackhole("fd00:244::/64", METRIC[6]),
        blackhole("10.244.0.7/32", 0),
        replace(blackhole("10.244.0.0/24"), proto=80),
        route("10.244.0.0/24", None, "cni0"),
    )
    have = settle(want(NEAR), Have(link=FRESH))
    assert plan(want(NEAR), replace(have, routes=(*have.routes, *theirs))) == []
    held = settle(HOLES, have)
    assert plan(HOLES, replace(held, routes=(*held.routes, *theirs))) == [
        DelRoute(DEV, theirs[0]),
        DelRoute(DEV, theirs[1]),
    ]


def test_ipv6_addresses_that_are_not_ours() -> None:
    """Other IPv6 addresses than ours and link-local ones go; a user's IPv4 one outside the networks stays."""
    own6 = ip_interface("fd00:244::/128")
    wanted = replace(want(NEAR6), device="flannel-v6.1", addresses=frozenset({own6}))
    others = [ip_interface(text) for text in ("fd00:244:9::/128", "2001:db8::7/64", "fe80::7/64", "192.0.2.7/24")]
    have = replace(settle(wanted, Have(link=FRESH)), addresses=(*others, own6))
    gone: list[Action] = [DelAddress("flannel-v6.1", address) for address in others[:2]]
    assert plan(wanted, have) == gone
    fresh = plan(wanted, Have(link=FRESH))
    assert "ip address add fd00:244::/128 dev flannel-v6.1 nodad" in [str(action) for action in fresh]


FORMER = (ip_network("10.77.3.0/24"), ip_network("fd00:77:3::/64"))


def test_what_the_node_held_before_goes() -> None:
    """The old address stayed first, the source of the node's packets to pods; the old blackhole stayed too."""
    wanted = replace(HOLES, former=FORMER)
    have = settle(HOLES, Have(link=FRESH))
    old = (ip_interface("10.77.3.0/32"), ip_interface("fd00:77:3::/128"))
    users = tuple(map(ip_interface, ("10.77.3.1/32", "10.77.3.0/24", "192.0.2.7/32")))
    holes = (blackhole("10.77.3.0/24"), blackhole("10.77.3.0/24", 0), blackhole("fd00:77:3::/64"))
    theirs = (blackhole("10.77.4.0/24"), replace(holes[0], proto=80), route("10.77.3.0/25", "192.0.2.9"))
    full = replace(have, addresses=(*old, *users, *have.addresses), routes=(*have.routes, *holes, *theirs))
    assert plan(replace(wanted, direct=True), full) == [
        *(DelAddress(DEV, address) for address in old),
        *(DelRoute(DEV, hole) for hole in holes),
    ]
    assert plan(HOLES, full) == []


def test_direct_routes_of_the_former_network_go() -> None:
    """With DirectRouting, routes in its form that lead to no pod of the node go, as in the present network."""
    wanted = replace(WANT, former_networks=(ip_network("10.77.0.0/16"),))
    old = direct("10.77.4.0/24")
    users = (
        replace(direct("10.77.5.0/24"), proto=80),
        direct("10.77.6.0/24", "10.77.3.9", "cni0"),
        direct("10.78.0.0/24"),
    )
    full = replace(SETTLED, routes=(*SETTLED.routes, old, *users))
    assert plan(wanted, full) == [DelRoute(DEV, old)]
    assert plan(WANT, full) == []


def test_an_address_that_a_vxland_has_marked_goes() -> None:
    """It goes whatever its network was, and without a subnet.env; wanted addresses stay."""
    have = settle(HOLES, Have(link=FRESH))
    old, users = ip_interface("10.77.3.0/32"), ip_interface("10.78.3.0/32")
    full = replace(have, addresses=(old, users, OWN), marked=frozenset({old, OWN}))
    assert plan(HOLES, full) == [DelAddress(DEV, old)]


V4, V6 = ip_network("10.244.0.0/16"), ip_network("fd00:244::/32")
PLANE4 = Want("flannel.1", 1450, MAC, frozenset({OWN}), (V4,), frozenset({NEAR, FAR}), True, (V4,))
PLANE6 = Want(
    "flannel-v6.1", 1430, Mac(8), frozenset({ip_interface("fd00:244::/128")}), (V6,), frozenset({NEAR6, FAR6}), True
)


def seen(wanted: Want, mine: Have, other: Have) -> Have:
    """Return Netlink.read() for one plane: its own device, and the other's routes inside its own networks."""
    (network,) = wanted.networks
    inside = [r for r in other.routes if r.subnet.version == network.version]
    return replace(mine, routes=(*mine.routes, *inside))


stale = st.frozensets(
    st.builds(
        lease,
        st.sampled_from(["10.244.1.0/24", "10.244.7.0/24", "fd00:244:1::/64", "fd00:244:7::/64"]),
        vtep=st.sampled_from(["192.0.2.1", "2001:db8::1"]),
    )
)


@given(stale, stale, st.booleans())
def test_two_planes_leave_each_other_alone(old4: frozenset[Lease], old6: frozenset[Lease], on_link: bool) -> None:
    """Whatever either device had before, no action of one plane names the other's device, family or routes."""
    near = ON_LINK if on_link else {}

    def before(plane: Want, old: frozenset[Lease]) -> Have:
        (network,) = plane.networks
        peers = frozenset(lease for lease in old if lease.subnet.version == network.version)
        return settle(replace(plane, peers=peers), Have(link=FRESH, on_link=near))

    have4, have6 = before(PLANE4, old4), before(PLANE6, old6)
    for plane, mine, other in ((PLANE4, have4, have6), (PLANE6, have6, have4)):
        (network,) = plane.networks
        for action in plan(plane, seen(plane, mine, other)):
            match action:
                case DelRoute(route=route):
                    assert route.subnet.version == network.version
                    assert route in mine.routes
                case ReplaceRoute(subnet=subnet) | ReplaceDirectRoute(subnet=subnet) | ReplaceBlackhole(subnet=subnet):
                    assert subnet.version == network.version
                case ReplaceNeighbour(address=address) | DelNeighbour(address=address):
                    assert address.version == network.version
            assert action.device in {plane.device, "eth0"}
