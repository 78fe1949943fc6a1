"""A real etcd inside a namespace, and a client of its JSON gateway, independent of vxland's."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.netns.interop.ns import Ns, wait_until
from tests.patience import PATIENCE_S
from vxland.lab import shell

PREFIX: Final = "/coreos.com/network"
PORT: Final = 2379
DAY_S: Final = 86_400
_LOOPBACK: Final = "127.0.0.1"


class Etcd:
    """One member at `address` of `ns`; its data in `folder` survives a stop."""

    def __init__(self, ns: Ns, address: str, folder: Path) -> None:
        self.url = f"http://{address}:{PORT}"
        self._ns = ns
        self._address = self._listens = address
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, hidden: bool = False) -> None:
        """Start it; `hidden`: at an address that no node reaches."""
        self._folder.mkdir(exist_ok=True)
        self._listens = _LOOPBACK if hidden else self._address
        url, peer = f"http://{self._listens}:{PORT}", f"http://{_LOOPBACK}:{PORT + 1}"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                shell.exec_in(
                    *(self._ns.name, "etcd", "--data-dir", str(self._folder / "data"), "--unsafe-no-fsync"),
                    *("--heartbeat-interval=10", "--election-timeout=50"),  # a single member: restarts quickly
                    *("--listen-client-urls", url, "--advertise-client-urls", url),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"default={peer}"),
                ),
                stdout=log,
                stderr=log,
            )
        wait_until(self._serves, "etcd serves", lambda: (self._folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def put(self, name: str, value: str, ttl_s: int = DAY_S) -> None:
        """Write a key below the prefix, with a separate lease as flannel does; with 0 without a lease."""
        request = {"key": _text(f"{PREFIX}/{name}"), "value": _text(value)}
        if ttl_s:
            request["lease"] = self._call("lease/grant", {"TTL": ttl_s})["ID"]
        self._call("kv/put", request)

    def put_at(self, key: str, value: str) -> None:
        """Write any key, without a lease."""
        self._call("kv/put", {"key": _text(key), "value": _text(value)})

    def delete(self, name: str) -> None:
        """Delete a key below the prefix."""
        self._call("kv/deleterange", {"key": _text(f"{PREFIX}/{name}")})

    def subnets(self) -> dict[str, str]:
        """Return the values below PREFIX/subnets/, by the last part of their keys."""
        root = f"{PREFIX}/subnets/"
        answer = self._call("kv/range", {"key": _text(root), "range_end": _text(f"{PREFIX}/subnets0")})
        return {_plain(kv["key"]).removeprefix(root): _plain(kv["value"]) for kv in answer.get("kvs", [])}

    def ttl(self, name: str) -> int:
        """Return the seconds that a key's lease was granted for; 0 without a lease."""
        (found,) = self._call("kv/range", {"key": _text(f"{PREFIX}/{name}")})["kvs"]
        if "lease" not in found:
            return 0
        return int(self._call("lease/timetolive", {"ID": found["lease"]})["grantedTTL"])

    def compact(self) -> None:
        """Compact the history up to now."""
        revision = self._call("kv/range", {"key": _text(PREFIX)})["header"]["revision"]
        self._call("kv/compaction", {"revision": revision, "physical": True})

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "etcd has ended"
        try:
            return bool(self._call("kv/range", {"key": _text(PREFIX)}))
        except (OSError, http.client.HTTPException, AssertionError):
            return False

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._listens, PORT)
        connection.sock = self._ns.inside(lambda: socket.create_connection((self._listens, PORT), PATIENCE_S))
        try:
            connection.request("POST", f"/v3/{path}", json.dumps(body))
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        assert response.status == 200, raw
        answer: dict[str, Any] = json.loads(raw)
        return answer


def _text(plain: str) -> str:
    return base64.b64encode(plain.encode()).decode()


def _plain(text: str) -> str:
    return base64.b64decode(text).decode()
