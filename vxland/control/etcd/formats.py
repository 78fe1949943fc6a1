"""Keys and values of flannel's etcd registry: pkg/subnet/etcd/registry.go, pkg/subnet/subnet.go, pkg/lease/lease.go.

A key names the subnets of one node: `10.5.52.0-24`, or dual-stack `10.12.13.0-24&fd00:12:13::-56`, after the prefix
and `/subnets/`. There is none of IPv6 alone. Its value is JSON: where datagrams for the node go (PublicIP, PublicIPv6),
what moves them (BackendType), and for vxlan the VNI and the device's MAC, by family.

Anybody may write anything there. What is read here is judged family by family, as one of: a lease; no lease yet (a
Windows node at first has no MAC, a reservation no backend); not ours (another backend); or a problem, with its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from vxland.control.gojson import Object, Reader, integer, members, read_object, string
from vxland.control.netconf import NetConf
from vxland.errors import ConfigError
from vxland.model import MAX_VNI, Address, Lease, Mac, Subnet, Vtep

BACKEND: Final = "vxlan"

_KEY = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,2})(?:&([0-9a-f:.]{2,45})-(\d{1,3}))?", re.ASCII)
_MAC_FORMS = re.compile(  # those of 48 bits that Go's net.ParseMAC takes
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.IGNORECASE
)
_ADDRESS_OF: Final = {4: "PublicIP", 6: "PublicIPv6"}
_DATA_OF: Final = {4: "BackendData", 6: "BackendV6Data"}
_BROADCAST = IPv4Address("255.255.255.255")
_SHOWN = 60  # characters of a stranger's text that are kept
_EXAMPLE = 'it is not such as {"PublicIP":"192.168.64.3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"..."}}'


@dataclass(frozen=True, slots=True)
class Reading:
    """What one key and its value say."""

    subnets: tuple[Subnet, ...] = ()
    """What the key claims, IPv4 first, whatever the value says. Empty where the key is not understood."""

    public: Mapping[int, Address] | None = None
    """The node's VTEP addresses by IP version, as far as given; None where the value is not understood."""

    backend: str = ""
    """BackendType in lower case; empty in a reservation."""

    leases: tuple[Lease, ...] = ()

    waiting: tuple[Subnet, ...] = ()
    """Subnets whose lease cannot be told from this value, and so stays what it was."""

    problem: str = ""
    """Why something here is not understood; the entry is quarantined for it."""

    vnis: tuple[int, ...] = ()
    """The VNI of each of `leases`."""


def by_version(conf: NetConf) -> dict[int, Subnet]:
    """The network of each enabled family."""
    return {network.version: network for network in conf.networks}


def build_key(subnets: Mapping[int, Subnet]) -> str:
    """The last part of a node's key, from its subnet of IP version 4 and, dual-stack, of 6."""
    return "&".join(
        f"{subnets[version].network_address}-{subnets[version].prefixlen}" for version in (4, 6) if version in subnets
    )


def parse_key(text: str) -> tuple[Subnet, ...]:
    """The subnets of the last part of a key, IPv4 first; ValueError."""
    match = _KEY.fullmatch(text)
    if match is None:
        raise ValueError("the key is not of the form 10.5.52.0-24 or 10.5.52.0-24&fd00:5:52::-64")
    v4, v4_length, v6, v6_length = match.groups()
    return (_subnet(v4, v4_length, 31), *((_subnet(v6, v6_length, 127),) if v6 else ()))  # flannel: 5 and 7 bits


