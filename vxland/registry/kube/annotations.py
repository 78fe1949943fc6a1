"""flannel's annotations on Node objects: rendered for this node, read from all. Pure.

A Node is decoded JSON, and untrusted input. flannel: pkg/subnet/kube/annotations.go, kube.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeAlias

from vxland.model.errors import ConfigError
from vxland.model.lease import Address, Mac, Subnet, Vtep
from vxland.model.text import printable
from vxland.registry.backend_data import BACKEND, EXAMPLE, BackendData, build_data, read_address, read_data
from vxland.registry.entries import MAX_NAME
from vxland.registry.go_json import read_object, short, write

MAX_ADDRESSES = 8

Node: TypeAlias = Mapping[str, object]
"""A Node object, decoded from JSON."""

_PREFIX = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_-]+-)?")
_SUBNET = re.compile(r"[^/]+/[0-9]{1,3}")  # Go requires a prefix length, and accepts no netmask


@dataclass(frozen=True, slots=True)
class FamilyNames:
    """The annotations of one IP version."""

    data: str
    public_ip: str
    overwrite: str
    """Set by an administrator: published in place of the node's own address."""

    node_public_ip: str
    """Set by an administrator: the node's own address."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of all annotations; `families` by IP version."""

    managed: str
    backend_type: str
    families: Mapping[int, FamilyNames]

    @classmethod
    def under(cls, prefix: str) -> Names:
        """Return the names under a prefix, by flannel's rules; ConfigError with flannel's text."""
        key, start = "kube.annotation_prefix", prefix
        if prefix.count("/") > 1:
            raise ConfigError(key, prefix, "prefix can contain at most single slash")
        if "/" not in start:
            start += "/"
        if not start.endswith(("/", "-")):
            start += "-"
        if not _PREFIX.fullmatch(start):
            raise ConfigError(key, prefix, "prefix must be in a format: fqdn/[0-9a-z-_]*")
        return cls(
            managed=f"{start}kube-subnet-manager",
            backend_type=f"{start}backend-type",
            families={
                version: FamilyNames(
                    data=f"{start}backend-{v}data",
                    public_ip=f"{start}public-{ip}",
                    overwrite=f"{start}public-{ip}-overwrite",
                    node_public_ip=f"{start}node-public-{ip}",
                )
                for version, v, ip in ((4, "", "ip"), (6, "v6-", "ipv6"))
            },
        )


def render(names: Names, vni: int, vteps: Mapping[int, Vtep]) -> dict[str, str]:
    """Return the annotations of a node with these VTEPs, by IP version.

    The JSON has no blanks, because flanneld reads its own MAC by splitting the text (flannel: GetStoredMacAddresses).
    """
    texts = {names.managed: "true", names.backend_type: BACKEND}
    for version, vtep in vteps.items():
        family = names.families[version]
        texts[family.data] = write(build_data(vni, vtep.mac))
        texts[family.public_ip] = str(vtep.address)
    return texts


def name_of(node: object) -> str:
    """Return the Node's name, printable, of at most MAX_NAME characters; empty if it has none."""
    name = _mapping(_mapping(node).get("metadata")).get("name")
    return printable(name, MAX_NAME) if isinstance(name, str) else ""


def created_of(node: object) -> str:
    """Return the Node's creation time as the API server writes it; a text that sorts last if it has none."""
    created = _mapping(_mapping(node).get("metadata")).get("creationTimestamp")
    return created if isinstance(created, str) and created else "~"


def uid_of(node: object) -> str:
    """Return the uid, which distinguishes a Node from an earlier one of the same name; empty if it has none."""
    uid = _mapping(_mapping(node).get("metadata")).get("uid")
    return uid if isinstance(uid, str) else ""


def annotations_of(node: object) -> dict[str, str]:
    """Return the annotations that are text."""
    found = _mapping(_mapping(_mapping(node).get("metadata")).get("annotations"))
    return {key: value for key, value in found.items() if isinstance(value, str)}


