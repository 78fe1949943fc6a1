"""The name of this node's Node, and the credentials for it, in a fake and a real Kubernetes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.openssl import openssl
from tests.registry.kubeapi import OWN, Admin, kubeconfig, registry
from tests.registry.kubecase import (
    V4,
    VTEPS,
    FakeSleep,
    async_of,
    eventually,
    join,
    peer,
    watching,
)
from tests.registry.realkube import RealKube
from vxland.model.errors import ConfigError
from vxland.registry.kube.registry import KubeRegistry


async def test_a_pod_learns_the_nodes_name_from_its_own(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """POD_NAME and POD_NAMESPACE, as in kube-flannel.yml; NODE_NAME precedes them, and a setting precedes both."""
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
    """So is an invalid one; the error names the file."""
    with pytest.raises(ConfigError) as caught:
        await make(V4, net_conf=tmp_path / "gone").net_conf()
    assert (caught.value.key, caught.value.value) == ("kube.net_conf", str(tmp_path / "gone"))
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        await make(V4, net_conf=tmp_path / "binary").net_conf()


async def test_rbac_refusals_say_what_is_missing(admin: Admin, make: Callable[..., KubeRegistry]) -> None:
    """Verb and resource are named; the request is retried, because a role may be granted later."""
    await admin.add(OWN, "10.244.0.0/24")
    sleeps = FakeSleep()
    kube = make(V4, user={"token": "nobody-token"}, sleep=sleeps.sleep)
    async with watching(kube):
        await sleeps.until(lambda: "RBAC gives this user no list of nodes: " in kube.health.error)
    other = make(V4, user={"token": "nobody-token"}, sleep=sleeps.sleep)
    publishing = asyncio.create_task(other.publish(VTEPS))
    await sleeps.until(lambda: "RBAC gives this user no get of nodes: " in other.health.error)
    publishing.cancel()


async def test_a_new_token_is_used(admin: Admin, make: Callable[..., KubeRegistry], tmp_path: Path) -> None:
    """The kubelet replaces the file; until then health reports the failure."""
    await join(admin, 1, peer(1))
    token = tmp_path / "token"
    token.write_text("worn-out")
    sleeps = FakeSleep()
    kube = make(V4, user={"tokenFile": str(token)}, sleep=sleeps.sleep)
    async with watching(kube):
        await sleeps.until(lambda: "list nodes: the credentials are not accepted: Unauthorized" in kube.health.error)
        token.write_text("flannel-token")
        await eventually(async_of(lambda: kube.health.error), "")


async def test_the_service_account_of_a_pod_is_enough(real_kube: RealKube, tmp_path: Path) -> None:
    """Server, authority and token are the kubelet's; the server's certificate is checked."""
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
    """The kubelet's kubeconfig has one; a server of another authority is refused."""
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
    sleeps = FakeSleep()
    kube = registry(real_kube, tmp_path, V4, user=user, sleep=sleeps.sleep)
    kubeconfig(real_kube, tmp_path / "kubeconfig", user, {"certificate-authority": str(real_kube.clients)})
    async with watching(kube):
        await sleeps.until(lambda: "CERTIFICATE_VERIFY_FAILED" in kube.health.error)
    await kube.close()
