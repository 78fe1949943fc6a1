"""The data that nodes publish of their VTEPs in every store: backend, address, `{"VNI":1,"VtepMAC":"..."}`. Pure.

flannel: vxlan.go and device.go of pkg/backend/vxlan. It is parsed by Go's rules, see go_json.py, as untrusted input.
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

_MAC_FORMS = re.compile(  # the forms of 48 bits that Go's net.ParseMAC accepts
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class BackendData:
    """A VTEP without its address."""

    vni: int

    mac: Mac | None
    """None: not yet known; a Windows node starts so."""


def build_data(vni: int, mac: Mac) -> dict[str, object]:
    """Return the object for go_json.write()."""
    return {"VNI": vni, "VtepMAC": str(mac)}


def read_data(raw: object, key: str) -> BackendData:
    """Return the data of a value that go_json has parsed; ConfigError of `key` or of a name in it."""
    if not isinstance(raw, GoObject):
        raise ConfigError(key, short(raw), "it is not an object")
    found = members(raw, f"{key}.", _FIELDS)
    if "VtepMAC" not in found:
        raise ConfigError(f"{key}.VtepMAC", None, "it is missing")
    return BackendData(found.get("VNI", 0), found["VtepMAC"])


def read_address(raw: object, version: int) -> Address:
    """Return the underlay address of one node, of this IP version; ValueError."""
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
    """Return a node's leases in the network `conf`; `claim(version)` may raise ConfigError or ValueError."""
    leases: dict[int, Lease] = {}
    unread: set[int] = set()
    problems: list[str] = []
    unreachable = ""
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
            unreachable = f"its VNI is {data.vni} and ours {conf.vni}: neither takes the other's frames"
    return Reading(leases, frozenset(unread), "; ".join(problems), unreachable)


def _refuse_inside(address: Address, conf: NetConf) -> None:
    if any(address in network for network in conf.networks):
        raise ValueError(f"its VTEP address {address} lies in the overlay: no datagram could leave the tunnel")


def foreign(backend: str) -> str:
    """Return why a node of another backend cannot be reached."""
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