def essence(node: Node, names: Names) -> Node:
    """Return the parts of a Node that are read later; the rest may be megabytes, and is not kept."""
    spec = _mapping(_mapping(node).get("spec"))
    listed = spec.get("podCIDRs")
    known = {names.managed, names.backend_type}.union(
        *((each.data, each.public_ip, each.overwrite, each.node_public_ip) for each in names.families.values())
    )
    return {
        "metadata": {
            "name": name_of(node),
            "uid": uid_of(node),
            "annotations": {key: text for key, text in annotations_of(node).items() if key in known},
        },
        "spec": {"podCIDR": spec.get("podCIDR"), "podCIDRs": listed[:3] if isinstance(listed, list) else None},
    }


def pod_subnets(node: object) -> dict[int, Subnet]:
    """Return the Node's podCIDRs by IP version, the last of each, as flannel; none while unassigned. ValueError."""
    spec = _mapping(_mapping(node).get("spec"))
    listed = spec.get("podCIDRs")
    texts = listed if isinstance(listed, list) and listed else [spec["podCIDR"]] if spec.get("podCIDR") else []
    if len(texts) > 2:
        raise ValueError(f"{len(texts)} podCIDRs: there can be one of IPv4 and one of IPv6")
    subnets = [_subnet(text) for text in texts]
    return {subnet.version: subnet for subnet in subnets}


def data_of(texts: Mapping[str, str], key: str) -> BackendData:
    """Return the backend data in the annotation `key`; ConfigError."""
    return read_data(read_object(_text(texts, key), key, f"write {EXAMPLE}"), key)


def address_of(texts: Mapping[str, str], key: str, version: int) -> Address:
    """Return the VTEP address in the annotation `key`; ConfigError."""
    text = _text(texts, key)
    try:
        return read_address(text, version)
    except ValueError as exc:
        raise ConfigError(key, short(text), f"annotate the Node with an IPv{version} address: {exc}") from None


def stored_macs(texts: Mapping[str, str], names: Names) -> dict[int, Mac]:
    """Return the MACs that a node has published before, by IP version; invalid ones are ignored."""
    macs = {}
    for version, family in names.families.items():
        try:
            mac = data_of(texts, family.data).mac
        except ConfigError:
            continue
        if mac is not None:
            macs[version] = mac
    return macs


def chosen_addresses(texts: Mapping[str, str], names: Names) -> dict[int, Address]:
    """Return the VTEP addresses that an administrator has set (node-public-ip), by IP version; ConfigError."""
    return _administrators(texts, {version: family.node_public_ip for version, family in names.families.items()})


def overwrites(texts: Mapping[str, str], names: Names) -> dict[int, Address]:
    """Return the addresses to publish instead (public-ip-overwrite), by IP version; ConfigError."""
    return _administrators(texts, {version: family.overwrite for version, family in names.families.items()})


def own_addresses(node: object, version: int) -> tuple[Subnet, ...]:
    """Return the addresses in the Node's status, MAX_ADDRESSES at most; invalid ones are ignored."""
    listed = _mapping(_mapping(node).get("status")).get("addresses")
    found: dict[Subnet, None] = {}
    for entry in map(_mapping, listed if isinstance(listed, list) else ()):
        if entry.get("type") in {"InternalIP", "ExternalIP"}:
            with suppress(ValueError):
                found[ip_network(read_address(entry.get("address"), version))] = None
    return tuple(found)[:MAX_ADDRESSES]


def _administrators(texts: Mapping[str, str], keys: Mapping[int, str]) -> dict[int, Address]:
    return {version: address_of(texts, key, version) for version, key in keys.items() if texts.get(key)}


def _text(texts: Mapping[str, str], key: str) -> str:
    if key not in texts:
        raise ConfigError(key, None, "it is missing")
    return texts[key]


def _subnet(text: object) -> Subnet:
    try:
        if isinstance(text, str) and _SUBNET.fullmatch(text) and "%" not in text:
            return ip_network(text, strict=False)
    except ValueError:
        pass
    raise ValueError(f"podCIDR {short(text)!r} is not a subnet")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
