"""A real kube-apiserver over a real etcd, found by KUBEBUILDER_ASSETS as controller-runtime's envtest does.

RBAC is on, and the user flannel has exactly flannel's ClusterRole, so a request for more fails a test.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.etcd import EtcdServer, free_port
from tests.openssl import openssl

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_READY_S = 60
_RULES = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
)


class RealKube:
    """The processes of both. Call `start()` first, and `stop()` in all cases."""

    def __init__(self, assets: Path, folder: Path) -> None:
        self._program = assets / "kube-apiserver"
        self._folder = folder
        self._port = free_port()
        self._etcd = EtcdServer(folder / "etcd")
        self._process: subprocess.Popen[bytes] | None = None
        self.clients = folder / "clients.crt"
        """The authority of client certificates; its key beside it."""

    @property
    def url(self) -> str:
        """The URL of the API server."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def ca(self) -> Path:
        """The certificates of its authority."""
        return self._folder / "certs" / "apiserver.crt"

    def start(self) -> None:
        """Create keys and tokens, start both, and grant flannel its role."""
        openssl(
            self._folder,
            "genrsa -out sa.key 2048",
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=clients -keyout clients.key -out clients.crt",
        )
        users = "admin-token,admin,1,system:masters\nflannel-token,flannel,2\nnobody-token,nobody,3\n"
        (self._folder / "tokens.csv").write_text(users)
        self._etcd.start()
        self._start_api()
        self.grant("flannel", *_RULES)

    def grant(self, role: str, *rules: Mapping[str, object]) -> None:
        """Give the user flannel a new ClusterRole with these rules."""
        group = "rbac.authorization.k8s.io"
        self._post(f"{_RBAC}/clusterroles", {"kind": "ClusterRole", "metadata": {"name": role}, "rules": rules})
        binding = {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "flannel", "apiGroup": group}],
        }
        self._post(f"{_RBAC}/clusterrolebindings", binding)

    def stop(self) -> None:
        """End both."""
        self._stop_api()
        self._etcd.stop()

    async def restart(self) -> None:
        """Stop the API server and start it again."""
        await self.down()
        await self.up()

    async def down(self) -> None:
        """Stop the API server."""
        await asyncio.to_thread(self._stop_api)

    async def up(self) -> None:
        """Start it again."""
        await asyncio.to_thread(self._start_api)

    async def forget(self, name: str) -> None:
        """Delete a Node in etcd, without the API server."""
        deleted = await asyncio.to_thread(self._etcd.ctl, "del", f"/registry/minions/{name}")
        assert deleted.strip() == "1"

    async def lists(self) -> int:
        """Return how often the API server has listed Nodes in etcd."""
        text = await asyncio.to_thread(self._request, "/metrics")
        found = re.findall(
            r'^etcd_request_duration_seconds_count\{operation="list",type="\*\[\]core.Node"\} (\d+)', text, re.MULTILINE
        )
        return sum(map(int, found))

    def _start_api(self) -> None:
        flags = (
            f"--etcd-servers={self._etcd.url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self._folder}/certs",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self._folder}/tokens.csv",
            f"--client-ca-file={self.clients}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder}/sa.key",
            f"--service-account-signing-key-file={self._folder}/sa.key",
            "--disable-admission-plugins=ServiceAccount",
            "--feature-gates=IPv6DualStack=true",  # 1.20 drops a second podCIDR otherwise
        )
        with (self._folder / "kube-apiserver.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *flags], stdout=log, stderr=log)
        end = time.monotonic() + _READY_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                said = (self._folder / "kube-apiserver.log").read_text()[-2000:]
                raise RuntimeError(f"kube-apiserver does not start: {said}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            self._request("/readyz")
        except OSError:  # urllib's errors are
            return False
        return True

    def _post(self, path: str, body: Mapping[str, object]) -> None:
        self._request(path, json.dumps({"apiVersion": "rbac.authorization.k8s.io/v1", **body}).encode())

    def _request(self, path: str, body: bytes | None = None) -> str:
        headers = {"Authorization": "Bearer admin-token", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310  (always https)
        with urllib.request.urlopen(request, timeout=10, context=ssl.create_default_context(cafile=self.ca)) as answer:  # noqa: S310  (always https)
            return str(answer.read(), "utf-8")

    def _stop_api(self) -> None:
        if self._process is not None:
            self._process.kill()  # asked to stop, an API server waits for its watches
            self._process.wait()
            self._process = None


@contextmanager
def running(folder: Path, run: Callable[[Callable[[], None]], None] = lambda job: job()) -> Iterator[RealKube]:
    """Run both servers, with their data in `folder`; skip the test if they are not installed.

    `run` starts the processes, in the network namespace of its choice.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver")
    server = RealKube(Path(assets), folder)
    try:
        run(server.start)
        yield server
    finally:
        server.stop()
