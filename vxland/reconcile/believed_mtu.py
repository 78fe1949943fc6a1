"""The path MTU to use: the kernel's, and ICMP's as far as it can be true. Pure.

Anybody can forge an ICMP error "fragmentation needed", and all programs of the node share the kernel's cache of them.
So vxland believes an MTU from ICMP only if it can be true: if vxland sets DF, or over IPv6 (a router sends no such
error about a datagram that it may fragment: RFC 792, RFC 8200 section 5), and never below LEAST.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

LEAST = 1280
"""Bytes; the lowest path MTU that ICMP can set: the minimum of every IPv6 link (RFC 8200 section 5)."""

Source: TypeAlias = Literal["interface", "route", "icmp"]


@dataclass(frozen=True, slots=True)
class PathMtu:
    """The path MTU to a VTEP in bytes, and its source."""

    mtu: int
    source: Source
    claimed: int | None = None
    """The MTU from ICMP, if it is not believed."""
    since: float = 0.0
    """time.monotonic() of the last change."""


def believe(mtu: int, interface_mtu: int, learned: tuple[int, int | None] | None, *, icmp_counts: bool) -> PathMtu:
    """Return the path MTU to use, if the kernel reports `mtu` and `learned`, as PathMtuSource has them."""
    if learned is None:
        return PathMtu(mtu, "interface" if mtu >= interface_mtu else "route")
    claimed, route_mtu = learned
    base = interface_mtu if route_mtu is None else min(route_mtu, interface_mtu)
    rest = max(base - max(claimed - mtu, 0), 0)  # without ICMP, but less the bytes that IPsec adds
    least = min(LEAST, rest) if icmp_counts else rest
    if mtu >= least:
        return PathMtu(mtu, "icmp")
    source: Source = "icmp" if least < rest else "route" if rest < interface_mtu else "interface"
    return PathMtu(least, source, claimed=claimed)
