"""A test of several peers: in which order their results come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.patience import PATIENCE_S
from vxland.firewall.nat_test import Nft
from vxland.model.lease import Lease, Mac, Vtep
from vxland.probes import path_test
from vxland.probes.evidence import ProbedTunnel
from vxland.probes.path_checks import VARIANTS, Datagrams, PeerResult, Seen, Transfer
from vxland.probes.path_test import PathTest
from vxland.probes.reach import Reach

ALIVE, DEAD = (
    Lease(ip_network(f"10.244.{number}.0/24"), Vtep(ip_address(f"192.168.111.{number}"), Mac(number)))
    for number in (1, 2)
)


class Pings:
    """Pings that one peer answers, while nothing is known of the other."""

    forbidden = ""
    not_sent: dict[Lease, str] = {}  # noqa: RUF012  (as the instance of PingLoop has it)

    def __init__(self, *_: object) -> None:
        self.schedule = self

    def reach(self, lease: Lease) -> Reach:
        """Return the state of a peer."""
        return Reach("reachable", rtt_s=0.001, full_mtu="passes") if lease == ALIVE else Reach()

    def set_interval(self, seconds: float) -> None:
        """As PingLoop has it."""

    def follow(self, *, removed: Iterable[Lease] = (), added: Iterable[Lease] = ()) -> None:
        """As PingLoop has it."""

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()


def exchanged(_ends: object, seen: Seen, *_: object) -> Seen:
    """Have an exchange in which all passes."""
    return replace(seen, datagrams=Datagrams(frozenset(VARIANTS)), transfer=Transfer("done"))


async def test_a_dead_peer_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after three seconds showed no result at all: the others waited until one peer counted as dead."""
    monkeypatch.setattr(path_test, "PingLoop", Pings)
    monkeypatch.setattr(path_test, "exchange", exchanged)
    monkeypatch.setattr(path_test, "PINGS_S", 1e6)
    tunnel = cast("ProbedTunnel", SimpleNamespace(bases={4: ip_address("10.244.0.0")}))
    test = PathTest("flannel.1", tunnel, set[Any], 9473, cast("Nft", None))
    results: AsyncGenerator[PeerResult] = test.run([DEAD, ALIVE], 1450)
    async with aclosing(results), asyncio.timeout(PATIENCE_S):
        first = await anext(results)
    assert (first.lease, first.passed) == (ALIVE, True)
