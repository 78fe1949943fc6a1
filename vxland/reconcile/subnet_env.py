"""subnet.env, the file through which flannel's CNI plugin learns this node's subnet and MTU."""

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
    """The file's text, as flanneld writes it: IPv4 before IPv6, and each subnet as its gateway, base + 1."""
    network_of = {network.version: network for network in networks}
    lines = []
    for subnet in sorted(subnets, key=lambda subnet: subnet.version):
        prefix = _PREFIX[subnet.version]
        lines += [
            f"{prefix}_NETWORK={network_of[subnet.version]}",
            f"{prefix}_SUBNET={subnet.network_address + 1}/{subnet.prefixlen}",
        ]
    # The plugin takes the literal true for true and anything else for false.
    lines += [f"FLANNEL_MTU={mtu}", f"FLANNEL_IPMASQ={'true' if ip_masq else 'false'}"]
    return "".join(f"{line}\n" for line in lines)


def read_networks(path: Path) -> dict[int, Subnet]:
    """The networks that the file names, as read() does the subnets; of several of a family, the last."""
    return _read(path, "NETWORK")


def read(path: Path) -> dict[int, Subnet]:
    """The subnets that the file names, by IP version; none where it cannot be read or says something else."""
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
    """Put `text` at `path`, whole or not at all, for everybody to read. OSError."""
    atomic_write(path, text, 0o644)
