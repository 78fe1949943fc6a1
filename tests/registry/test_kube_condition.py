"""The condition NetworkUnavailable, in a fake and a real Kubernetes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from structlog.testing import capture_logs

from tests.registry.kubeapi import OWN, STRATEGIC, Admin
from tests.registry.kubecase import (
    OWN_ANNOTATIONS,
    V4,
    VTEPS,
    conditions,
    eventually,
    following,
    join,
    peer,
)
from vxland.registry.kube.registry import KubeRegistry


async def test_the_condition_is_flannels(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """NetworkUnavailable is false, with flannel's text, and the kubelet's conditions stay."""
    await admin.add(OWN, "10.244.0.0/24")
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    await admin.ask("PATCH", f"nodes/{OWN}/status", {"status": {"conditions": [ready]}}, STRATEGIC)
    kube = make(V4)
    await kube.publish(VTEPS)
    assert "NetworkUnavailable" not in await conditions(admin)
    await kube.announce()
    found = await conditions(admin)
    assert found.keys() == {"Ready", "NetworkUnavailable"}
    condition = found["NetworkUnavailable"]
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "False",
        "FlannelIsUp",
        "Flannel is running on this node",
    )
    assert condition["lastTransitionTime"] == condition["lastHeartbeatTime"]


async def test_the_condition_can_be_left_alone(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """--set-node-network-unavailable=false."""
    await admin.add(OWN, "10.244.0.0/24")
    kube = make(V4, set_network_unavailable=False)
    await kube.publish(VTEPS)
    await kube.announce()
    assert await conditions(admin) == {}


async def test_the_condition_is_set_once(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """It is set once even if the Node changes meanwhile."""
    await admin.add(OWN, "10.244.0.0/24")
    kube = make(V4)
    await kube.publish(VTEPS)
    with capture_logs() as logs:
        async with following(kube) as follower:
            await asyncio.gather(kube.announce(), *(admin.annotate(OWN, {"other": str(i)}) for i in range(5)))
            await admin.annotate(OWN, {"backend-data": "null"})
            await eventually(lambda: annotated(admin, "backend-data"), OWN_ANNOTATIONS["backend-data"])
            await join(admin, 1, peer(1))
            await follower.until(peer(1))
    assert len([each for each in logs if each["event"] == "condition_set"]) == 1


async def annotated(admin: Admin, key: str) -> str:
    """Return one annotation of our Node."""
    return (await admin.annotations())[key]
