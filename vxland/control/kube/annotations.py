"""flannel's annotations on a Node object: this node's rendered, anybody's read. Pure.

A Node is what JSON gave, and may hold anything; a reader here says ValueError, with the reason as text, and no more.
flannel: pkg/subnet/kube/annotations.go, kube.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

from vxland.errors import ConfigError
from vxland.model import Address, Mac, Subnet, Vtep

Node: TypeAlias = Mapping[str, object]
"""A Node object as JSON has it."""

BACKEND: Final = "vxlan"

_PREFIX = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_-]+-)?")
_SUBNET = re.compile(r"[^/]+/[0-9]{1,3}")  # Go wants a length, and no netmask
_MAC_FORMS = re.compile(  # those of 48 bits that Go's net.ParseMAC takes
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.IGNORECASE
)
_BROADCAST = IPv4Address("255.255.255.255")
_LONG = 60  # what is longer says no more in a reason than its beginning does


@dataclass(frozen=True, slots=True)
class FamilyNames:
    """The annotations of one IP version."""

    data: str
    public_ip: str
    overwrite: str
    """The administrator's: published instead of the address found."""

    node_public_ip: str
    """The administrator's: the address to use."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of all annotations; `families` by IP version."""

    managed: str
    backend_type: str
    families: Mapping[int, FamilyNames]

    @classmethod
    def under(cls, prefix: str) -> Names:
        """The names under a prefix, by flannel's rules; ConfigError in its words."""
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
    """What a node with these VTEPs, by IP version, publishes.

    No blanks in the JSON: flanneld finds its own MAC again by splitting the text. flannel: GetStoredMacAddresses.
    """
    texts = {names.managed: "true", names.backend_type: BACKEND}
    for version, vtep in vteps.items():
        family = names.families[version]
        texts[family.data] = json.dumps({"VNI": vni, "VtepMAC": str(vtep.mac)}, separators=(",", ":"))
        texts[family.public_ip] = str(vtep.address)
    return texts


def name_of(node: object) -> str:
    """The Node's name; empty where it has none."""
    name = _mapping(_mapping(node).get("metadata")).get("name")
    return name if isinstance(name, str) else ""


def uid_of(node: object) -> str:
    """What tells a Node from one of the same name that was there before; empty where it has none."""
    uid = _mapping(_mapping(node).get("metadata")).get("uid")
    return uid if isinstance(uid, str) else ""


def annotations_of(node: object) -> dict[str, str]:
    """The annotations that are text."""
    found = _mapping(_mapping(_mapping(node).get("metadata")).get("annotations"))
    return {key: value for key, value in found.items() if isinstance(value, str)}


def pod_subnets(node: object) -> dict[int, Subnet]:
    """The Node's podCIDRs by IP version; empty while none is assigned. The last of a version wins, as in flannel."""
    spec = _mapping(_mapping(node).get("spec"))
    listed = spec.get("podCIDRs")
    texts = listed if isinstance(listed, list) and listed else [spec["podCIDR"]] if spec.get("podCIDR") else []
    if len(texts) > 2:
        raise ValueError(f"{len(texts)} podCIDRs: there can be one of IPv4 and one of IPv6")
    subnets = [_subnet(text) for text in texts]
    return {subnet.version: subnet for subnet in subnets}


def parse_data(text: str) -> tuple[int | None, Mac | None]:
    """VNI and VTEP MAC of a backend-data annotation; no MAC: not yet known, as from Windows nodes at first."""
    try:
        data = json.loads(text, object_pairs_hook=_lowered)
    except (ValueError, RecursionError):
        raise ValueError(f"{shown(text)} is not JSON") from None
    match data:
        case {"vtepmac": str(digits)}:
            vni = data.get("vni", 0)  # Go's zero
        case _:
            raise ValueError(f"{shown(text)} has no VtepMAC")
    vni = vni if type(vni) is int else None
    if not digits:
        return vni, None
    if not _MAC_FORMS.fullmatch(digits):
        raise ValueError(f"{shown(digits)} is not a MAC")
    mac = Mac(int(re.sub("[-:.]", "", digits), 16))
    if not mac.is_unicast:
        raise ValueError(f"{shown(digits)} is no station's MAC")
    return vni, mac


def parse_address(text: str, version: int) -> Address:
    """The address of one VTEP."""
    try:
        address: Address | None = ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version:
        raise ValueError(f"{shown(text)} is not an IPv{version} address")
    strange = isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped)
    if strange or address.is_unspecified or address.is_multicast or address == _BROADCAST:
        raise ValueError(f"{shown(text)} is not the address of one node")
    return address


def stored_macs(texts: Mapping[str, str], names: Names) -> dict[int, Mac]:
    """The MACs that a node published before, by IP version; what cannot be read is as good as none."""
    macs = {}
    for version, family in names.families.items():
        try:
            _, mac = parse_data(texts.get(family.data, ""))
        except ValueError:
            continue
        if mac is not None:
            macs[version] = mac
    return macs


def chosen_addresses(texts: Mapping[str, str], names: Names) -> dict[int, Address]:
    """The VTEP addresses that an administrator chose (node-public-ip), by IP version; ConfigError."""
    return _administrators(texts, {version: family.node_public_ip for version, family in names.families.items()})


def overwrites(texts: Mapping[str, str], names: Names) -> dict[int, Address]:
    """The addresses that an administrator wants published (public-ip-overwrite), by IP version; ConfigError."""
    return _administrators(texts, {version: family.overwrite for version, family in names.families.items()})


def shown(value: object) -> str:
    """Hostile text as a reason shows it: short, and on one line."""
    text = ascii(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _administrators(texts: Mapping[str, str], keys: Mapping[int, str]) -> dict[int, Address]:
    found = {}
    for version, key in keys.items():
        if text := texts.get(key):
            try:
                found[version] = parse_address(text, version)
            except ValueError as exc:
                raise ConfigError(key, text, f"annotate the Node with an IPv{version} address: {exc}") from None
    return found


def _subnet(text: object) -> Subnet:
    try:
        if isinstance(text, str) and _SUBNET.fullmatch(text) and "%" not in text:
            return ip_network(text, strict=False)
    except ValueError:
        pass
    raise ValueError(f"podCIDR {shown(text)} is not a subnet")


def _lowered(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Go takes names in any case, and the last one of several."""
    return {name.lower(): value for name, value in pairs}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
