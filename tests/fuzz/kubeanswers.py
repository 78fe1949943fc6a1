"""Lists and watches of the Kubernetes API, read by a NodeFollower: see streams.py."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from ipaddress import ip_network

from tests.fuzz import Check, streams
from tests.fuzz.annotations import SEEDS as NODES
from vxland.config.flannel import KubeSettings
from vxland.registry.kube.client import Client
from vxland.registry.kube.credentials import Access
from vxland.registry.kube.follower import NodeFollower
from vxland.registry.kube.own_node import OwnNode
from vxland.registry.net_conf import NetConf
from vxland.registry.retry import Retrier
from vxland.registry.view import View

_ACCESS = Access("http://127.0.0.1")
_SETTINGS = KubeSettings()
CONF = NetConf((ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")))
_NODE = json.loads(NODES[0])
_LIST = {"metadata": {"resourceVersion": "5"}, "items": [_NODE]}


def _json(found: object) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode()


_EVENT = _json({"type": "MODIFIED", "object": _NODE}) + b"\n"
_GONE = _json({"type": "DELETED", "object": {"metadata": {"name": "n", "resourceVersion": "7"}}}) + b"\n"
SEEDS = [
    b"0" + _json(_LIST) + b"\0" + b"0" + _EVENT[:50] + b"\1" + _EVENT[50:] + _GONE,
    b"0" + _json({**_LIST, "metadata": {"resourceVersion": "5", "continue": "abc"}}) + b"\0" + b"0" + _json(_LIST),
    b"0" + _json(_LIST) + b"\0" + b'0{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n',
    b"0" + _json(_LIST) + b"\0" + b'0{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n',
    b'4{"message":"Unauthorized","code":401}\0' + b'4{"message":"Unauthorized","code":401}',
    b'0{"metadata":{"resourceVersion":"1e999","continue":7},"items":{}}',
]


def checking() -> AbstractContextManager[Check]:
    """Yield a check with an open event loop."""
    return streams.checking(follow, CONF)


async def follow(answers: streams.Answers, view: View) -> None:
    """List, then follow one watch to its end."""
    client = Client(lambda: _ACCESS)
    client._request = answers.next  # type: ignore[assignment, method-assign]  # answers come from the input, not from a server
    retrier = Retrier()
    own = OwnNode(client, retrier, _SETTINGS, {}, lambda _: None)
    own.name = "node0"
    await NodeFollower(client, view, CONF, retrier, own)._continue()
