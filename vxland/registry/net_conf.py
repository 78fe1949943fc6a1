"""net-conf.json, a flannel cluster's network configuration: a file in Kubernetes, the key `config` in etcd. Pure.

flannel: pkg/subnet/config.go and pkg/backend/vxlan/vxlan.go. It is parsed by Go's rules, see go_json.py. Values that
flannel would change silently, or pass to the kernel unchecked, are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from vxland.model.errors import ConfigError
from vxland.model.lease import MAX_VNI, Address, Subnet
from vxland.model.mtu import MIN_MTU, MIN_MTU_V6, OVERHEAD
from vxland.registry.go_json import MAX_UINT, GoObject, Reader, boolean, integer, members, read_object, short, string

_VNI = 1
_PORT = 8472  # the kernel's default, which flannel leaves in place
_EXAMPLE = '"Backend": {"Type": "vxlan"}'
_WHOLE = f'write a JSON object: {{"Network": "10.244.0.0/16", {_EXAMPLE}}}'


@dataclass(frozen=True, slots=True)
class Pool:
    """The subnets that an etcd registry assigns: of prefix `length`, from `first` to `last`, their base addresses."""

    network: Subnet
    length: int
    first: Address
    last: Address


@dataclass(frozen=True, slots=True)
class NetConf:
    """A network configuration with flannel's defaults filled in."""

    networks: tuple[Subnet, ...]
    """The pod network of each enabled family, IPv4 first."""

    pools: Mapping[int, Pool] = field(default_factory=dict)
    """The subnets to assign, by IP version; empty unless the registry assigns them."""

    vni: int = _VNI
    port: int = _PORT

    mtu: int | None = None
    """The underlay's MTU in place of the interface's (flannel: Backend.MTU); the overlay's is 50 or 70 less."""

    direct_routing: bool = False
    """Peers on the underlay's own link get plain routes, past the tunnel."""

    nftables: bool = False
    """Firewall rules use nftables instead of iptables."""

    ignored: tuple[str, ...] = ()
    """Backend options that are set and have no effect in vxland, such as Learning; the log names them."""

    text: str = field(default="", compare=False, repr=False)
    """The text that it was parsed from."""

    @property
    def by_version(self) -> dict[int, Subnet]:
        """The networks by IP version."""
        return {network.version: network for network in self.networks}

    def contains(self, subnet: Subnet) -> bool:
        """Return whether a subnet lies in the network of its IP version."""
        network = self.by_version.get(subnet.version)
        return network is not None and subnet.prefixlen >= network.prefixlen and subnet.network_address in network


def parse(text: str, source: str, *, pools: bool) -> NetConf:
    """Parse a text; ConfigError, whose key begins with `source`, if flannel would refuse it or vxland must.

    With `pools`, the registry assigns subnets: the Subnet* keys are checked, and give NetConf.pools.
    """
    top = members(read_object(text, source, _WHOLE), f"{source}: ", _TOP)
    families = [version for version, on in ((4, True), (6, False)) if top.get(f"EnableIPv{version}", on)]
    if not families:
        raise ConfigError(f"{source}: EnableIPv4", False, "none defined stack: write true here, or true for EnableIPv6")
    networks = {version: _network(top, source, version) for version in families}
    backend = _backend(top, source)
    mtu = backend.get("MTU")
    least = max({4: MIN_MTU, 6: MIN_MTU_V6}[version] + OVERHEAD[version] for version in families)
    if mtu is not None and not least <= mtu <= 65535:
        remedy = f"write the underlay's MTU, {least} to 65535, or leave it out: the pods have 50 less, or 70 over IPv6"
        raise ConfigError(f"{source}: Backend.MTU", mtu, remedy)
    return NetConf(
        networks=tuple(networks.values()),
        pools={version: _pool(top, source, network) for version, network in networks.items()} if pools else {},
        vni=backend.get("VNI", _VNI),
        port=backend.get("Port") or _PORT,
        mtu=mtu,
        direct_routing=backend.get("DirectRouting", False),
        nftables=top.get("EnableNFTables", False),
        ignored=tuple(name for name in ("GBP", "Learning") if backend.get(name)),
        text=text,
    )


def _backend_object(raw: object) -> GoObject:
    if isinstance(raw, GoObject):
        return raw
    raise ValueError(f"error decoding Backend property of config: write {_EXAMPLE}")


def _net4(raw: object) -> IPv4Network:
    try:
        address, prefix = _parts(raw)
        return IPv4Network((address, prefix), strict=False)
    except ValueError:
        raise ValueError("invalid IPv4 CIDR format: write one such as 10.244.0.0/16") from None


def _net6(raw: object) -> IPv6Network:
    try:
        address, prefix = _parts(raw)
        return IPv6Network((address, prefix), strict=False)
    except ValueError:
        raise ValueError("invalid CIDR address: write an IPv6 network, such as fd00:10:244::/56") from None


def _parts(raw: object) -> tuple[str, int]:
    """Return address and prefix length. Python alone would accept a lone address, and a netmask."""
    address, _, length = string(raw).partition("/")
    if "%" in address or not (length.isascii() and length.isdigit() and len(length) <= 3):
        raise ValueError
    return address, int(length)


