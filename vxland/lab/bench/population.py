"""The nodes of a large cluster: leases in a real etcd, changes to them, and the state of a kernel that follows."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Self

from vxland.lab import etcd, shell
from vxland.lab.bench import scale
from vxland.lab.etcd import EtcdServer, Operation, StoredLease
from vxland.lab.namespaces import Lab
from vxland.lab.topology import OVERLAY, LabNode
from vxland.model.errors import StartError
from vxland.model.lease import Address, Lease, Mac, Vtep

_RTMGRP_NEIGH = 4  # linux/rtnetlink.h
_BUFFER = 1 << 22
_MESSAGE = 1 << 16
_GENERATION = 1 << 16  # above the numbers of `scale.leases`, so that each MAC is new and unique


class Population:
    """`count` nodes that exist only as leases."""

    def __init__(self, count: int) -> None:
        self._leases = list(islice(scale.leases(), count))

    def settle(self, store: EtcdServer) -> None:
        """Write all leases, in transactions of the maximum size."""
        for at in range(0, len(self._leases), etcd.MAX_OPERATIONS):
            some = self._leases[at : at + etcd.MAX_OPERATIONS]
            store.commit([_put(one) for one in some])

    def mac(self, number: int) -> Mac:
        """Return the node's latest MAC."""
        return self._leases[number].vtep.mac

    def renewal(self, number: int) -> Operation:
        """Give a node another MAC, as if it recreated its device, or returned."""
        old = self._leases[number]
        self._leases[number] = replace(old, vtep=Vtep(old.vtep.address, Mac(old.vtep.mac.value + _GENERATION)))
        return _put(self._leases[number])

    def departure(self, number: int) -> Operation:
        """Remove a node."""
        return etcd.deleting(etcd.lease_key(self._leases[number].subnet))


def _put(lease: Lease) -> Operation:
    return etcd.putting(etcd.lease_key(lease.subnet), etcd.lease_value(lease.vtep.address, lease.vtep.mac))


def expected(records: Iterable[StoredLease], own: Address) -> dict[str, str]:
    """Return the MAC behind each subnet by the store's leases, without the node at `own`."""
    found = {}
    for record in records:
        value = json.loads(record.value)
        if value["PublicIP"] != str(own):
            address, _, length = record.key.rpartition("/")[2].rpartition("-")
            found[f"{address}/{length}"] = value["BackendData"]["VtepMAC"]
    return found


def programmed(lab: Lab, node: LabNode) -> dict[str, str]:
    """Return the MAC behind each subnet that flannel.1 routes, by its permanent neighbours; empty if there is none."""
    inside = ("ip", "-n", lab.namespace(node))
    macs = parse_neighbours(shell.attempt((*inside, "neigh", "show", "dev", OVERLAY, "nud", "permanent")).stdout)
    return parse_routes(shell.attempt((*inside, "route", "show", "dev", OVERLAY)).stdout, macs)


def parse_neighbours(text: str) -> dict[str, str]:
    """Return MACs by address from the output of `ip neigh`."""
    return {words[0]: words[2] for words in _lines(text) if words[1:2] == ["lladdr"]}


def parse_routes(text: str, macs: dict[str, str]) -> dict[str, str]:
    """Return the MAC of the next hop by subnet from the output of `ip route`."""
    return {words[0]: macs.get(words[2], "") for words in _lines(text) if words[1:2] == ["via"]}


def _lines(text: str) -> Iterable[list[str]]:
    return (line.split() for line in text.splitlines())


class NeighbourWatch:
    """The events of `ip monitor neigh` on a node, from the creation of this object."""

    def __init__(self, lab: Lab, node: LabNode) -> None:
        self._socket = shell.inside(lab.namespace(node), self._open)

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind((0, _RTMGRP_NEIGH))
        return sock

    def wait(self, mac: Mac, timeout_s: float) -> None:
        """Return once a neighbour has this MAC. StartError if none gets it in time."""
        mac_bytes = mac.value.to_bytes(6, "big")  # unique, so that a search for the bytes replaces parsing
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if mac_bytes in self._socket.recv(_MESSAGE):
                    return
            except TimeoutError:
                break
        raise StartError(
            f"a change of a peer's MAC to {mac} did not appear within {timeout_s:.0f} s", "see vxland's log"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
