"""Requests that the fake API server has had, and pauses of the registry between them."""

from __future__ import annotations

from urllib.parse import parse_qs

from tests.registry.fakekube import FakeKube
from tests.registry.kubecase import (
    FakeSleep,
)
from vxland.registry import watches
from vxland.registry.kube import registry as kube_registry


def asked(fake: FakeKube, verb: str) -> list[dict[str, list[str]]]:
    """Return the queries of flannel's requests of one verb."""
    return [parse_qs(query) for done, _, query in fake.asked if done == verb]


def retries(sleeps: FakeSleep) -> list[float]:
    """Return the pauses before retries, without those of the other tasks."""
    return [seconds for seconds in sleeps.slept if seconds not in {watches.SETTLE_S, kube_registry.REPAIR_S}]
