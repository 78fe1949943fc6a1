"""A real etcd on a node of the lab, and the entries of administrators and flanneld, in flannel's formats.

It is accessed as `vxland` does, through the JSON gateway of its client port, but by a separate client: the code under
test does not judge itself. Keys and values: reference/flannel.md section 2.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeAlias

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import VNI, LabNode
from vxland.model.errors import StartError
from vxland.model.lease import Address, Mac, Subnet

PACKAGES = {"etcd": "etcd-server"}
PREFIX = "/coreos.com/network"
CONFIG_KEY, LEASES = f"{PREFIX}/config", f"{PREFIX}/subnets/"
PORT = 2379
MAX_OPERATIONS = 128  # in one transaction: etcd's --max-txn-ops
READY_S = 20.0
CALL_S = 30.0
LEASE_S = 86_400  # flannel: subnetTTL of pkg/subnet/etcd/local_manager.go

Operation: TypeAlias = dict[str, object]
"""One operation of a transaction; `putting` and `deleting` build them."""


@dataclass(frozen=True, slots=True)
class StoredLease:
    """One key in the store; `lease` is 0 if it has no TTL."""

    key: str
    value: str
    lease: int


class EtcdServer:
    """The server, named `etcd` in the lab, and a connection to it. StartError if it does not start or refuses."""

    def __init__(self, lab: Lab, node: LabNode) -> None:
        self.url = f"http://{node.underlay}:{PORT}"
        self._lab = lab
        self._namespace = lab.namespace(node)
        self._connection = HTTPConnection(str(node.underlay), PORT, timeout=CALL_S)
        urls = ("--listen-client-urls", self.url, "--advertise-client-urls", self.url)
        peers = ("--listen-peer-urls", "http://127.0.0.1:0", "--logger", "zap", "--log-level", "error")
        command = ("etcd", "--data-dir", str(lab.dir / "etcd"), "--unsafe-no-fsync", *urls, *peers)
        env = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        self._process = lab.start("etcd", node, command, env)
        self._await()

    def put(self, key: str, value: str, lease: int = 0) -> None:
        """Write one key, with the TTL of `lease` unless that is 0."""
        self._call("kv/put", {"key": _coded(key), "value": _coded(value), "lease": lease})

    def commit(self, operations: Sequence[Operation]) -> None:
        """Commit the operations in one transaction: at most MAX_OPERATIONS, each on another key."""
        self._call("kv/txn", {"success": operations})

    def grant(self, seconds: int) -> int:
        """Create a lease; return its id."""
        return int(self._call("lease/grant", {"TTL": seconds})["ID"])

    def list(self, prefix: str) -> list[StoredLease]:
        """Return every key that starts with `prefix`, sorted."""
        found = self._call("kv/range", {"key": _coded(prefix), "range_end": _coded(_after(prefix))})
        return [
            StoredLease(_text(kv["key"]), _text(kv.get("value", "")), int(kv.get("lease", 0)))
            for kv in found.get("kvs", [])
        ]

    def metrics(self) -> str:
        """Return the server's metrics, as text."""
        return self._answer("GET", "/metrics").decode()

    def close(self) -> None:
        """Close the connection; the lab ends the server."""
        self._connection.close()

    def _await(self) -> None:
        end = time.monotonic() + READY_S
        while True:
            with suppress(ConnectionRefusedError):
                self._call("maintenance/status", {})
                return
            if self._process.poll() is not None or time.monotonic() > end:
                words = self._lab.log_tail("etcd", 5)
                raise StartError(f"etcd does not answer at {self.url}", f"its last log lines:\n{words or '(none)'}")
            time.sleep(0.02)

    def _call(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._answer("POST", f"/v3/{path}", json.dumps(body)))
        return found

    def _answer(self, method: str, path: str, body: str | None = None) -> bytes:
        if self._connection.sock is None:  # a socket stays in the namespace where it was made
            shell.inside(self._namespace, self._connection.connect)
        try:
            self._connection.request(method, path, body)
            answer = self._connection.getresponse()
            raw = answer.read()
        except (HTTPException, TimeoutError) as exc:
            self._connection.close()
            raise StartError(f"etcd at {self.url} does not answer: {exc!r}", "see its log in the lab") from exc
        if answer.status != 200:
            refusal = raw.decode(errors="replace").strip()
            raise StartError(f"etcd refuses {path}: {refusal}", "see its log in the lab")
        return raw


def putting(key: str, value: str) -> Operation:
    """Return the operation that writes a key."""
    return {"request_put": {"key": _coded(key), "value": _coded(value)}}


def deleting(key: str) -> Operation:
    """Return the operation that deletes a key."""
    return {"request_delete_range": {"key": _coded(key)}}


def lease_key(subnet: Subnet) -> str:
    """Return the key of a node's lease."""
    return f"{LEASES}{subnet.network_address}-{subnet.prefixlen}"


def lease_value(address: Address, mac: Mac) -> str:
    """Return the value of a node's lease as Go writes flannel's LeaseAttrs."""
    data = {"VNI": VNI, "VtepMAC": str(mac)}
    return _compact({"PublicIP": str(address), "PublicIPv6": None, "BackendType": "vxlan", "BackendData": data})


def reservation(address: Address, mac: Mac) -> str:
    """Return the entry by which an administrator reserves a subnet, with the MAC (Documentation/reservations.md)."""
    data = {"VNI": VNI, "VtepMAC": str(mac)}
    return _compact({"PublicIP": str(address), "BackendType": "vxlan", "BackendData": data})


def network_config(network: Subnet, **more: object) -> str:
    """Return the value of PREFIX/config."""
    return _compact({"Network": str(network), **more, "Backend": {"Type": "vxlan", "VNI": VNI}})


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(coded: str) -> str:
    return base64.b64decode(coded).decode()


def _after(prefix: str) -> str:
    """Return the first key after all keys that start with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