def _address(family: type[IPv4Address | IPv6Address]) -> Reader:
    def read(raw: object) -> Address | None:
        try:
            address = ip_address(string(raw))
        except ValueError:
            address = None
        if not isinstance(address, family) or "%" in str(address):
            raise ValueError(
                f"invalid IP address format: write {'an IPv4' if family is IPv4Address else 'an IPv6'} one"
            )
        return address if int(address) else None  # flannel treats 0.0.0.0 and :: as not given

    return read


_TOP: Mapping[str, Reader] = {
    "EnableIPv4": boolean,
    "EnableIPv6": boolean,
    "EnableNFTables": boolean,
    "Network": _net4,
    "SubnetLen": integer(0, MAX_UINT),
    "SubnetMin": _address(IPv4Address),
    "SubnetMax": _address(IPv4Address),
    "IPv6Network": _net6,
    "IPv6SubnetLen": integer(0, MAX_UINT),
    "IPv6SubnetMin": _address(IPv6Address),
    "IPv6SubnetMax": _address(IPv6Address),
    "Backend": _backend_object,
}
_BACKEND: Mapping[str, Reader] = {  # MacPrefix and Name are for Windows, and flannel on Linux does not read them
    "VNI": integer(0, MAX_VNI),
    "Port": integer(0, 65535),
    "MTU": integer(0, MAX_UINT),
    "GBP": boolean,
    "Learning": boolean,
    "DirectRouting": boolean,
}


def _backend(top: Mapping[str, Any], source: str) -> dict[str, Any]:
    if "Backend" not in top:
        raise ConfigError(
            f"{source}: Backend",
            None,
            f"write {_EXAMPLE}: left out it means udp to flannel, and vxland supports vxlan alone",
        )
    pairs = top["Backend"]
    kind = members(pairs, f"{source}: Backend.", {"Type": string}).get("Type", "")
    if kind.lower() != "vxlan":
        remedy = f"unknown backend type: write {_EXAMPLE}, which is the one that vxland supports"
        raise ConfigError(f"{source}: Backend.Type", short(kind), remedy)
    try:
        return members(pairs, f"{source}: Backend.", _BACKEND)
    except ConfigError as exc:
        raise ConfigError(exc.key, exc.value, f"error decoding VXLAN backend config: {exc.remedy}") from exc


def _network(top: Mapping[str, Any], source: str, version: int) -> Subnet:
    name, example = {4: ("Network", "10.244.0.0/16"), 6: ("IPv6Network", "fd00:10:244::/56")}[version]
    network: Subnet | None = top.get(name)
    if network is None or (network.prefixlen == 0 and int(network.network_address) == 0):
        remedy = f"please define a correct {name} parameter in the flannel config, such as {example}"
        raise ConfigError(f"{source}: {name}", None if network is None else str(network), remedy)
    return network


@dataclass(frozen=True, slots=True)
class _Lengths:
    """flannel's prefix lengths: the longest of a subnet, the usual one, and the longest of a network."""

    longest: int
    usual: int
    smallest_network: int


_LENGTHS = {4: _Lengths(30, 24, 28), 6: _Lengths(126, 64, 124)}


def _pool(top: Mapping[str, Any], source: str, network: Subnet) -> Pool:
    """Return the subnets of `network` to assign. By default without the first, whose base is the network's own."""
    limits, prefix = _LENGTHS[network.version], "" if network.version == 4 else "IPv6"
    length = top.get(f"{prefix}SubnetLen") or 0
    key = f"{source}: {prefix}SubnetLen"
    if length > limits.longest:
        raise ConfigError(key, length, f"SubnetLen must be less than /{limits.longest + 1}")
    if 0 < length < network.prefixlen + 2:
        four = f"network must be able to accommodate at least four subnets: write {network.prefixlen + 2} or more"
        raise ConfigError(key, length, four)
    if length == 0 and network.prefixlen > limits.smallest_network:
        what = "IPv6Network" if prefix else "network"
        remedy = f"{what} is too small. Minimum useful network prefix is /{limits.smallest_network}"
        raise ConfigError(f"{source}: {prefix}Network", str(network), remedy)
    length = length or max(limits.usual, network.prefixlen + 2)
    size = 1 << network.max_prefixlen - length
    base, end = int(network.network_address), int(network.broadcast_address) + 1
    family = type(network.network_address)
    first = top.get(f"{prefix}SubnetMin") or family(base + size)
    last = top.get(f"{prefix}SubnetMax") or family(end - size)
    for name, address in ((f"{prefix}SubnetMin", first), (f"{prefix}SubnetMax", last)):
        if address not in network:
            remedy = f"{name} is not in the range of the {prefix}Network: write an address of {network}"
            raise ConfigError(f"{source}: {name}", str(address), remedy)
        if int(address) % size:
            remedy = f"{name} is not on a SubnetLen boundary: write {family(int(address) // size * size)}"
            raise ConfigError(f"{source}: {name}", str(address), remedy)
    if int(first) > int(last):
        remedy = f"write {last} or less: {prefix}SubnetMax is {last}, so that no subnet is left"
        raise ConfigError(f"{source}: {prefix}SubnetMin", str(first), remedy)
    return Pool(network, length, first, last)
