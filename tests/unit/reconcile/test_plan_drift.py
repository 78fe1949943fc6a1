"""plan() against a model of the kernel: a fresh device, drift, and state that is not ours."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel import DEV, FRESH, OWN, lease, ours, plan, route, settle, want
from vxland.model.actions import AddAddress, DelAddress, DelRoute, ReplaceRoute
from vxland.model.kernel_state import Have, LinkState, Neighbour, Route
from vxland.model.lease import Lease, Mac, Vtep
from vxland.reconcile.plan import Want

PEER, PEER6 = lease("10.244.1.0/24"), lease("fd00:244:1::/64")
WANT = want(PEER, PEER6)
SETTLED = settle(WANT, Have(link=FRESH))
ROUTE, NEIGHBOUR = ours(PEER.subnet), Neighbour(PEER.subnet.network_address, PEER.vtep.mac, permanent=True)


def test_a_fresh_device_gets_all_of_flannels_state_in_an_order_the_kernel_takes() -> None:
    """The commands, as `vxlandctl plan` prints them."""
    assert [str(action) for action in plan(WANT, Have(link=FRESH))] == [
        "ip link set dev flannel.1 address ce:5f:f6:73:cf:b9",
        "ip link set dev flannel.1 mtu 1450",
        "sysctl -w net/ipv6/conf/flannel.1/accept_ra=0",
        "ip link set dev flannel.1 up",
        "ip address add 10.244.0.0/32 dev flannel.1",
        "ip neigh replace 10.244.1.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent",
        "ip neigh replace fd00:244:1:: lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent",
        "ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        "ip -6 route replace fd00:244:1::/64 via fd00:244:1:: dev flannel.1 onlink",
    ]


@pytest.mark.parametrize("have", [SETTLED, Have(), Have(link=replace(FRESH, kind="vxlan"))])
def test_nothing_to_do(have: Have) -> None:
    """Nothing changes if all is as wanted, if there is no device yet, or if it is not ours."""
    assert plan(WANT, have) == []


def link(**changes: object) -> Have:
    """Return the settled state with another link."""
    assert SETTLED.link is not None
    return replace(SETTLED, link=replace(SETTLED.link, **changes))  # type: ignore[arg-type]  # any field


def without(*routes: Route) -> tuple[Route, ...]:
    """Return the settled routes without these."""
    return tuple(r for r in SETTLED.routes if r not in routes)


@pytest.mark.parametrize(
    ("have", "actions"),
    [
        (link(mac=Mac(2)), ["ip link set dev flannel.1 address ce:5f:f6:73:cf:b9"]),
        (link(mtu=1500), ["ip link set dev flannel.1 mtu 1450"]),
        (link(up=False), ["ip link set dev flannel.1 up"]),
        (link(accept_ra=1), ["sysctl -w net/ipv6/conf/flannel.1/accept_ra=0"]),
        (link(accept_ra=None), []),
        (replace(SETTLED, addresses=()), ["ip address add 10.244.0.0/32 dev flannel.1"]),
        (
            replace(SETTLED, routes=without(ROUTE)),
            ["ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink"],
        ),
        (
            replace(SETTLED, neighbours=SETTLED.neighbours[1:]),
            ["ip neigh replace 10.244.1.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent"],
        ),
        (
            replace(SETTLED, neighbours=(replace(NEIGHBOUR, permanent=False), *SETTLED.neighbours[1:])),
            ["ip neigh replace 10.244.1.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent"],
        ),
        (
            replace(SETTLED, neighbours=(replace(NEIGHBOUR, mac=Mac(4)), *SETTLED.neighbours[1:])),
            ["ip neigh replace 10.244.1.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent"],
        ),
        (
            replace(SETTLED, addresses=(OWN, ip_interface("10.244.9.0/32"))),
            ["ip address del 10.244.9.0/32 dev flannel.1"],
        ),
        (
            replace(SETTLED, routes=(*SETTLED.routes, ours(ip_network("10.244.9.0/24")))),
            ["ip route del 10.244.9.0/24 via 10.244.9.0 dev flannel.1 proto boot"],
        ),
        (
            replace(SETTLED, neighbours=(*SETTLED.neighbours, Neighbour(ip_address("10.244.9.0"), Mac(6), True))),
            ["ip neigh del 10.244.9.0 dev flannel.1"],
        ),
    ],
)
def test_one_drift_one_command(have: Have, actions: list[str]) -> None:
    """Each drift is repaired on its own, and stale state goes."""
    assert [str(action) for action in plan(WANT, have)] == actions


@pytest.mark.parametrize(
    ("changed", "by"),
    [
        (replace(ROUTE, extras=("metrics",)), "mtu"),
        (replace(ROUTE, onlink=False), "no onlink"),
        (replace(ROUTE, proto=4), "another protocol"),
        (route("10.244.1.0/24"), "another interface"),
        (Route(ROUTE.subnet, None, "", kind=6), "a blackhole"),
        (Route(ROUTE.subnet, None, "", extras=("nexthop",)), "several nexthops"),
    ],
)
def test_a_route_in_our_slot_is_replaced(changed: Route, by: str) -> None:
    """Any route is replaced, as by flannel's `route replace`; one that precedes ours is deleted."""
    alone = replace(SETTLED, routes=(*without(ROUTE), changed))
    assert plan(WANT, alone) == [ReplaceRoute(DEV, ROUTE.subnet)], by
    assert plan(WANT, replace(alone, routes=(*alone.routes, ROUTE))) == [DelRoute(DEV, changed)]
    assert plan(WANT, replace(alone, routes=(ROUTE, *alone.routes))) == []


