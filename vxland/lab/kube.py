"""A real kube-apiserver over an etcd of its own on a node of the lab, and an administrator's requests to it.

Both programs come from the folder in KUBEBUILDER_ASSETS, as controller-runtime's envtest has it. There are no
controllers and no kubelets: Nodes are what the administrator writes.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import LabNode
from vxland.model.errors import StartError

ASSETS: Final = "KUBEBUILDER_ASSETS"
PROGRAMS: Final = ("kube-apiserver", "etcd")
PORT: Final = 6443
READY_S: Final = 60.0
CALL_S: Final = 60.0
PAGE: Final = 500

_TOKEN: Final = "vxland-lab"  # noqa: S105  (of a server that exists in a namespace for some minutes)
_ETCD: Final = "http://127.0.0.1:2379"
_MERGE: Final = "application/merge-patch+json"


def assets() -> Path:
    """Return the folder with both programs; StartError names the variable."""
    folder = os.environ.get(ASSETS, "")
    missing = [name for name in PROGRAMS if not os.access(Path(folder) / name, os.X_OK)] if folder else []
    if folder and not missing:
        return Path(folder)
    cause = f"{ASSETS}={folder} has no program {missing[0]}" if missing else f"{ASSETS} is not set"
    raise StartError(cause, f"set {ASSETS} to a folder with kube-apiserver and etcd, such as `setup-envtest use` makes")


class KubeServer:
    """The servers, and a connection to the API. StartError if they do not start or refuse."""

    def __init__(self, lab: Lab, node: LabNode) -> None:
        self.url = f"https://{node.underlay}:{PORT}"
        self.ca = lab.dir / "kube" / "apiserver.crt"
        """The certificates of its authority."""
        self._lab = lab
        self._namespace = lab.namespace(node)
        self._host = str(node.underlay)
        self._connection: HTTPSConnection | None = None
        folder = assets()
        self.ca.parent.mkdir()
        key, tokens = self.ca.parent / "sa.key", self.ca.parent / "tokens.csv"
        shell.run("openssl", "genrsa", "-out", str(key), "2048")
        tokens.write_text(f"{_TOKEN},lab,1,system:masters\n")
        env = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        urls = ("--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD)
        command = (str(folder / "etcd"), "--data-dir", str(lab.dir / "etcd"), "--unsafe-no-fsync", *urls)
        lab.start("etcd", node, (*command, "--listen-peer-urls", "http://127.0.0.1:0"), env)
        flags = (
            f"--etcd-servers={_ETCD}",
            f"--bind-address={self._host}",
            f"--advertise-address={self._host}",
            f"--secure-port={PORT}",
            f"--cert-dir={self.ca.parent}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",
        )
        self._process = lab.start("kube-apiserver", node, (str(folder / "kube-apiserver"), *flags), env)
        self._await()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig of the administrator at `path`."""
        doc = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "clusters": [{"name": "lab", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "lab", "user": {"token": _TOKEN}}],
        }
        path.write_text(json.dumps(doc))
        return path

    def create_node(self, node: Mapping[str, object]) -> None:
        """Create a Node."""
        self._ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **node})

    def patch_node(self, name: str, patch: Mapping[str, object], part: str = "") -> None:
        """Merge into a Node, or into its subresource `part`."""
        self._ask("PATCH", f"/api/v1/nodes/{name}{part}", patch)

    def delete_node(self, name: str) -> None:
        """Delete a Node."""
        self._ask("DELETE", f"/api/v1/nodes/{name}")

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Yield every Node."""
        more = ""
        while True:
            page = json.loads(self._ask("GET", f"/api/v1/nodes?limit={PAGE}&continue={quote(more)}"))
            yield from page["items"]
            more = page["metadata"].get("continue", "")
            if not more:
                return

    def metrics(self) -> str:
        """Return the API server's metrics, as text."""
        return self._ask("GET", "/metrics").decode()

    def close(self) -> None:
        """Close the connection; the lab ends the servers."""
        if self._connection is not None:
            self._connection.close()

    def _await(self) -> None:
        end = time.monotonic() + READY_S
        while True:
            try:
                self._ask("GET", "/readyz")
            except (OSError, StartError):
                if self._process.poll() is not None or time.monotonic() > end:
                    words = self._lab.log_tail("kube-apiserver", 5)
                    cause = f"kube-apiserver does not answer at {self.url}"
                    raise StartError(cause, f"its last log lines:\n{words or '(none)'}") from None
                time.sleep(0.1)
            else:
                return

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> bytes:
        if self._connection is None:
            tls = ssl.create_default_context(cafile=self.ca)
            self._connection = HTTPSConnection(self._host, PORT, timeout=CALL_S, context=tls)
        if self._connection.sock is None:  # a socket stays in the namespace where it was made
            shell.inside(self._namespace, self._connection.connect)
        headers = {
            "Authorization": f"Bearer {_TOKEN}",
            "Content-Type": _MERGE if method == "PATCH" else "application/json",
        }
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self._connection.getresponse()
            raw = answer.read()
        except (HTTPException, TimeoutError) as exc:
            self._connection.close()
            raise StartError(f"{self.url} does not answer: {exc!r}", "see its log in the lab") from exc
        if answer.status >= 300:
            refusal = raw.decode(errors="replace")[:300]
            raise StartError(f"kube-apiserver refuses {method} {path}: {refusal}", "see its log in the lab")
        return raw
