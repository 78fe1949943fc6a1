"""A peer's leases, read from its Node object. Pure.

Each IP version is read on its own: flannel ignores a dual-stack peer if its IPv6 half is missing, and does not notice
changes of one half.
"""

from __future__ import annotations

from dataclasses import replace

from vxland.model.lease import Address, Subnet
from vxland.registry.backend_data import BACKEND, BackendData, foreign, judge
from vxland.registry.entries import Reading
from vxland.registry.kube.annotations import (
    Names,
    address_of,
    annotations_of,
    data_of,
    name_of,
    own_addresses,
    pod_subnets,
)
from vxland.registry.net_conf import NetConf


def read(node: object, names: Names, conf: NetConf) -> Reading:
    """Parse `node` for a node of the network `conf`; never raises."""
    texts = annotations_of(node)
    if texts.get(names.managed) != "true":
        return Reading()
    versions = frozenset(conf.by_version)
    backend = texts.get(names.backend_type, "")
    if not backend:
        return Reading(unread=versions, problem=f"{names.backend_type}: None: it is missing")
    if backend != BACKEND:
        return Reading(unreachable=foreign(backend))
    try:
        subnets = pod_subnets(node)
    except ValueError as exc:
        return Reading(unread=versions, problem=str(exc))

    def claim(version: int) -> tuple[Subnet, Address, BackendData]:
        family = names.families[version]
        subnet = _fitting(subnets.get(version), version, conf)
        return subnet, address_of(texts, family.public_ip, version), data_of(texts, family.data)

    reading = judge(sorted(versions), claim, conf)
    leases = {version: replace(lease, node=name_of(node)) for version, lease in reading.leases.items()}
    # An overwrite is where datagrams go; the peer's own may come from the addresses of its Node.
    overwritten = {version for version in reading.leases if texts.get(names.families[version].overwrite)}
    for version in overwritten:
        leases[version] = replace(leases[version], sources=own_addresses(node, version))
    return replace(reading, leases=leases)


def _fitting(subnet: Subnet | None, version: int, conf: NetConf) -> Subnet:
    if subnet is None:
        raise ValueError(f"it has no IPv{version} podCIDR")
    if not conf.contains(subnet):
        raise ValueError(f"podCIDR {subnet} is outside the network {conf.by_version[version]}")
    return subnet
