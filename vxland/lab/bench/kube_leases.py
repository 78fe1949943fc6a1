"""Leases as annotations of Node objects in a real kube-apiserver, for `vxland bench --leases --store kube`.

A Node has the size of a real one: 50 images, as kubelet reports at most, addresses, conditions, capacities.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from vxland.lab import vtep
from vxland.lab.bench.population import Edit
from vxland.lab.bench.stores import NETWORK, samples
from vxland.lab.kube import KubeServer
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES, VNI
from vxland.model.lease import Lease

PREFIX = "flannel.alpha.coreos.com/"
IMAGES = 50  # nodeStatusMaxImages of kubelet

_OWN = NODES[0].namespace
_OWN_SUBNET = "10.255.255.0/24"  # of none of `scale.leases`
_CONDITIONS = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
_OURS = frozenset({"PATCH nodes", "POST nodes", "DELETE nodes"})


class KubeLeases:
    """An API server with a Node for each lease, and one for node 1."""

    storm_rate, most, beats = 100, 1, True

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._server = KubeServer(lab, NODES[1])
        self._known: set[str] = set()
        self._server.create_node(build_node(_OWN, _OWN_SUBNET, {}))

    def commit(self, edits: Sequence[Edit]) -> None:
        """Write the edits, a request for each."""
        for edit in edits:
            name = name_of(edit.lease)
            if edit.gone:
                self._server.delete_node(name)
                self._known.remove(name)
            elif name in self._known:
                self._server.patch_node(name, {"metadata": {"annotations": texts_of(edit.lease)}})
            else:
                self._server.create_node(build_node(name, str(edit.lease.subnet), texts_of(edit.lease)))
                self._known.add(name)

    def beat(self, lease: Lease) -> None:
        """Write the Node's conditions with the time of now, as kubelet does every five minutes."""
        self._server.patch_node(name_of(lease), {"status": {"conditions": _conditions()}}, "/status")

    def expected(self) -> dict[str, str]:
        """Return the MAC behind each subnet."""
        return expected(self._server.nodes())

    def start_node(self, settings: str) -> None:
        """Start `vxland flanneld --kube-subnet-mgr`."""
        folder = self._lab.dir
        net_conf = folder / "net-conf.json"
        net_conf.write_text(json.dumps({"Network": str(NETWORK), "Backend": {"Type": "vxlan", "VNI": VNI}}))
        vtep.start_kube(self._lab, NODES[0], self._server.kubeconfig(folder / "kubeconfig"), net_conf, _OWN, settings)

    def requests(self) -> Counter[str]:
        """Return requests about Nodes by verb and part; a watch counts when it ends."""
        found = Counter[str]()
        for labels, value in samples(self._server.metrics(), "apiserver_request_total"):
            if labels["resource"] == "nodes":
                found["/".join(filter(None, (f"{labels['verb']} nodes", labels["subresource"])))] += int(value)
        return Counter({what: count for what, count in found.items() if what not in _OURS})

    def close(self) -> None:
        """Close the connection."""
        self._server.close()


def name_of(lease: Lease) -> str:
    """Return the name of a lease's Node."""
    return f"node-{str(lease.vtep.address).replace('.', '-')}"


def texts_of(lease: Lease) -> dict[str, str]:
    """Return flannel's annotations of a node with this lease."""
    return {
        f"{PREFIX}kube-subnet-manager": "true",
        f"{PREFIX}backend-type": "vxlan",
        f"{PREFIX}backend-data": json.dumps({"VNI": VNI, "VtepMAC": str(lease.vtep.mac)}, separators=(",", ":")),
        f"{PREFIX}public-ip": str(lease.vtep.address),
    }


def build_node(name: str, subnet: str, texts: Mapping[str, str]) -> dict[str, object]:
    """Return a Node as kubelet and the controllers would have written it."""
    resources = {"cpu": "8", "ephemeral-storage": "98831908Ki", "memory": "32873340Ki", "pods": "110"}
    return {
        "metadata": {
            "name": name,
            "annotations": dict(texts),
            "labels": {"kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "Hostname", "address": name}],
            "conditions": _conditions(),
            "images": [_image(number) for number in range(IMAGES)],
        },
    }


def _conditions() -> list[dict[str, str]]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        {"type": kind, "status": "False", "reason": f"KubeletHas{kind}", "lastHeartbeatTime": now}
        for kind in _CONDITIONS
    ]


def _image(number: int) -> dict[str, object]:
    image = f"registry.example.org/group/component-{number}"
    return {"names": [f"{image}@sha256:{number:064x}", f"{image}:v1.2.{number}"], "sizeBytes": 100_000_000 + number}


def expected(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the MAC behind each subnet by these Nodes, without node 1's."""
    return {
        node["spec"]["podCIDR"]: json.loads(node["metadata"]["annotations"][f"{PREFIX}backend-data"])["VtepMAC"]
        for node in nodes
        if node["metadata"]["name"] != _OWN
    }
