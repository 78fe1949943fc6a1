"""Reasons why a node is not ready, their order, and problems with peers, which are no reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.web import get
from vxland.config import load, parse
from vxland.forwarding.io.fdstore import Inherited
from vxland.kernel.memory import loaded
from vxland.model.lease import Lease, Mac, RegistryHealth, Vtep
from vxland.node.api.http import open_metrics
from vxland.node.daemon import Node
from vxland.node.readiness import MAX_LINES, UNREADABLE_S, peer_problems, why_not_ready
from vxland.ops.loop_hold import LoopHold
from vxland.probes.reach import Cause, Probing, Reach
from vxland.registry.protocol import Registry

WELL = RegistryHealth()
NOW = 5000.0


def away(seconds: float) -> RegistryHealth:
    """Return the health of a registry that has been unreadable for this time."""
    return RegistryHealth("connection refused", NOW - seconds)


@pytest.mark.parametrize(
    ("stage", "lag", "underlay", "registry", "firewall", "devices", "reason"),
    [
        ("", "", "", WELL, "", [], ""),
        ("", "", "", WELL, "", ["", ""], ""),
        ("opening devices", "stuck", "", WELL, "", [], "opening devices"),
        ("opening devices", "", "", away(1), "", [], "opening devices: connection refused"),
        ("", "stuck", "", away(100), "", [], "stuck"),
        ("opening devices", "", "no address", WELL, "", [], "opening devices"),
        ("", "stuck", "no address", WELL, "", [], "stuck"),
        ("", "", "no address", away(UNREADABLE_S + 1), "no nft", ["down"], "no address"),
        ("", "", "", away(UNREADABLE_S), "", [], ""),
        ("", "", "", away(UNREADABLE_S + 1), "", [], "the registry cannot be read for 61 s: connection refused"),
        ("", "", "", away(UNREADABLE_S + 1), "no nft", [], "the registry cannot be read for 61 s: connection refused"),
        ("", "", "", away(1), "no nft", ["down"], "the firewall's rules are not in force: no nft"),
        ("", "", "", WELL, "", ["", "flannel.1 is down"], "flannel.1 is down"),
    ],
)
def test_reasons(
    stage: str, lag: str, underlay: str, registry: RegistryHealth, firewall: str, devices: list[str], reason: str
) -> None:
    """The first reason is reported; an unreachable registry is none for a minute."""
    assert why_not_ready(stage, lag, underlay, registry, firewall, devices, NOW) == reason


@pytest.mark.parametrize(("away_s", "status"), [(UNREADABLE_S - 30, 200), (UNREADABLE_S + 30, 503)])
async def test_a_node_whose_registry_is_unreachable(tmp_path: Path, away_s: float, status: int) -> None:
    """/readyz of a node that forwards is 200 for a minute without the store, then 503 with duration and reason."""
    settings = parse(f"""
        overlay: {{network: 10.244.0.0/16, subnet: 10.244.0.0/24}}
        control: {{socket: {tmp_path}/control.sock}}
    """)
    node = Node(None, settings, tmp_path / "subnet.env", load, LoopHold(), Inherited([]), loaded())
    node._state.enter_stage("")  # as it does once frames move
    gone = RegistryHealth("connection refused", time.monotonic() - away_s)
    node._state._registry = cast("Registry", SimpleNamespace(health=gone))
    with closing(open_metrics("127.0.0.1", 0, node._state.sample)) as server:
        found = await asyncio.to_thread(get, f"http://127.0.0.1:{server.port}/readyz")
    assert found[0] == status
    words = "the registry cannot be read for 90 s: connection refused\n" if status == 503 else "vxland is ready\n"
    assert found[1] == words


def probing(states: Mapping[int, Reach]) -> Probing:
    """Return the results of pings of peers, by the peer's number."""
    return Probing("", {lease(number): reach for number, reach in states.items()})


def lease(number: int) -> Lease:
    """Return the lease of a peer."""
    return Lease(ip_network(f"10.244.{number}.0/24"), Vtep(ip_address(f"192.168.111.{number}"), Mac(number)))


def test_peer_problems() -> None:
    """Unreachable peers come first, then MTU holes, each with its cause; healthy and unknown peers have no line."""
    hole = Reach("reachable", 1.0, full_mtu="hole", cause=Cause("mtu_hole", "too long", ""))
    silent = Reach("unreachable", 1.0, cause=Cause("silent", "nothing comes", ""))
    assert peer_problems([]) == peer_problems([probing({1: Reach(), 2: Reach("reachable", 1.0)})]) == ()
    assert peer_problems([probing({1: hole, 2: Reach("reachable", 1.0)}), probing({3: silent})]) == (
        "unreachable: 10.244.3.0/24 at 192.168.111.3: nothing comes",
        "MTU hole: 10.244.1.0/24 at 192.168.111.1: too long",
    )
    assert peer_problems([probing({1: Reach("unreachable", 1.0)})]) == (
        "no peer answers",
        "unreachable: 10.244.1.0/24 at 192.168.111.1: the cause is not known yet",
    )


def test_peer_problems_are_bounded() -> None:
    """A network failure that hits all peers makes ten lines, not thousands."""
    found = peer_problems([probing({number: Reach("unreachable", 1.0) for number in range(1, 200)})])
    assert len(found) == MAX_LINES + 2
    assert found[-1] == "and 189 more: vxlandctl peers"
