"""Annotations that a node publishes on its Node, in a fake and a real Kubernetes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from tests.registry.kubeapi import OWN, PREFIX, Admin, flannel_annotations
from tests.registry.kubecase import (
    DUAL,
    MAC,
    OWN_ANNOTATIONS,
    V4,
    VTEPS,
    FakeSleep,
    async_of,
    eventually,
    following,
    join,
    peer,
    watching,
)
from vxland.model.errors import ConfigError, StartError
from vxland.model.lease import Lease
from vxland.registry.kube.registry import KubeRegistry


async def test_publish_writes_flannels_annotations_and_no_more(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """They are flannel's to the byte; other programs' annotations stay."""
    await admin.add(OWN, "10.244.0.0/24", annotations={"other": "stays"})
    held = await make(V4).publish(VTEPS)
    assert held == {Lease(ip_network("10.244.0.0/24"), VTEPS[4])}
    assert (await admin.node())["metadata"]["annotations"] == {
        "other": "stays",
        PREFIX + "kube-subnet-manager": "true",
        PREFIX + "backend-type": "vxlan",
        PREFIX + "backend-data": '{"VNI":1,"VtepMAC":"ce:5f:f6:73:cf:b9"}',
        PREFIX + "public-ip": "192.168.111.128",
    }


async def test_publish_writes_both_families(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """In a dual-stack cluster, both are written; nothing is patched if nothing differs."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    await make(*DUAL).publish(VTEPS)
    assert await admin.annotations() == OWN_ANNOTATIONS
    before = (await admin.node())["metadata"]["resourceVersion"]
    await make(*DUAL).publish(VTEPS)
    assert (await admin.node())["metadata"]["resourceVersion"] == before


