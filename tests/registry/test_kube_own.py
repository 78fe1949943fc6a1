"""A node of its own in Kubernetes, fake and real: who it is, what it publishes, and how that is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from tests.openssl import openssl
from tests.registry.kubeapi import OWN, PREFIX, Admin, kubeconfig, registry, told
from tests.registry.kubecase import (
    DUAL,
    MAC,
    OWN_TOLD,
    V4,
    VTEPS,
    Paces,
    async_of,
    following,
    join,
    peer,
    soon,
    watching,
)
from tests.registry.realkube import RealKube
from vxland.model.errors import ConfigError, LeaseLostError, StartError
from vxland.model.lease import Lease
from vxland.registry.kube.registry import KubeRegistry

A: Final = PREFIX
STRATEGIC: Final = "application/strategic-merge-patch+json"


# --- publishing


async def test_publish_writes_flannels_annotations_and_no_more(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Byte by byte those of section `annotations`; what others annotated stays."""
    await admin.add(OWN, "10.244.0.0/24", annotations={"other": "stays"})
    held = await make(V4).publish(VTEPS)
    assert held == {Lease(ip_network("10.244.0.0/24"), VTEPS[4])}
    assert (await admin.node())["metadata"]["annotations"] == {
        "other": "stays",
        A + "kube-subnet-manager": "true",
        A + "backend-type": "vxlan",
        A + "backend-data": '{"VNI":1,"VtepMAC":"ce:5f:f6:73:cf:b9"}',
        A + "public-ip": "192.168.111.128",
    }


