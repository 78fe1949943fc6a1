"""The choice of frames that the programs take, and the reasons why they may not run at all. Pure.

The rules, which docs/fast-path.md explains.

Measured on Linux 6.18, pod to pod over veth (docs/performance.md): a program carries a single packet five times as fast
as the daemon, since nothing wakes up. Superframes are different. Where the device below segments tunnels, a superframe
that a program has encapsulated leaves whole, and costs a third of the daemon's way. Where it does not, the kernel cuts
it in software, and its datagrams have no checksum, so that no receiver joins them: the daemon's trains are faster. A
received aggregate that a program decapsulates keeps the state of a tunnel, and the next bridge cuts it in software.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

HOLD_NS = 100_000_000
"""Time for which a pair of addresses stays with the daemon after its last frame there. A TAP's queue of 1,000
superframes holds 64 MB, which the daemon moves in less."""

HUNG_NS = 1_000_000_000
"""Age of the daemon's last sign of life from which on it does not read its queues. Its event loop has one five times as
often; what waits in the queues then is 800 ms old, and is overtaken."""

BEAT_S = 0.2
"""Seconds between two signs of life."""

TUNNEL_SEGMENTATION = frozenset({"tx-udp_tnl-segmentation", "tx-tcp-segmentation"})
"""Features of a device that segments TCP within UDP tunnels, as ethtool names them."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The conditions that the fast path depends on."""

    wanted: bool
    address_version: int
    is_ethernet: bool
    in_vrf: bool
    has_ipsec: bool
    little_endian: bool


def why_not(around: Surroundings) -> str:
    """Return the reason why the programs are not used; empty if they can be."""
    if not around.wanted:
        return "datapath.fast_path is off"
    if not around.little_endian:
        return "the programs are compiled for little-endian machines"
    if around.address_version != 4:
        return "the underlay is IPv6, where peers refuse datagrams without a checksum"
    if not around.is_ethernet:
        return "the underlay's interface has no Ethernet header"
    if around.in_vrf:
        return "the underlay's interface belongs to a VRF"
    if around.has_ipsec:
        return "this node has IPsec policies, which programs would bypass"
    return ""


def carries_superframes(features: Collection[str]) -> bool:
    """Return whether programs encapsulate superframes, given the features that are on at the device below."""
    return TUNNEL_SEGMENTATION.issubset(features)
