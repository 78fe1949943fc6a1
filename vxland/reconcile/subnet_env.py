"""subnet.env: the file from which flannel's CNI plugin reads this node's subnet and MTU."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from vxland.model.atomic_write import atomic_write
from vxland.model.lease import Subnet

DEFAULT_PATH: Final = Path("/run/flannel/subnet.env")  # where the CNI plugin looks

_PREFIX = {4: "FLANNEL", 6: "FLANNEL_IPV6"}


def render(networks: Iterable[Subnet], subnets: Iterable[Subnet], mtu: int, *, ip_masq: bool) -> str:
    """Return the file's text as flanneld writes it: IPv4 before IPv6, each subnet as its gateway address, base + 1."""
    network_of = {network.version: network for network in networks}
    lines = []
    for subnet in sorted(subnets, key=lambda subnet: subnet.version):
        prefix = _PREFIX[subnet.version]
        lines += [
            f"{prefix}_NETWORK={network_of[subnet.version]}",
            f"{prefix}_SUBNET={subnet.network_address + 1}/{subnet.prefixlen}",
        ]
    # The plugin reads the literal true as true, and anything else as false.
    lines += [f"FLANNEL_MTU={mtu}", f"FLANNEL_IPMASQ={'true' if ip_masq else 'false'}"]
    return "".join(f"{line}\n" for line in lines)


def read_networks(path: Path) -> dict[int, Subnet]:
    """Return the networks in the file by IP version; the last one of a family if there are several."""
    return _read(path, "NETWORK")


def read(path: Path) -> dict[int, Subnet]:
    """Return the subnets in the file by IP version; none if it cannot be read or parsed."""
    return _read(path, "SUBNET")


def _read(path: Path, what: str) -> dict[int, Subnet]:
    found: dict[int, Subnet] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        name, _, value = line.partition("=")
        for version, prefix in _PREFIX.items():
            if name == f"{prefix}_{what}":
                with suppress(ValueError):
                    subnet = ip_network(value, strict=False)  # written with the gateway's address
                    if subnet.version == version:
                        found[version] = subnet
    return found


def write(path: Path, text: str) -> None:
    """Write the file atomically, readable for everybody. OSError."""
    atomic_write(path, text, 0o644)