async def test_publish_writes_both_families(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """In a dual-stack cluster; and nothing is patched where nothing differs."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    await make(*DUAL).publish(VTEPS)
    assert await admin.annotations() == OWN_TOLD
    before = (await admin.node())["metadata"]["resourceVersion"]
    await make(*DUAL).publish(VTEPS)
    assert (await admin.node())["metadata"]["resourceVersion"] == before


async def test_publish_waits_for_the_node_and_its_subnet(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The kubelet and the controller may be slower than we are; what is waited for is told."""
    paces = Paces()
    kube = make(V4, sleep=paces.sleep)
    publishing = asyncio.create_task(kube.publish(VTEPS))
    await paces.until(lambda: 'nodes "node0" not found' in kube.health.error)
    await admin.add(OWN)
    await paces.until(lambda: kube.health.error == 'own node: node "node0" pod cidr not assigned')
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
    """A Node keeps its podCIDRs, so waiting does not help: flannel's own words, and nothing is published."""
    await admin.add(OWN, *subnets)
    with pytest.raises(StartError) as caught:
        await make(*networks).publish(VTEPS)
    assert caught.value.cause in {cause, f'{cause} of the "node0" node'}
    assert await admin.annotations() == {}


async def test_an_overwrite_is_published_instead(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """public-ip-overwrite and its sister, for NAT; the administrator may change them while we run."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64", annotations={A + "public-ip-overwrite": "203.0.113.7"})
    kube = make(*DUAL)
    held = {lease.subnet.version: str(lease.vtep.address) for lease in await kube.publish(VTEPS)}
    assert held == {4: "203.0.113.7", 6: "fd00:192:168::80"}
    assert (await admin.annotations())["public-ip"] == "203.0.113.7"
    async with watching(kube):
        await admin.annotate(OWN, {"public-ip-overwrite": None, "public-ipv6-overwrite": "2001:db8::7"})
        await soon(
            admin.annotations,
            OWN_TOLD | {"public-ipv6-overwrite": "2001:db8::7", "public-ipv6": "2001:db8::7"},
        )


async def test_a_wrong_overwrite_is_refused(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """At start as an error; later what was published stays, and health says why."""
    await admin.add(OWN, "10.244.0.0/24", annotations={A + "public-ip-overwrite": "here"})
    with pytest.raises(ConfigError, match="here") as caught:
        await make(V4).publish(VTEPS)
    assert caught.value.key == A + "public-ip-overwrite"
    await admin.annotate(OWN, {"public-ip-overwrite": None})
    kube = make(V4)
    await kube.publish(VTEPS)
    async with following(kube) as follower:
        await admin.annotate(OWN, {"public-ip-overwrite": "there"})
        await join(admin, 1, peer(1))
        await follower.until(peer(1))
        await soon(async_of(lambda: "there" in kube.health.quarantined.get(OWN, "")), expected=True)
    assert (await admin.annotations())["public-ip"] == "192.168.111.128"


async def test_another_prefix_is_used_throughout(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Two flannels may share a cluster, each with a prefix of its own."""
    await admin.add(OWN, "10.244.0.0/24")
    kube = make(V4, annotation_prefix="blue.example.org/net")
    await kube.publish(VTEPS)
    texts = (await admin.node())["metadata"]["annotations"]
    assert texts["blue.example.org/net-backend-data"] == '{"VNI":1,"VtepMAC":"ce:5f:f6:73:cf:b9"}'
    assert all(key.startswith("blue.example.org/net-") for key in texts)
    assert (await kube.recall({})).macs == {4: MAC}
    await join(admin, 1, peer(1))
    blue = {f"blue.example.org/net-{key}": text for key, text in told(peer(2)).items()}
    await admin.add("node2", "10.244.2.0/24", annotations=blue)
    async with following(kube) as follower:
        assert set(follower.leases.values()) == {peer(2)}


async def test_a_node_recalls_its_macs_and_chosen_addresses(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The MACs that peers know, from flanneld's annotations or ours; the addresses an administrator chose."""
    texts = told(peer(3), peer(3, 6, mac=4)) | {"node-public-ip": "192.0.2.1", "node-public-ipv6": "2001:db8::1"}
    texts["public-ip-overwrite"] = "203.0.113.9"
    await admin.add(OWN, "10.244.0.0/24", annotations={A + key: text for key, text in texts.items()})
    recalled = await make(V4).recall({})
    assert recalled.macs == {4: peer(3).vtep.mac, 6: peer(3, 6, mac=4).vtep.mac}
    assert recalled.addresses == {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
    assert recalled.overwrites == {4: ip_address("203.0.113.9")}


async def test_a_node_that_never_published_recalls_nothing(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """And an address that is none is the administrator's mistake, told by its annotation."""
    await admin.add(OWN, "10.244.0.0/24")
    recalled = await make(V4).recall({})
    assert (recalled.macs, recalled.addresses) == ({}, {})
    await admin.annotate(OWN, {"node-public-ip": "eth0"})
    with pytest.raises(ConfigError, match="eth0"):
        await make(V4).recall({})


# --- who and where we are


async def test_a_pod_learns_the_nodes_name_from_its_own(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """POD_NAME and POD_NAMESPACE, as in kube-flannel.yml; NODE_NAME goes before them, and a setting before both."""
    await admin.add(OWN, "10.244.0.0/24")
    spec = {"nodeName": OWN, "containers": [{"name": "c", "image": "i"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "flannel-x"}, "spec": spec}
    await admin.ask("POST", "namespaces/default/pods", pod)
    try:
        environ = {"POD_NAME": "flannel-x", "POD_NAMESPACE": "default"}
        for kube in (
            make(V4, node_name="", environ=environ),
            make(V4, node_name="", environ=environ | {"NODE_NAME": OWN, "POD_NAME": "gone"}),
            make(V4, node_name=OWN, environ={"NODE_NAME": "gone"}),
        ):
            assert await kube.publish(VTEPS)
    finally:
        await admin.ask("DELETE", "namespaces/default/pods/flannel-x?gracePeriodSeconds=0")
    with pytest.raises(ConfigError) as caught:
        await make(V4, node_name="", environ={"POD_NAME": "flannel-x"}).publish(VTEPS)
    assert caught.value.key == "kube.node_name"


async def test_a_missing_net_conf_is_a_config_error(make: Callable[..., KubeRegistry], tmp_path: Path) -> None:
    """And one that is wrong; both name the file."""
    with pytest.raises(ConfigError) as caught:
        await make(V4, net_conf=tmp_path / "gone").net_conf()
    assert (caught.value.key, caught.value.value) == ("kube.net_conf", str(tmp_path / "gone"))
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        await make(V4, net_conf=tmp_path / "binary").net_conf()


async def test_rbac_refusals_say_what_is_missing(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Verb and resource; and it is tried again, since a role may come later than we do."""
    await admin.add(OWN, "10.244.0.0/24")
    paces = Paces()
    kube = make(V4, user={"token": "nobody-token"}, sleep=paces.sleep)
    async with watching(kube):
        await paces.until(lambda: "RBAC gives this user no list of nodes: " in kube.health.error)
    other = make(V4, user={"token": "nobody-token"}, sleep=paces.sleep)
    publishing = asyncio.create_task(other.publish(VTEPS))
    await paces.until(lambda: "RBAC gives this user no get of nodes: " in other.health.error)
    publishing.cancel()


async def test_a_new_token_is_used(admin: Admin, make: Callable[..., KubeRegistry], tmp_path: Path) -> None:
    """The kubelet replaces the file; until then what fails is told."""
    await join(admin, 1, peer(1))
    token = tmp_path / "token"
    token.write_text("worn-out")
    paces = Paces()
    kube = make(V4, user={"tokenFile": str(token)}, sleep=paces.sleep)
    async with watching(kube):
        await paces.until(lambda: "list nodes: the credentials are not accepted: Unauthorized" in kube.health.error)
        token.write_text("flannel-token")
        await soon(async_of(lambda: kube.health.error), "")


async def test_the_service_account_of_a_pod_is_enough(real_kube: RealKube, tmp_path: Path) -> None:
    """Server, authority and token as the kubelet gives them; the server's certificate is checked."""
    async with Admin(real_kube) as admin:
        await admin.clear()
        await admin.add(OWN, "10.244.0.0/24")
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("flannel-token")
    (folder / "ca.crt").write_bytes(real_kube.ca.read_bytes())
    host, port = real_kube.url.removeprefix("https://").split(":")
    settings = registry(real_kube, tmp_path, V4)._settings.model_copy(update={"kubeconfig": None})
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    kube = KubeRegistry(settings, environ=environ, service_account=folder)
    assert await kube.publish(VTEPS)
    await kube.close()


async def test_a_client_certificate_is_enough(real_kube: RealKube, tmp_path: Path) -> None:
    """As the kubelet's own kubeconfig has it; a server of another authority is not talked to."""
    async with Admin(real_kube) as admin:
        await admin.clear()
        await admin.add(OWN, "10.244.0.0/24")
    signer = real_kube.clients.with_suffix("")
    openssl(
        tmp_path,
        "req -newkey rsa:2048 -nodes -subj /CN=flannel -keyout me.key -out me.csr",
        f"x509 -req -in me.csr -days 2 -CA {signer}.crt -CAkey {signer}.key -set_serial 2 -out me.crt",
    )
    user = {"client-certificate": "me.crt", "client-key": "me.key"}
    kube = registry(real_kube, tmp_path, V4, user=user)
    assert await kube.publish(VTEPS)
    await kube.close()
    paces = Paces()
    kube = registry(real_kube, tmp_path, V4, user=user, sleep=paces.sleep)
    kubeconfig(real_kube, tmp_path / "kubeconfig", user, {"certificate-authority": str(real_kube.clients)})
    async with watching(kube):
        await paces.until(lambda: "CERTIFICATE_VERIFY_FAILED" in kube.health.error)
    await kube.close()


# --- the condition


async def test_the_condition_is_flannels(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """NetworkUnavailable is false, in flannel's words, beside the kubelet's conditions; other nodes see no change."""
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
    """Also where the Node changes while that is on its way."""
    await admin.add(OWN, "10.244.0.0/24")
    kube = make(V4)
    await kube.publish(VTEPS)
    with capture_logs() as logs:
        async with following(kube) as follower:
            await asyncio.gather(kube.announce(), *(admin.annotate(OWN, {"other": str(i)}) for i in range(5)))
            await admin.annotate(OWN, {"backend-data": "null"})
            await soon(lambda: annotated(admin, "backend-data"), OWN_TOLD["backend-data"])
            await join(admin, 1, peer(1))
            await follower.until(peer(1))
    assert len([each for each in logs if each["event"] == "condition_set"]) == 1


async def annotated(admin: Admin, key: str) -> str:
    """One annotation of our Node."""
    return (await admin.annotations())[key]


async def conditions(admin: Admin) -> dict[str, dict[str, str]]:
    """The conditions of our Node, by type."""
    return {found["type"]: found for found in (await admin.node())["status"].get("conditions", [])}


# --- keeping what was published


async def test_annotations_that_somebody_changes_are_put_back(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Changed or removed, one or all; others' stay."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    kube = make(*DUAL, sleep=Paces().sleep)
    await kube.publish(VTEPS)
    async with watching(kube):
        await admin.annotate(OWN, {"backend-data": "null", "public-ipv6": None, "other": "stays"})
        await soon(admin.annotations, OWN_TOLD | {"other": "stays"})
        await admin.annotate(OWN, dict.fromkeys(OWN_TOLD))
        await soon(admin.annotations, OWN_TOLD | {"other": "stays"})


async def test_a_node_made_again_is_published_again(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """The kubelet's new Node has neither annotations nor our condition; meanwhile health says that it is gone."""
    await admin.add(OWN, "10.244.0.0/24", "fd00:10:244::/64")
    kube = make(*DUAL)
    await kube.publish(VTEPS)
    await kube.announce()
    async with following(kube) as follower:
        await admin.delete(OWN)
        await soon(async_of(lambda: "gone" in kube.health.quarantined.get(OWN, "")), expected=True)
        await admin.add(OWN)
        await soon(async_of(lambda: "pod cidr not assigned" in kube.health.quarantined.get(OWN, "")), expected=True)
        await admin.change(
            OWN, {"spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]}}
        )
        await soon(admin.annotations, OWN_TOLD)
        await soon(lambda: conditions_set(admin), expected=True)
        await soon(async_of(lambda: dict(kube.health.quarantined)), {})
        await join(admin, 1, peer(1))
        await follower.until(peer(1))


async def conditions_set(admin: Admin) -> bool:
    """Whether our Node has the condition."""
    return "NetworkUnavailable" in await conditions(admin)


async def test_a_node_with_another_subnet_ends_the_watch(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Only a start anew gives the pods other addresses; peers are told nothing wrong before."""
    await admin.add(OWN, "10.244.0.0/24")
    kube = make(V4)
    await kube.publish(VTEPS)
    async with watching(kube) as reading:
        await admin.delete(OWN)
        await admin.add(OWN, "10.244.7.0/24")
        with pytest.raises(LeaseLostError, match=r"10\.244\.7\.0/24 now, and no longer 10\.244\.0\.0/24"):
            await reading
    assert await admin.annotations() == {}
