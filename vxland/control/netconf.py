"""net-conf.json, the network as a flannel cluster defines it: a file in Kubernetes, the `config` key in etcd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vxland.model import Address, Subnet


@dataclass(frozen=True, slots=True)
class Pool:
    """The subnets an etcd registry hands out: of `length`, from the one at `first` to the one at `last`."""

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
    """Where subnets come from, by IP version; for registries that assign them."""

    vni: int = 1
    port: int = 8472

    mtu: int | None = None
    """The underlay's MTU where it is not the interface's (flannel: Backend.MTU); the overlay's is 50 or 70 less."""

    direct_routing: bool = False
    """Plain routes instead of the tunnel to peers on the underlay's own link."""

    nftables: bool = False
    """Rules go to nftables instead of iptables."""

    ignored: tuple[str, ...] = ()
    """Backend options that are set and have no effect in vxland, such as Learning; to be told in the log."""
