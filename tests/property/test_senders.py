"""Accepted senders, against a naive oracle: outer sources and inner senders of random leases, also behind NAT."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frames import MAC_B, OWN_MAC, VNI, ethernet, from_outer, ipv4, place, vxlan
from vxland.datapath.decap import Decap
from vxland.datapath.table import table_of
from vxland.datapath.verdict import FORWARD, Drop
from vxland.model.lease import Address, Lease, Mac, Vtep
from vxland.model.source_check import SourceCheck

BASE = int(IPv4Address("192.0.2.0"))
STRICT = SourceCheck.STRICT


@st.composite
def clusters(draw: st.DrawFn) -> list[Lease]:
    """Some nodes on one /28 of the underlay, with sources there that may be shared and may hold one another."""
    found = []
    for node in range(draw(st.integers(0, 6))):
        sources = draw(st.lists(st.tuples(st.integers(0, 15), st.integers(28, 32)), max_size=3))
        nets = tuple(ip_network((BASE + at, length), strict=False) for at, length in sources)
        vtep = Vtep(IPv4Address(BASE + draw(st.integers(0, 15))), Mac(node + 2))
        found.append(Lease(ip_network(f"10.244.{node}.0/24"), vtep, nets))
    return found


def may_send_from(lease: Lease, outer: Address) -> bool:
    """Apply the rule to one lease."""
    return outer == lease.vtep.address or any(outer in net for net in lease.sources)


@settings(deadline=None, max_examples=150)
@given(clusters(), st.integers(0, 15), st.integers(0, 7), st.integers(0, 255))
def test_strict_agrees_with_the_rule(leases: list[Lease], at: int, third: int, last: int) -> None:
    """Verdicts of all three checks on a pod's address, from any sender."""
    outer, inner = IPv4Address(BASE + at), f"10.244.{third}.{last}"
    known = any(may_send_from(lease, outer) for lease in leases)
    owner = next((lease for lease in leases if ip_address(inner) in lease.subnet), None)
    sound = owner is not None and may_send_from(owner, outer)
    expected = [FORWARD, FORWARD, FORWARD]
    if not known:
        expected[1:] = [Drop.UNKNOWN_VTEP] * 2
    elif not sound:
        expected[STRICT] = Drop.INNER_SOURCE_FOREIGN
    frame = ethernet(OWN_MAC, MAC_B, 0x0800, ipv4(inner, "10.244.9.9", 17, bytes(16)))
    table, found = table_of(leases, 8472), []
    for level in SourceCheck:
        placed = place(vxlan(frame))
        decap = Decap(VNI, OWN_MAC, level)
        found.append(decap.decap(placed.buf, placed.at, placed.length, from_outer(str(outer)), table))
    assert found == expected


@settings(deadline=None, max_examples=150)
@given(clusters(), st.integers(0, 15), st.integers(0, 15))
def test_a_node_may_send_as_itself(leases: list[Lease], at: int, inner_at: int) -> None:
    """As its underlay address, and, NAT being between, as one it may have there; never as another known node."""
    outer, inner = IPv4Address(BASE + at), IPv4Address(BASE + inner_at)
    own = [lease for lease in leases if may_send_from(lease, outer)]
    table, key, inner_key = table_of(leases, 8472), int(outer), int(inner)
    allowed = table.is_inner_source(4, 0, inner_key, 0, key)
    if outer == inner and outer in {lease.vtep.address for lease in leases}:
        assert allowed
    if allowed:
        assert any(may_send_from(lease, inner) for lease in own)
    if inner in {lease.vtep.address for lease in leases} and inner not in {lease.vtep.address for lease in own}:
        assert not allowed
    assert not table.is_inner_source(6, 0, inner_key, 0, key)  # an IPv6 address of the same number is another one