def build_value(vteps: Mapping[int, Vtep], vni: int) -> bytes:
    """The value of this node's key, byte by byte as Go writes flannel's LeaseAttrs; `vteps` by the subnets' version."""
    value: dict[str, object] = {
        "PublicIP": str(vteps[4].address) if 4 in vteps else "0.0.0.0",
        "PublicIPv6": str(vteps[6].address) if 6 in vteps else None,
        "BackendType": BACKEND,
    }
    for version in sorted(vteps):
        value[_DATA_OF[version]] = {"VNI": vni, "VtepMAC": str(vteps[version].mac)}
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def read(key: str, value: bytes, networks: Mapping[int, Subnet]) -> Reading:
    """What an entry says to a node of `networks`, by IP version; never raises.

    A subnet outside them is a problem, since it could draw away traffic that is not the overlay's; those of a family
    that the network does not have are passed over.
    """
    try:
        subnets = parse_key(key)
    except ValueError as exc:
        return Reading(problem=str(exc))
    told = tuple(subnet for subnet in subnets if subnet.version in networks)
    try:
        fields = members(read_object(value.decode(errors="replace"), "value", _EXAMPLE), "", _FIELDS)
    except ConfigError as exc:
        return Reading(subnets, waiting=told, problem=str(exc))
    backend = fields.get("BackendType", "")[:_SHOWN].lower()
    public = {version: fields[name] for version, name in _ADDRESS_OF.items() if fields.get(name) is not None}
    for subnet in told:
        network = networks[subnet.version]
        if subnet.prefixlen < network.prefixlen or subnet.network_address not in network:
            return Reading(subnets, public, backend, problem=f"{subnet} is outside the network {network}")
    if backend != BACKEND:  # a reservation says nothing of its node; another backend that it is not ours to reach
        return Reading(subnets, public, backend, waiting=() if backend else told)
    return _vxlan(fields, subnets, told, public)


def _vxlan(
    fields: Mapping[str, Any], subnets: tuple[Subnet, ...], told: tuple[Subnet, ...], public: Mapping[int, Address]
) -> Reading:
    leases: list[Lease] = []
    vnis: list[int] = []
    waiting: list[Subnet] = []
    problems: list[str] = []
    for subnet in told:
        name, address_name = _DATA_OF[subnet.version], _ADDRESS_OF[subnet.version]
        try:
            data = members(_object(fields.get(name, Object())), f"{name}.", _DATA)
        except (ConfigError, ValueError) as exc:
            waiting.append(subnet)
            problems.append(str(exc))
            continue
        mac, address = data.get("VtepMAC"), public.get(subnet.version)
        if mac is not None and address is not None:
            leases.append(Lease(subnet, Vtep(address, mac)))
            vnis.append(data.get("VNI", 0))
            continue
        waiting.append(subnet)
        if "VtepMAC" not in data:  # an empty one is a Windows node's, which is still to find out
            problems.append(f"{name}.VtepMAC is missing")
        elif address is None:
            problems.append(f"{address_name} is missing")
    return Reading(subnets, public, BACKEND, tuple(leases), tuple(waiting), "; ".join(problems), tuple(vnis))


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


def _public(version: int) -> Reader:
    def parse(raw: object) -> Address | None:
        try:
            address = ip_address(string(raw))
        except ValueError:
            raise ValueError("it is not an IP address") from None
        scoped = isinstance(address, IPv6Address) and address.scope_id is not None
        if address.version != version or scoped or address.is_multicast or address == _BROADCAST:
            raise ValueError(f"it is not the IPv{version} address of one node")
        return None if address.is_unspecified else address  # Go's zero value

    return parse


def _mac(raw: object) -> Mac | None:
    text = string(raw)
    if not text:
        return None
    if not _MAC_FORMS.fullmatch(text):
        raise ValueError("it is not a MAC address")
    mac = Mac(int(re.sub("[-:.]", "", text), 16))
    if not mac.is_unicast:
        raise ValueError("it is not the MAC of one device")
    return mac


def _object(raw: object) -> Object:
    if not isinstance(raw, Object):
        raise ValueError("it is not an object")  # noqa: TRY004  (a Reader's refusals are ValueErrors)
    return raw


def _anything(raw: object) -> object:
    return raw


_FIELDS: Final[Mapping[str, Reader]] = {
    "PublicIP": _public(4),
    "PublicIPv6": _public(6),
    "BackendType": string,
    "BackendData": _anything,  # of another backend it may be text
    "BackendV6Data": _anything,
}
_DATA: Final[Mapping[str, Reader]] = {"VNI": integer(0, MAX_VNI), "VtepMAC": _mac}
