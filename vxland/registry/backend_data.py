"""What nodes tell each other of their VTEPs, whichever the store: backend, address, and `{"VNI":1,"VtepMAC":"..."}`.

flannel: vxlan.go and device.go of pkg/backend/vxlan. It is read by Go's rules, see gojson.py; anybody may have written
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from vxland.model.errors import ConfigError
from vxland.model.lease import MAX_VNI, Address, Lease, Mac, Subnet, Vtep, is_a_nodes
from vxland.registry.entries import Reading
from vxland.registry.go_json import GoObject, Reader, integer, members, short, string
from vxland.registry.net_conf import NetConf

BACKEND: Final = "vxlan"
EXAMPLE: Final = '{"VNI":1,"VtepMAC":"0a:1b:2c:3d:4e:5f"}'

_MAC_FORMS = re.compile(  # those of 48 bits that Go's net.ParseMAC takes
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class BackendData:
    """A VTEP, but for its address."""

    vni: int

    mac: Mac | None
    """None: not yet known, as by Windows nodes at first."""


def build_data(vni: int, mac: Mac) -> dict[str, object]:
    """The object, for gojson.write()."""
    return {"VNI": vni, "VtepMAC": str(mac)}


def read_data(raw: object, key: str) -> BackendData:
    """Of a value as gojson reads it; ConfigError of `key`, or what in it is at fault."""
    if not isinstance(raw, GoObject):
        raise ConfigError(key, short(raw), "it is not an object")
    found = members(raw, f"{key}.", _FIELDS)
    if "VtepMAC" not in found:
        raise ConfigError(f"{key}.VtepMAC", None, "it is missing")
    return BackendData(found.get("VNI", 0), found["VtepMAC"])


def read_address(raw: object, version: int) -> Address:
    """A Reader, but for `version`: the underlay address of one node."""
    try:
        address = ip_address(string(raw))
    except ValueError:
        raise ValueError("it is not an IP address") from None
    scoped = isinstance(address, IPv6Address) and address.scope_id
    if address.version != version or scoped or not is_a_nodes(address):
        raise ValueError(f"it is not the IPv{version} address of one node")
    return address


def judge(
    versions: Iterable[int], claim: Callable[[int], tuple[Subnet, Address, BackendData]], conf: NetConf
) -> Reading:
    """What a node claims for each IP version, in the network `conf`; `claim` may raise ConfigError or ValueError."""
    leases: dict[int, Lease] = {}
    unread: set[int] = set()
    problems: list[str] = []
    odd = ""
    for version in versions:
        try:
            subnet, address, data = claim(version)
            _refuse_inside(address, conf)
        except (ConfigError, ValueError) as exc:
            unread.add(version)
            problems.append(str(exc))
            continue
        if data.mac is None:
            unread.add(version)
            continue
        leases[version] = Lease(subnet, Vtep(address, data.mac))
        if data.vni != conf.vni:
            odd = f"its VNI is {data.vni} and ours {conf.vni}: neither takes the other's frames"
    return Reading(leases, frozenset(unread), "; ".join(problems), odd)


def _refuse_inside(address: Address, conf: NetConf) -> None:
    if any(address in network for network in conf.networks):
        raise ValueError(f"its VTEP address {address} lies in the overlay: no datagram could leave the tunnel")


def foreign(backend: str) -> str:
    """Why a node of another backend cannot be reached."""
    return f"its backend is {short(backend)!r}: vxland reaches {BACKEND} nodes only"


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


_FIELDS: Final[Mapping[str, Reader]] = {"VNI": integer(0, MAX_VNI), "VtepMAC": _mac}
