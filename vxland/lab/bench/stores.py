"""The stores of `vxland bench --leases`: what each must offer, and a real etcd."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import Protocol

from vxland.lab import etcd, vtep
from vxland.lab.bench.population import Edit
from vxland.lab.etcd import EtcdServer, Operation, StoredLease
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES
from vxland.model.lease import Address, Lease

NETWORK, SUBNET_LEN = IPv4Network("10.0.0.0/8"), 24

_SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class LeaseStore(Protocol):
    """A real store on node 2, and a client of it that is not vxland's. Methods raise StartError."""

    storm_rate: int
    """Changes a second of a storm: what the server manages beside vxland on two CPUs."""
    most: int
    """Edits in one commit."""
    beats: bool
    """True if nodes also write to their entries when their leases stay the same."""

    def commit(self, edits: Sequence[Edit]) -> None:
        """Write the edits, at most `most`, each of another node."""
        ...

    def beat(self, lease: Lease) -> None:
        """Write to a node's entry what changes nothing of its lease."""
        ...

    def expected(self) -> dict[str, str]:
        """Return the MAC behind each subnet by what is stored, without node 1."""
        ...

    def start_node(self, settings: str) -> None:
        """Start vxland on node 1, with these settings beside the store's."""
        ...

    def requests(self) -> Counter[str]:
        """Return the requests that the server has received so far, by kind, without those of commit()."""
        ...

    def close(self) -> None:
        """Close the connection; the lab ends the server."""
        ...


class EtcdLeases:
    """An etcd with flannel's keys."""

    storm_rate, most, beats = 500, etcd.MAX_OPERATIONS, False

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._server = EtcdServer(lab, NODES[1])
        self._server.put(etcd.CONFIG_KEY, etcd.network_config(NETWORK, SubnetLen=SUBNET_LEN))

    def commit(self, edits: Sequence[Edit]) -> None:
        """Write the edits in one transaction."""
        self._server.commit([operation(edit) for edit in edits])

    def beat(self, lease: Lease) -> None:
        """Do nothing: nodes renew the TTL of their keys, which no watch reports."""

    def expected(self) -> dict[str, str]:
        """Return the MAC behind each subnet."""
        return expected(self._server.list(etcd.LEASES), NODES[0].underlay)

    def start_node(self, settings: str) -> None:
        """Start `vxland flanneld`."""
        vtep.start_flanneld(self._lab, NODES[0], self._server.url, settings, pure=False)

    def requests(self) -> Counter[str]:
        """Return messages by gRPC method: one for each request, and for each renewal on a stream."""
        found = Counter[str]()
        for labels, value in samples(self._server.metrics(), "grpc_server_msg_received_total"):
            if labels["grpc_method"] not in {"Txn", "Put"}:
                found[labels["grpc_method"]] += int(value)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._server.close()


def samples(text: str, name: str) -> Iterable[tuple[dict[str, str], float]]:
    """Yield labels and value of each sample of a metric, in Prometheus's text format."""
    for found, labels, value in _SAMPLE.findall(text):
        if found == name:
            yield dict(_LABEL.findall(labels)), float(value)


def operation(edit: Edit) -> Operation:
    """Return the edit as an operation of a transaction."""
    key = etcd.lease_key(edit.lease.subnet)
    if edit.gone:
        return etcd.deleting(key)
    return etcd.putting(key, etcd.lease_value(edit.lease.vtep.address, edit.lease.vtep.mac))


def expected(records: Iterable[StoredLease], own: Address) -> dict[str, str]:
    """Return the MAC behind each subnet by the store's leases, without the node at `own`."""
    found = {}
    for record in records:
        value = json.loads(record.value)
        if value["PublicIP"] != str(own):
            address, _, length = record.key.rpartition("/")[2].rpartition("-")
            found[f"{address}/{length}"] = value["BackendData"]["VtepMAC"]
    return found
