"""The choice of frames that the programs take, and the reasons why they may not run at all. Pure.

docs/fast-path.md explains the rules. Measured on Linux 6.18, pod to pod over veth (docs/performance.md), a program
carries a single packet five times as fast as the daemon, since nothing wakes up. Superframes are different:

- If the device below segments tunnels, a superframe that a program has encapsulated leaves whole, at a third of the
  daemon's cost.
- If it does not, the kernel cuts the superframe in software. Its datagrams have no checksum, so no receiver joins them,
  and the daemon's trains are faster.
- A received aggregate that a program has decapsulated keeps the state of a tunnel, and the next bridge cuts it in
  software.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vxland.model.kernel_state import Offloads

ON_THE_WAY_NS = 1_000_000
"""Time that a packet may need from the program that leaves it to the daemon into the daemon's queue."""

FLOOD = 50
"""Small UDP packets of a flow in a millisecond that programs carry. The daemon makes trains of a faster flow, which
cross a stack at a fraction of the cost."""

HUNG_NS = 1_000_000_000
"""Age of the daemon's last sign of life at which it counts as hung. What waits in its queues then is overtaken."""

BEAT_S = 0.1
"""Seconds between two signs of life."""

LEAST_QUOTA = 0.5
"""CPUs below which the daemon does not move superframes: it needs one for 4 Gbit/s."""

WINDOW_S = 0.35
"""Seconds over which CPU time is compared."""

THROTTLED_SHARE = 0.1
"""Part of the time for which a quota may stop the daemon before programs take over."""

CALM_S = 60.0
"""Seconds after which the daemon is tried again."""

TUNNEL_SEGMENTATION = frozenset({"tx-udp_tnl-segmentation", "tx-tcp-segmentation"})
"""Features of a device that segments TCP within UDP tunnels, as ethtool names them."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The conditions that the fast path depends on."""

    wanted: bool
    elsewhere: bool
    address_version: int
    is_ethernet: bool
    in_vrf: bool
    has_ipsec: bool
    little_endian: bool
    has_address: bool


def why_not(around: Surroundings) -> str:
    """Return the reason why the programs are not used; empty if they can be."""
    if not around.wanted:
        return "datapath.fast_path is off"
    if around.elsewhere:
        return "the underlay is in another network namespace, where vxland cannot attach programs"
    if not around.little_endian:
        return "the programs are compiled for little-endian machines"
    if around.address_version != 4:
        return "the underlay is IPv6, where peers refuse datagrams without a checksum"
    if not around.is_ethernet:
        return "the underlay's interface has no Ethernet header"
    if around.in_vrf:
        return "the underlay's interface belongs to a VRF"
    if not around.has_address:
        return "the underlay address is gone"
    if around.has_ipsec:
        return "this node has IPsec policies, which programs would bypass"
    return ""


def carries_superframes(features: Collection[str]) -> bool:
    """Return whether programs encapsulate superframes, given the features that are on at the device below."""
    return TUNNEL_SEGMENTATION.issubset(features)


def may_carry_superframes(offloads: Offloads) -> bool:
    """Return whether the configuration lets superframes leave the TAP and the node."""
    return "off" not in {offloads.tso, offloads.uso, offloads.udp_segment}


class CpuShortage:
    """Detects that a quota leaves the daemon too little CPU time for the traffic.

    Such a daemon stands still most of the time, and everything in its queues with it. Programs then take superframes
    and aggregates as well: that is slower than a daemon that runs, and faster than one that stands.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._until = 0.0

    def follow(self, quota: float | None, throttled_s: float, now_s: float) -> bool:
        """Return whether it gets too little, by its quota in CPUs and the seconds for which that has stopped it.

        It is called several times a second. A shortage lasts for CALM_S: programs that carry everything leave the
        daemon nothing to be stopped for.
        """
        now = (throttled_s, now_s)
        if quota is not None and quota < LEAST_QUOTA:
            return True
        if self._last is None:
            self._last = now
        throttled, passed = (after - before for after, before in zip(now, self._last, strict=True))
        if passed >= WINDOW_S:
            self._last = now
            if throttled > THROTTLED_SHARE * passed:
                self._until = now_s + CALM_S
        return now_s < self._until
