"""Answers and watches of etcd's gateway, read by an EtcdFollower: see streams.py."""

from __future__ import annotations

import base64
import json
from contextlib import AbstractContextManager
from ipaddress import ip_network
from typing import Any

from tests.fuzz import Check, streams
from vxland.config.flannel import EtcdSettings
from vxland.registry.etcd.follower import EtcdFollower
from vxland.registry.etcd.gateway import Gateway
from vxland.registry.etcd.store import Store
from vxland.registry.net_conf import NetConf
from vxland.registry.retry import Retrier
from vxland.registry.view import View

_SETTINGS = EtcdSettings()
CONF = NetConf((ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")))
_VALUE = b'{"PublicIP":"192.168.0.2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:1b:2c:3d:4e:5f"}}'


def _kv(name: str, value: bytes = _VALUE) -> dict[str, str]:
    key = f"/coreos.com/network/subnets/{name}".encode()
    texts = {"key": base64.b64encode(key).decode(), "value": base64.b64encode(value).decode()}
    return {**texts, "create_revision": "2", "mod_revision": "3", "lease": "7"}


def _said(found: Any, status: int = 0) -> bytes:  # noqa: ANN401  (as JSON has it)
    return f"{status}{json.dumps(found, separators=(',', ':'))}".encode()


_HEADER = {"cluster_id": "7", "revision": "5"}
_LISTED = _said({"header": _HEADER, "kvs": [_kv("10.244.1.0-24"), _kv("stray", b"x")], "count": "2"})
_PAGE = _said({"header": _HEADER, "kvs": [_kv("10.244.0.0-24")], "more": True})
_CREATED = json.dumps({"result": {"header": _HEADER, "created": True}}).encode() + b"\n"
_PUT = json.dumps({"result": {"header": _HEADER, "events": [{"kv": _kv("10.244.2.0-24")}]}}).encode() + b"\n"
_DELETED = b'{"result":{"events":[{"type":"DELETE","kv":' + json.dumps(_kv("10.244.1.0-24")).encode() + b"}]}}\n"
SEEDS = [
    _LISTED + b"\0" + b"0" + _CREATED + _PUT[:40] + b"\1" + _PUT[40:] + _DELETED,
    _PAGE + b"\0" + _LISTED + b"\0" + b"0" + _CREATED + b"\n" + b'{"result":{"header":{"revision":"6"}}}\n',
    _LISTED + b"\0" + b'0{"result":{"canceled":true,"compact_revision":"9"}}\n',
    _LISTED + b"\0" + b'0{"error":{"message":"etcdserver: no leader","grpc_code":14}}\n',
    _said({"message": "etcdserver: permission denied", "code": 7}, 3),
    b"5404 page not found\n\0" + b"5404 page not found\n",
    b'0{"header":{"revision":1e999},"kvs":{}}',
]


def checking() -> AbstractContextManager[Check]:
    """Yield a check with an open event loop."""
    return streams.checking(follow, CONF)


async def follow(answers: streams.Answers, view: View) -> None:
    """List, then follow one watch to its end."""
    gateway = Gateway(_SETTINGS)
    gateway._request = answers.next  # type: ignore[assignment, method-assign]  # answers come from the input, not from a server
    store = Store(gateway, "/coreos.com/network")
    follower = EtcdFollower(store, view, CONF, Retrier(), lambda _: None)
    await follower._list()
    await follower._stream()
