"""Reasons why a node is not ready, and problems that leave it ready but should be known. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from vxland.model.lease import Lease, RegistryHealth
from vxland.probes.reach import Probing, Reach

UNREADABLE_S = 60.0
"""Seconds that the registry may be unreadable before the node is not ready."""

MAX_LINES = 10
"""Maximum number of lines about peers."""


def why_not_ready(
    stage: str, lag: str, underlay: str, registry: RegistryHealth, firewall: str, devices: Iterable[str], now: float
) -> str:
    """Return the first of these reasons, or an empty text; `now` is time.monotonic().

    An unreachable peer is no reason: frames to the others move, and the fault may be on the peer's side.
    """
    if stage:
        return f"{stage}: {registry.error}" if registry.error else stage
    if lag or underlay:  # without an address the registry is unreachable too
        return lag or underlay
    unreadable_s = now - registry.since
    if registry.error and unreadable_s > UNREADABLE_S:
        instead = f"; {registry.cached}" if registry.cached else ""
        return f"the registry cannot be read for {unreadable_s:.0f} s: {registry.error}{instead}"
    if firewall:
        return f"the firewall's rules are not in force: {firewall}"
    return next((problem for problem in devices if problem), "")


def peer_problems(found: Iterable[Probing]) -> tuple[str, ...]:
    """Return a line for each peer that does not answer, or not to full packets: MAX_LINES and the count of the rest."""
    every = [(lease, reach) for probing in found for lease, reach in probing.peers.items()]
    bad = [(lease, reach) for lease, reach in every if reach.state == "unreachable" or reach.full_mtu == "hole"]
    if not bad:
        return ()
    silent = sum(reach.state == "unreachable" for _, reach in bad)
    head = ["no peer answers"] if silent == len(every) else []
    bad.sort(key=lambda pair: (pair[1].state != "unreachable", pair[0].subnet.version, pair[0].subnet))
    more = [f"and {len(bad) - MAX_LINES} more: vxlandctl peers"] if len(bad) > MAX_LINES else []
    return (*head, *(_line(lease, reach) for lease, reach in bad[:MAX_LINES]), *more)


def forwarding_problems(causes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return a line for each cause and remedy of packets that this node does not forward, MAX_LINES at most."""
    return tuple(
        f"pods' packets are lost in this node's kernel: {cause}; {remedy}"
        for cause, remedy in islice(causes, MAX_LINES)
    )


def _line(lease: Lease, reach: Reach) -> str:
    what = "unreachable" if reach.state == "unreachable" else "MTU hole"
    why = reach.cause.happened if reach.cause is not None else "the cause is not known yet"
    return f"{what}: {lease.subnet} at {lease.vtep.address}: {why}"
