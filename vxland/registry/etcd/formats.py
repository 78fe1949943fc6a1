"""Keys and values of flannel's etcd registry. Pure.

flannel: pkg/subnet/etcd/registry.go, pkg/subnet/subnet.go, pkg/lease/lease.go.

A key names the subnets of one node: `10.5.52.0-24`, or dual-stack `10.12.13.0-24&fd00:12:13::-56`, after the prefix
and `/subnets/`. There is no key of IPv6 alone. The value is JSON: the node's underlay addresses (PublicIP, PublicIPv6),
the backend (BackendType), and for vxlan the VNI and the device's MAC, by family.

The store is untrusted input. Each family of an entry is one of: a lease; no lease yet (a new Windows node has no MAC, a
reservation no backend); another backend's; or a problem, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from typing import Final

from vxland.model.errors import ConfigError
from vxland.model.lease import Address, Subnet, Vtep
from vxland.registry.backend_data import BACKEND, BackendData, build_data, foreign, judge, read_address, read_data
from vxland.registry.entries import Reading
from vxland.registry.go_json import GoObject, Reader, members, read_object, string, write
from vxland.registry.net_conf import NetConf

_KEY = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,2})(?:&([0-9a-f]*:[0-9a-f:.]*)-(\d{1,3}))?", re.ASCII)
_ADDRESS_OF: Final = {4: "PublicIP", 6: "PublicIPv6"}
_DATA_OF: Final = {4: "BackendData", 6: "BackendV6Data"}
_ZEROS: Final = {4: "0.0.0.0", 6: "::"}  # noqa: S104  (Go's zero values; nothing is bound)
_EXAMPLE = 'it is not such as {"PublicIP":"192.168.64.3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"..."}}'


@dataclass(frozen=True, slots=True)
class EtcdClaim:
    """One key and its value, parsed."""

    reading: Reading
    """The peer's leases and problems."""

    subnets: tuple[Subnet, ...] = ()
    """The subnets in the key, IPv4 first, whatever the value is. Empty if the key is invalid."""

    public: Mapping[int, Address] | None = None
    """The node's VTEP addresses by IP version, as far as given; None if the value is invalid."""

    backend: str = ""
    """BackendType in lower case; empty in a reservation."""


def build_key(subnets: Mapping[int, Subnet]) -> str:
    """Return the last part of a node's key, from its subnets by IP version."""
    return "&".join(
        f"{subnets[version].network_address}-{subnets[version].prefixlen}" for version in (4, 6) if version in subnets
    )


def parse_key(text: str) -> tuple[Subnet, ...]:
    """Return the subnets in the last part of a key, IPv4 first; ValueError."""
    match = _KEY.fullmatch(text)
    if match is None:
        raise ValueError("the key is not of the form 10.5.52.0-24 or 10.5.52.0-24&fd00:5:52::-64")
    v4, v4_length, v6, v6_length = match.groups()
    return (_subnet(v4, v4_length, 31), *((_subnet(v6, v6_length, 127),) if v6 else ()))  # flannel: 5 and 7 bits


def build_value(vteps: Mapping[int, Vtep], vni: int) -> bytes:
    """Return the value of this node's key, exactly as Go writes flannel's LeaseAttrs; `vteps` by subnet version."""
    value: dict[str, object] = {
        "PublicIP": str(vteps[4].address) if 4 in vteps else _ZEROS[4],
        "PublicIPv6": str(vteps[6].address) if 6 in vteps else None,
        "BackendType": BACKEND,
    }
    for version in sorted(vteps):
        value[_DATA_OF[version]] = build_data(vni, vteps[version].mac)
    return write(value).encode("ascii")


def read(key: str, value: bytes, conf: NetConf) -> EtcdClaim:
    """Parse an entry for a node of the network `conf`; never raises.

    A subnet outside the network is a problem, because it could draw away traffic that is not the overlay's. Subnets of
    a family that the network does not have are ignored.
    """
    try:
        subnets = parse_key(key)
    except ValueError as exc:
        return EtcdClaim(Reading(problem=str(exc)))
    claimed: dict[int, Subnet] = {subnet.version: subnet for subnet in subnets if subnet.version in conf.by_version}
    try:
        fields = members(read_object(value.decode(errors="replace"), "value", _EXAMPLE), "", _FIELDS)
    except ConfigError as exc:
        return EtcdClaim(Reading(unread=frozenset(claimed), problem=str(exc)), subnets)
    backend = fields.get("BackendType", "").lower()
    public = {version: fields[name] for version, name in _ADDRESS_OF.items() if fields.get(name) is not None}

    def claim(version: int) -> tuple[Subnet, Address, BackendData]:
        data = read_data(fields.get(_DATA_OF[version], GoObject()), _DATA_OF[version])
        if version not in public:
            raise ConfigError(_ADDRESS_OF[version], None, "it is missing")
        return claimed[version], public[version], data

    outside = [
        f"{subnet} is outside the network {conf.by_version[version]}"
        for version, subnet in claimed.items()
        if not conf.contains(subnet)
    ]
    if outside:
        reading = Reading(problem="; ".join(outside))
    elif not backend:  # a reservation has no data of its node
        reading = Reading(unread=frozenset(claimed))
    elif backend != BACKEND:
        reading = Reading(unreachable=foreign(backend))
    else:
        reading = judge(claimed, claim, conf)
    return EtcdClaim(reading, subnets, public, backend)


def _subnet(address: str, length: str, longest: int) -> Subnet:
    if not 1 <= int(length) <= longest:
        raise ValueError(f"the prefix length {length} is not one of 1 to {longest}")
    try:
        subnet = ip_network(f"{address}/{length}")
    except ValueError:
        raise ValueError(f"{address}-{length} is not a subnet") from None
    if subnet.is_multicast:
        raise ValueError(f"{address}-{length} is multicast")
    return subnet


def _public(version: int, raw: object) -> Address | None:
    return None if raw == _ZEROS[version] else read_address(raw, version)


def _anything(raw: object) -> object:
    return raw


_FIELDS: Final[Mapping[str, Reader]] = {
    "PublicIP": partial(_public, 4),
    "PublicIPv6": partial(_public, 6),
    "BackendType": string,
    "BackendData": _anything,  # of another backend it may be text
    "BackendV6Data": _anything,
}
