"""Requests of an administrator and of other nodes to an API server, fake or real."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

from vxland.config.flannel import KubeSettings
from vxland.model.lease import Lease
from vxland.registry.kube.registry import KubeRegistry

PREFIX = "flannel.alpha.coreos.com/"
STRATEGIC = "application/strategic-merge-patch+json"
OWN = "node0"


class Server(Protocol):
    """An API server: users admin, flannel (with flannel's ClusterRole) and nobody, by the tokens NAME-token."""

    @property
    def url(self) -> str:
        """The URL at which it listens."""

    @property
    def ca(self) -> Path | None:
        """The certificates of its authority; None for plain HTTP."""

    async def restart(self) -> None:
        """Restart it with the same objects; it answers when this returns."""


class Admin:
    """An administrator's requests. An error answer is an AssertionError. Enter it first."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._tls = ssl.create_default_context(cafile=server.ca) if server.ca else True

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers={"Authorization": "Bearer admin-token"})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> dict[str, Any]:
        """Return the answer to one request below /api/v1."""
        async with self._session.request(
            method,
            f"{self.server.url}/api/v1/{path}",
            data=None if body is None else json.dumps(body),
            headers={} if body is None else {"Content-Type": kind},
            ssl=self._tls,
        ) as response:
            answer = await response.json()
            assert response.status < 300, answer
            return dict(answer)

    async def clear(self) -> None:
        """Delete every Node."""
        await self.ask("DELETE", "nodes")

    async def add(self, name: str, *subnets: str, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A kubelet registers its Node, and a controller assigns it podCIDRs."""
        spec = {"podCIDR": subnets[0], "podCIDRs": list(subnets)} if subnets else {}
        metadata = {"name": name, "annotations": dict(annotations or {})}
        return await self.ask("POST", "nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})

    async def node(self, name: str = OWN) -> dict[str, Any]:
        """A Node."""
        return await self.ask("GET", f"nodes/{name}")

    async def annotations(self, name: str = OWN) -> dict[str, str]:
        """Return flannel's annotations on a Node, without the prefix."""
        texts = (await self.node(name))["metadata"].get("annotations", {})
        return {key.removeprefix(PREFIX): text for key, text in texts.items() if key.startswith(PREFIX)}

    async def annotate(self, name: str, texts: Mapping[str, str | None]) -> None:
        """Set flannel's annotations on a Node, given without the prefix; None removes one."""
        await self.change(name, {"metadata": {"annotations": {PREFIX + key: text for key, text in texts.items()}}})

    async def change(self, name: str, patch: Mapping[str, object]) -> None:
        """Merge into a Node."""
        await self.ask("PATCH", f"nodes/{name}", patch, "application/merge-patch+json")

    async def delete(self, name: str) -> None:
        """Delete a Node."""
        await self.ask("DELETE", f"nodes/{name}")


def flannel_annotations(*leases: Lease, vni: int = 1) -> dict[str, str]:
    """Return the annotations that flanneld writes on a peer with these leases, without the prefix."""
    texts = {"kube-subnet-manager": "true", "backend-type": "vxlan"}
    for lease in leases:
        v6 = lease.subnet.version == 6
        texts["backend-v6-data" if v6 else "backend-data"] = f'{{"VNI":{vni},"VtepMAC":"{lease.vtep.mac}"}}'
        texts["public-ipv6" if v6 else "public-ip"] = str(lease.vtep.address)
    return texts


def kubeconfig(
    server: Server, path: Path, user: Mapping[str, object] | None = None, cluster: Mapping[str, object] | None = None
) -> Path:
    """Write a kubeconfig at `path`, by default for the server's user flannel."""
    ca = {} if server.ca is None else {"certificate-authority": str(server.ca)}
    doc = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "tested", "user": "flannel"}}],
        "clusters": [{"name": "tested", "cluster": {"server": server.url, **(ca if cluster is None else cluster)}}],
        "users": [{"name": "flannel", "user": {"token": "flannel-token"} if user is None else user}],
    }
    path.write_text(json.dumps(doc))
    return path


def net_conf(path: Path, *networks: str) -> Path:
    """Write a net-conf.json at `path`."""
    doc: dict[str, object] = {"EnableIPv4": False, "Backend": {"Type": "vxlan"}}
    for network in networks:
        doc |= (
            {"EnableIPv6": True, "IPv6Network": network} if ":" in network else {"EnableIPv4": True, "Network": network}
        )
    path.write_text(json.dumps(doc))
    return path


def registry(
    server: Server,
    folder: Path,
    *networks: str,
    user: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = lambda: 0.0,
    **settings: object,
) -> KubeRegistry:
    """Return the registry of the node OWN, with its files in `folder`."""
    given = {
        "kubeconfig": kubeconfig(server, folder / "kubeconfig", user),
        "net_conf": net_conf(folder / "net-conf.json", *(networks or ("10.244.0.0/16",))),
        "node_name": OWN,
        **settings,
    }
    return KubeRegistry(KubeSettings.model_validate(given), environ=environ or {}, sleep=sleep, jitter=jitter)