def test_what_a_user_put_there_stays() -> None:
    """Routes in another form than flannel's, learned neighbours, IPv6 addresses and those outside the networks."""
    have = replace(
        SETTLED,
        routes=(
            *SETTLED.routes,
            route("10.99.0.0/16", "10.244.1.0", DEV),
            route("10.244.7.0/24", None, DEV),
            replace(ours(ip_network("10.244.8.0/24")), metric=5),
            route("10.244.1.0/24", metric=100),
            route("fd00:244:1::/64", "fd00::1", metric=256),
        ),
        neighbours=(*SETTLED.neighbours, Neighbour(ip_address("10.244.1.7"), Mac(8), permanent=False)),
        addresses=(OWN, ip_interface("192.0.2.5/24"), ip_interface("fe80::1/64"), ip_interface("fd00:244:9::/128")),
    )
    assert plan(WANT, have) == []


def test_an_address_is_added_before_the_last_other_one_goes() -> None:
    """A device that loses its last IPv4 address loses its routes with it."""
    have = replace(SETTLED, addresses=(ip_interface("10.244.0.0/24"),))
    assert plan(WANT, have) == [AddAddress(DEV, OWN), DelAddress(DEV, ip_interface("10.244.0.0/24"))]


def test_conflicting_leases_settle() -> None:
    """Two claims on one subnet, nested subnets with one base address, and a claim on our own subnet."""
    wanted = want(
        lease("10.244.1.0/24", 4), lease("10.244.1.0/24", 2), lease("10.244.1.0/25", 6), lease("10.244.0.0/24")
    )
    have = settle(wanted, Have(link=FRESH))
    assert have.neighbours == (Neighbour(ip_address("10.244.1.0"), Mac(6), permanent=True),)
    assert {r.subnet for r in have.routes} == {ip_network("10.244.1.0/24"), ip_network("10.244.1.0/25")}


SUBNETS = [f"10.244.{n}.0/{length}" for n in range(4) for length in (24, 25)]
SUBNETS += [f"fd00:244:{n}::/64" for n in range(3)]
macs = st.integers(1, 3).map(lambda n: Mac(2 * n))
leases = st.builds(
    lambda subnet, mac: Lease(subnet, Vtep(ip_address("192.0.2.1"), mac)),
    st.sampled_from(SUBNETS).map(ip_network),
    macs,
)
foreign = st.builds(
    route, st.sampled_from(SUBNETS), st.just(None), st.sampled_from(["eth0", DEV]), metric=st.sampled_from([0, 1024])
)
routes = st.lists(st.sampled_from(SUBNETS).map(ip_network).map(ours) | foreign, unique=True).map(tuple)
neighbours = st.lists(
    st.builds(Neighbour, st.sampled_from(SUBNETS).map(lambda s: ip_network(s).network_address), macs, st.booleans()),
    unique_by=lambda n: n.address,
).map(tuple)
addresses = st.lists(st.sampled_from([OWN, ip_interface("10.244.3.0/32"), ip_interface("10.9.0.1/24")]), unique=True)
links = st.builds(
    LinkState, st.just(7), st.sampled_from(["tun", ""]), macs, st.just(1500), st.booleans(), st.none() | st.just(1)
)
haves = st.builds(Have, links, addresses.map(tuple), routes, neighbours)


@given(st.frozensets(leases).map(lambda peers: want(*peers)), haves)
def test_any_state_settles_and_stays_settled(wanted: Want, have: Have) -> None:
    """The kernel accepts every action; the end is the same from every start; foreign routes stay."""
    end = settle(wanted, have)
    assert {r for r in end.routes if r.is_flannels(DEV)} == {ours(subnet) for subnet in wanted.subnets}
    assert {n.address: n.mac for n in end.neighbours if n.permanent} == wanted.neighbours()
    lost = {r for r in have.routes if r not in end.routes and not r.is_flannels(DEV)}
    assert {r.subnet for r in lost} <= set(wanted.subnets) | (
        {r.subnet for r in lost} if OWN not in have.addresses else set()
    )
