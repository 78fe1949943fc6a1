"""The table against a naive scan: longest prefix first."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from vxland.datapath.table import PrefixMap, Table
from vxland.model import Address, Lease, Mac, Subnet, Vtep

BITS = {4: 32, 6: 128}


def address(version: int, key: int) -> Address:
    """The address of a number, which does not tell its family."""
    return IPv4Address(key) if version == 4 else IPv6Address(key)


@st.composite
def leases(draw: st.DrawFn, version: int) -> list[Lease]:
    """Leases of prefixes that lie close together, so that they overlap; each prefix once."""
    bits = BITS[version]
    bases = draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=3))
    found: dict[Subnet, Lease] = {}
    for i in range(draw(st.integers(0, 24))):
        near = draw(st.sampled_from(bases)) ^ draw(st.integers(0, 3)) << draw(st.integers(0, bits - 2))
        length = draw(st.one_of(st.integers(0, bits), st.sampled_from([0, 24, bits // 2, bits - 1, bits])))
        subnet = ip_network((address(version, near), length), strict=False)
        found[subnet] = Lease(subnet, Vtep(IPv4Address(i + 1), Mac(i + 1)))
    return list(found.values())


def slow_lookup(held: list[Lease], dst: Address) -> Vtep | None:
    """What trying every lease, longest prefix first, finds."""
    for lease in sorted(held, key=lambda lease: -lease.subnet.prefixlen):
        if lease.subnet.version == dst.version and dst in lease.subnet:
            return lease.vtep
    return None


def worth_asking(held: list[Lease], version: int) -> list[Address]:
    """The edges of every lease and their neighbours outside, and one address far off."""
    edges = {edge for lease in held for edge in (int(lease.subnet[0]), int(lease.subnet[-1]))}
    near = {edge + step & (1 << BITS[version]) - 1 for edge in edges for step in (-1, 0, 1)}
    return [address(version, key) for key in near | {0x5555}]


@settings(deadline=None, max_examples=150)
@given(leases(4), leases(6), st.data())
def test_lookup_agrees_with_a_scan(v4: list[Lease], v6: list[Lease], data: st.DataObject) -> None:
    """The table answers what trying every lease, longest prefix first, would; the families never meet."""
    held = v4 + v6
    table = Table(data.draw(st.permutations(held)), 8472)
    for version in (4, 6):
        anywhere = address(version, data.draw(st.integers(0, (1 << BITS[version]) - 1)))
        for dst in [*worth_asking(held, version), anywhere]:
            assert table.lookup(dst) == slow_lookup(held, dst)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.integers(0, (1 << 48) - 1), st.integers(0, 1 << 30), max_size=60), st.integers(0, 99))
def test_whole_keys_are_a_dictionary(entries: dict[int, int], other: int) -> None:
    """Prefixes of full length, as MACs and outer sources are kept."""
    table = PrefixMap(48, [(key, 48, value) for key, value in entries.items()])
    assert all(table.lookup(0, key) == value for key, value in entries.items())
    assert table.lookup(0, other) == entries.get(other, -1)
