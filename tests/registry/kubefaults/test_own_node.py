"""Failures and another program's changes while this node publishes and repairs its Node."""

from __future__ import annotations

from pathlib import Path

from tests.registry.fakekube import FakeKube
from tests.registry.kubeapi import OWN, Admin, registry
from tests.registry.kubecase import (
    DUAL,
    OWN_ANNOTATIONS,
    VTEPS,
    FakeSleep,
    eventually,
    following,
    watching,
)
from tests.registry.kubefaults.asked import asked, retries
from vxland.registry.kube import registry as kube_registry
from vxland.registry.kube.registry import KubeRegistry


async def test_publish_retries_while_the_server_fails(
    fake: FakeKube, admin: Admin, kube: KubeRegistry, sleeps: FakeSleep
) -> None:
    """Reads and patches are retried until they succeed."""
    await admin.add(OWN, "10.244.0.0/24")
    fake.refusals = [("get", 500, {}), ("patch", 503, {}), ("patch", 409, {})]
    held = await kube.publish(VTEPS)
    assert {lease.subnet.version for lease in held} == {4}
    assert retries(sleeps) == [0.1, 0.2, 0.4]
    assert (await admin.annotations())["public-ip"] == "192.168.111.128"


async def test_a_condition_that_could_not_be_set_is_set_later(fake: FakeKube, admin: Admin, kube: KubeRegistry) -> None:
    """announce() does not fail, but a cloud node that keeps its taint gets no pods."""
    await admin.add(OWN, "10.244.0.0/24")
    await kube.publish(VTEPS)
    fake.refusals = [("patch", 500, {}), ("patch", 500, {})]
    await kube.announce()
    assert "conditions" not in (await admin.node())["status"]
    async with watching(kube):
        await eventually(lambda: condition_reasons(admin), ["FlannelIsUp"])
    patches = len(asked(fake, "patch"))
    async with following(kube):
        await fake.watched()
    assert len(asked(fake, "patch")) == patches  # once is enough


async def condition_reasons(admin: Admin) -> list[str]:
    """Return the reasons of our Node's conditions."""
    return [found["reason"] for found in (await admin.node())["status"].get("conditions", [])]


async def test_repairs_against_another_program_are_rate_limited(
    fake: FakeKube, admin: Admin, tmp_path: Path, sleeps: FakeSleep
) -> None:
    """If another program changes our annotations at once, a pause follows each repair."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    kube = registry(fake, tmp_path, *DUAL, sleep=sleeps.sleep)
    await kube.publish(VTEPS)
    before = len(asked(fake, "patch"))
    async with watching(kube):
        for rival in range(3):
            await admin.annotate(OWN, {"public-ip": f"10.9.9.{rival}"})
            await eventually(admin.annotations, OWN_ANNOTATIONS)
    await kube.close()
    repairs = len(asked(fake, "patch")) - before
    assert repairs >= 3
    assert sleeps.slept.count(kube_registry.REPAIR_S) in {repairs - 1, repairs}