async def test_publish_waits_for_the_node_and_its_subnet(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The kubelet and the controller may be slower than vxland; health names what is missing."""
    sleeps = FakeSleep()
    kube = make(V4, sleep=sleeps.sleep)
    publishing = asyncio.create_task(kube.publish(VTEPS))
    await sleeps.until(lambda: 'nodes "node0" not found' in kube.health.error)
    await admin.add(OWN)
    await sleeps.until(lambda: kube.health.error == 'own node: node "node0" pod cidr not assigned')
    assert kube.published == frozenset()
    await admin.change(OWN, {"spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}})
    assert await publishing == kube.published == {Lease(ip_network("10.244.0.0/24"), VTEPS[4])}
    assert kube.health.error == ""


@pytest.mark.parametrize(
    ("networks", "subnets", "cause"),
    [
        (
            [V4],
            ["10.245.0.0/24"],
            'subnet "10.244.0.0/16" specified in the flannel net config doesn\'t contain "10.245.0.0/24" PodCIDR',
        ),
        (
            DUAL,
            ["10.244.0.0/24", "fd01::/64"],
            'subnet "fd00:10:244::/56" specified in the flannel net config doesn\'t contain "fd01::/64" IPv6 PodCIDR',
        ),
        (
            [V4],
            ["10.244.0.0/24", "fd01::/64"],
            'subnet "fd01::/64" specified in the PodCIDR, but doesn\'t exist in the flannel net config',
        ),
        (DUAL, ["10.244.0.0/24"], 'node "node0" has no IPv6 podCIDR, and the network has fd00:10:244::/56'),
    ],
)
async def test_a_subnet_outside_the_network_is_fatal(
    admin: Admin, make: Callable[..., KubeRegistry], networks: list[str], subnets: list[str], cause: str
) -> None:
    """A Node keeps its podCIDRs, so a retry does not help: the error has flannel's text, and nothing is published."""
    await admin.add(OWN, *subnets)
    with pytest.raises(StartError) as caught:
        await make(*networks).publish(VTEPS)
    assert caught.value.cause in {cause, f'{cause} of the "node0" node'}
    assert await admin.annotations() == {}


async def test_an_overwrite_is_published_instead(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """public-ip-overwrite and public-ipv6-overwrite, for NAT; the administrator may change them at any time."""
    await admin.add(
        OWN, "10.244.0.0/24", "fd00:10:244::/64", annotations={PREFIX + "public-ip-overwrite": "203.0.113.7"}
    )
    kube = make(*DUAL)
    held = {lease.subnet.version: str(lease.vtep.address) for lease in await kube.publish(VTEPS)}
    assert held == {4: "203.0.113.7", 6: "fd00:192:168::80"}
    assert (await admin.annotations())["public-ip"] == "203.0.113.7"
    async with watching(kube):
        await admin.annotate(OWN, {"public-ip-overwrite": None, "public-ipv6-overwrite": "2001:db8::7"})
        await eventually(
            admin.annotations,
            OWN_ANNOTATIONS | {"public-ipv6-overwrite": "2001:db8::7", "public-ipv6": "2001:db8::7"},
        )


async def test_a_wrong_overwrite_is_refused(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """At start it is an error; later the published address stays, and health has the reason."""
    await admin.add(OWN, "10.244.0.0/24", annotations={PREFIX + "public-ip-overwrite": "here"})
    with pytest.raises(ConfigError, match="here") as caught:
        await make(V4).publish(VTEPS)
    assert caught.value.key == PREFIX + "public-ip-overwrite"
    await admin.annotate(OWN, {"public-ip-overwrite": None})
    kube = make(V4)
    await kube.publish(VTEPS)
    async with following(kube) as follower:
        await admin.annotate(OWN, {"public-ip-overwrite": "there"})
        await join(admin, 1, peer(1))
        await follower.until(peer(1))
        await eventually(async_of(lambda: "there" in kube.health.quarantined.get(OWN, "")), expected=True)
    assert (await admin.annotations())["public-ip"] == "192.168.111.128"


async def test_another_prefix_is_used_throughout(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Two flannels may share a cluster, each with its own prefix."""
    await admin.add(OWN, "10.244.0.0/24")
    kube = make(V4, annotation_prefix="blue.example.org/net")
    await kube.publish(VTEPS)
    texts = (await admin.node())["metadata"]["annotations"]
    assert texts["blue.example.org/net-backend-data"] == '{"VNI":1,"VtepMAC":"ce:5f:f6:73:cf:b9"}'
    assert all(key.startswith("blue.example.org/net-") for key in texts)
    assert (await kube.recall({})).macs == {4: MAC}
    await join(admin, 1, peer(1))
    blue = {f"blue.example.org/net-{key}": text for key, text in flannel_annotations(peer(2)).items()}
    await admin.add("node2", "10.244.2.0/24", annotations=blue)
    async with following(kube) as follower:
        assert set(follower.leases.values()) == {peer(2)}


async def test_a_node_recalls_its_macs_and_chosen_addresses(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The MACs in flanneld's annotations or ours, and the addresses that an administrator has set."""
    texts = flannel_annotations(peer(3), peer(3, 6, mac=4)) | {
        "node-public-ip": "192.0.2.1",
        "node-public-ipv6": "2001:db8::1",
    }
    texts["public-ip-overwrite"] = "203.0.113.9"
    await admin.add(OWN, "10.244.0.0/24", annotations={PREFIX + key: text for key, text in texts.items()})
    recalled = await make(V4).recall({})
    assert recalled.macs == {4: peer(3).vtep.mac, 6: peer(3, 6, mac=4).vtep.mac}
    assert recalled.addresses == {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
    assert recalled.overwrites == {4: ip_address("203.0.113.9")}


async def test_a_node_that_never_published_recalls_nothing(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """An invalid address of the administrator's is an error that names the annotation."""
    await admin.add(OWN, "10.244.0.0/24")
    recalled = await make(V4).recall({})
    assert (recalled.macs, recalled.addresses) == ({}, {})
    await admin.annotate(OWN, {"node-public-ip": "eth0"})
    with pytest.raises(ConfigError, match="eth0"):
        await make(V4).recall({})
