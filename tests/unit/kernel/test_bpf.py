"""The socket filter: what it takes, by a machine of our own; tests/netns has the kernel's."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from struct import iter_unpack

from hypothesis import given, settings
from hypothesis import strategies as st

from vxland.kernel.bpf import MAX_INSTRUCTIONS, build_filter
from vxland.model.lease import Address, Subnet

IP_AT = 0xFFF0_0000  # SKF_NET_OFF
TAKEN = 0xFFFF_FFFF


def runs(program: bytes, source: Address) -> int:
    """The verdict of a program about a datagram from `source`. Everything that it jumps to exists."""
    code = list(iter_unpack("=HBBI", program))
    header = {12: source.packed} if source.version == 4 else {8: source.packed}
    ((src_at, octets),) = header.items()
    at = accumulator = 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                word = operand - IP_AT - src_at
                assert word in range(0, len(octets), 4)
                accumulator = int.from_bytes(octets[word : word + 4], "big")
            case 0x05:
                at += operand
            case 0x06:
                return int(operand)
            case _:
                true = {0x15: accumulator == operand, 0x25: accumulator > operand, 0x35: accumulator >= operand}
                at += if_true if true[operation] else if_false


def takes(program: bytes | None, source: Address) -> bool:
    """Whether a program takes the whole datagram; else it takes nothing of it."""
    assert program is not None
    assert len(program) % 8 == 0
    assert len(program) // 8 <= MAX_INSTRUCTIONS
    verdict = runs(program, source)
    assert verdict in (0, TAKEN)
    return verdict == TAKEN


@st.composite
def prefixes(draw: st.DrawFn, bits: int) -> list[Subnet]:
    """Prefixes close together, at word boundaries too."""
    kind = IPv4Network if bits == 32 else IPv6Network
    base = draw(st.integers(0, (1 << bits) - 1))
    found: list[Subnet] = []
    for _ in range(draw(st.integers(0, 12))):
        key = base ^ draw(st.integers(0, 7)) << draw(st.integers(0, bits - 3))
        length = draw(st.sampled_from([8, 31, 32, *([33, 64, 65, 96, 127, 128] if bits == 128 else [])]))
        found.append(kind((key, length), strict=False))
    return found


@settings(deadline=None, max_examples=200)
@given(st.one_of(prefixes(32), prefixes(128)), st.data())
def test_it_takes_what_lies_in_a_prefix(nets: list[Subnet], data: st.DataObject) -> None:
    """The edges of every prefix, their neighbours outside, and any other address."""
    program = build_filter(nets)
    bits = nets[0].max_prefixlen if nets else 32
    kind = IPv4Address if bits == 32 else IPv6Address
    edges = {int(edge) for net in nets for edge in (net.network_address, net.broadcast_address)}
    near = {edge + step & (1 << bits) - 1 for edge in edges for step in (-1, 0, 1)}
    for key in near | {data.draw(st.integers(0, (1 << bits) - 1))}:
        source = kind(key)
        assert takes(program, source) == any(source in net for net in nets)


def test_thousands_of_hosts_fit() -> None:
    """3,800 IPv4 addresses take every way through the tree; 10,000 do not fit, unless they are neighbours."""
    rng = random.Random(26)  # noqa: S311  (repeatable, not secret)
    keys = rng.sample(range(1 << 32), 3800)
    program = build_filter(ip_network(key) for key in keys)
    assert all(takes(program, ip_address(key)) for key in keys)
    known = set(keys)
    assert not any(takes(program, ip_address(key)) for key in rng.sample(range(1 << 32), 2000) if key not in known)
    assert build_filter(ip_network(key) for key in rng.sample(range(1 << 32), 10_000)) is None
    first = int(ip_address("10.0.0.0"))
    row = build_filter(ip_network(first + key) for key in range(10_000))
    assert takes(row, ip_address(first + 9999))
    assert not takes(row, ip_address(first + 10_000))


def test_nobody_is_taken_where_nobody_is_known() -> None:
    """A cluster of one."""
    assert not takes(build_filter([]), ip_address("192.0.2.1"))
