"""Evidence from ICMP errors about queries: who reports them decides what they mean."""

from __future__ import annotations

from errno import EHOSTUNREACH
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import cast

import pytest

from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.kernel.errqueue import Failure
from vxland.model.lease import Address, Lease, Mac, Vtep
from vxland.probes import evidence
from vxland.probes.evidence import EvidenceCollector, ProbedTunnel

OWN, ROUTER = ip_address("127.0.0.1"), ip_address("127.0.0.9")
PEER = Lease(ip_network("10.244.1.0/24"), Vtep(ip_address("192.0.2.7"), Mac(2)))


async def soon(_: float) -> None:
    """Wait for nothing."""


@pytest.mark.parametrize(("offender", "label"), [(OWN, "silent"), (ROUTER, "refused"), (PEER.vtep.address, "refused")])
async def test_host_unreachable(monkeypatch: pytest.MonkeyPatch, offender: Address, label: str) -> None:
    """A node that is switched off answers no ARP. The cause was that this node refuses datagrams: look at firewalls."""
    failure = Failure(PEER.vtep.address, EHOSTUNREACH, 0, offender, b"", "ICMP host unreachable")
    monkeypatch.setattr(evidence, "take_errors", lambda _: [failure])
    ring = SimpleNamespace(read=list, close=lambda: None)
    telemetry = SimpleNamespace(capture=lambda *_: ring, peers=dict, drops=list)
    tunnel = ProbedTunnel(1, 8472, Mac(1), OWN, {}, cast("DeviceTelemetry", telemetry))
    causes = await EvidenceCollector(tunnel, soon).causes([PEER], set, {})
    assert causes[PEER].label == label
    assert ("nothing on the link has the address" in causes[PEER].happened) is (offender == OWN)
