"""Restoration of published annotations and conditions, in a fake and a real Kubernetes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.registry.kubeapi import OWN, Admin
from tests.registry.kubecase import (
    DUAL,
    OWN_ANNOTATIONS,
    V4,
    VTEPS,
    FakeSleep,
    async_of,
    conditions,
    eventually,
    following,
    join,
    peer,
    watching,
)
from vxland.model.errors import LeaseLostError
from vxland.registry.kube.registry import KubeRegistry


async def test_changed_annotations_are_restored(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """One or all are changed or removed; other programs' annotations stay."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    kube = make(*DUAL, sleep=FakeSleep().sleep)
    await kube.publish(VTEPS)
    async with watching(kube):
        await admin.annotate(OWN, {"backend-data": "null", "public-ipv6": None, "other": "stays"})
        await eventually(admin.annotations, OWN_ANNOTATIONS | {"other": "stays"})
        await admin.annotate(OWN, dict.fromkeys(OWN_ANNOTATIONS))
        await eventually(admin.annotations, OWN_ANNOTATIONS | {"other": "stays"})


async def test_a_recreated_node_is_published_again(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The kubelet's new Node has neither annotations nor condition; meanwhile health reports that it is gone."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    kube = make(*DUAL)
    await kube.publish(VTEPS)
    await kube.announce()
    async with following(kube) as follower:
        await admin.delete(OWN)
        await eventually(async_of(lambda: "gone" in kube.health.quarantined.get(OWN, "")), expected=True)
        await admin.add(OWN)
        await eventually(
            async_of(lambda: "pod cidr not assigned" in kube.health.quarantined.get(OWN, "")), expected=True
        )
        await admin.change(
            OWN, {"spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]}}
        )
        await eventually(admin.annotations, OWN_ANNOTATIONS)
        await eventually(lambda: conditions_set(admin), expected=True)
        await eventually(async_of(lambda: dict(kube.health.quarantined)), {})
        await join(admin, 1, peer(1))
        await follower.until(peer(1))


async def conditions_set(admin: Admin) -> bool:
    """Return whether our Node has the condition."""
    return "NetworkUnavailable" in await conditions(admin)


async def test_a_node_with_another_subnet_ends_the_watch(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Only a restart gives the pods other addresses; nothing wrong is published before."""
    await admin.add(OWN, "10.244.0.0/24")
    kube = make(V4)
    await kube.publish(VTEPS)
    async with watching(kube) as reading:
        await admin.delete(OWN)
        await admin.add(OWN, "10.244.7.0/24")
        with pytest.raises(LeaseLostError, match=r"10\.244\.7\.0/24 now, and no longer 10\.244\.0\.0/24"):
            await reading
    assert await admin.annotations() == {}
