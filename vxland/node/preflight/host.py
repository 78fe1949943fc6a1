"""Rules about the host: what drops or disturbs packets of pods although vxland runs.

A running vxland reports these findings, and the rest by events that have their own checks: `pods_not_forwarded`,
`bridge_netfilter_missing`, `fast_path_off`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Final

import structlog

from vxland.config import Settings
from vxland.kernel.network_manager import Device, managed
from vxland.kernel.reverse_path import strict_key
from vxland.kernel.udev_links import mac_policy
from vxland.model.errors import VxlandError
from vxland.model.finding import Finding
from vxland.model.text import link_name
from vxland.netlink.client import Netlink
from vxland.netlink.parse import LinkInfo
from vxland.node.host_setup import pods_mtu
from vxland.node.preflight.target import Target

_ROUTES: Final = 64
"""VTEPs whose routes are looked up."""

_BRIDGE: Final = "cni0"
"""The bridge that flannel's CNI plugin makes; a node without pods has none yet."""

log = structlog.get_logger()


class HostReport:
    """Logs what hurts on this host: each finding once, however often the node starts again."""

    def __init__(self) -> None:
        self._logged: set[Finding] = set()

    async def log(self, netlink: Netlink, targets: Sequence[Target], settings: Settings) -> None:
        """Log the findings that are new. Does not fail."""
        try:
            found = await host_findings(netlink, targets, settings)
        except (VxlandError, OSError) as exc:  # a device or route changes at this moment
            log.debug("host_not_examined", error=str(exc))
            return
        for each in found:
            if each not in self._logged:
                self._logged.add(each)
                log.warning(
                    "host_problem", subject=each.subject, found=each.found, effect=each.effect, remedy=each.remedy
                )


async def host_findings(netlink: Netlink, targets: Sequence[Target], settings: Settings) -> list[Finding]:
    """Return what hurts on this host now. VxlandError, OSError."""
    found = [finding for each in targets async for finding in _reverse_path(netlink, each)]
    bridges = await _bridges(netlink, targets)
    found += _bridge_mtus(bridges, targets, settings)
    found += await _former_gateway(netlink, targets)
    return [*found, *await asyncio.to_thread(_network_manager, bridges, targets)]


def mac_policies(targets: Iterable[Target]) -> Iterator[Finding]:
    """Yield a finding for each device whose MAC udev changes at first. vxland undoes that, so it is no event."""
    for device in (each.device for each in targets):
        if (found := mac_policy(device)) is not None:
            yield Finding(
                "warning",
                "mac_policy",
                f"udev may change the MAC of a new {device}: MACAddressPolicy={found.policy} in {found.path}",
                "vxland sets its own MAC again, and until then the node drops what other nodes send to its pods",
                f"write to /etc/systemd/network/10-vxland.link: [Match] OriginalName={device} "
                "[Link] MACAddressPolicy=none, each on a line",
            )


async def _reverse_path(netlink: Netlink, target: Target) -> AsyncIterator[Finding]:
    device, underlay = target.device, target.underlay
    if any(network.version == 4 for network in target.settings.networks) and (key := strict_key(device)):
        yield Finding(
            "warning",
            "rp_filter",
            f"the reverse path filter is strict on {device}",
            "packets are dropped whose source this node does not reach through it: those that another node's own "
            "programs send from its underlay address, or that it forwards without masquerading",
            f"sysctl -w {key}=2",
        )
    if underlay.address.version != 4 or underlay.elsewhere:
        return
    interface = socket.if_indextoname(underlay.index)
    if not (key := strict_key(interface)):
        return
    routes = await netlink.interfaces_to(target.vteps[:_ROUTES], underlay.vrf)
    for vtep, index in routes.items():
        if index != underlay.index:
            yield Finding(
                "warning",
                "rp_filter",
                f"the reverse path filter is strict on {link_name(interface)}, and packets to the VTEP {vtep} leave "
                f"from {link_name(socket.if_indextoname(index))}",
                f"datagrams of that node that arrive on {link_name(interface)} are dropped before vxland reads them",
                f"sysctl -w {key}=2, or correct the route",
            )
            return


async def _bridges(netlink: Netlink, targets: Iterable[Target]) -> Mapping[str, LinkInfo]:
    """Return the interfaces that lead to this node's pods, by name."""
    found = {}
    for own in (own for each in targets for own in each.own):
        name = await netlink.interface_to(own[min(2, own.num_addresses - 1)])
        if name and (link := await netlink.link(name)) is not None:
            found[name] = link
    return found


def _bridge_mtus(bridges: Mapping[str, LinkInfo], targets: Sequence[Target], settings: Settings) -> Iterator[Finding]:
    if not targets:
        return
    most = pods_mtu(((each.mtu, each.underlay.address.version) for each in targets), settings)
    for name, link in bridges.items():
        if link.mtu > most:
            yield Finding(
                "warning",
                "mtu",
                f"{link_name(name)} has the MTU {link.mtu}, and the overlay carries {most}",
                "pods with that MTU send packets that are too big: they get ICMP errors, and where their programs or "
                "policies ignore these, connections hang",
                f"let the CNI plugin read FLANNEL_MTU of subnet.env ({most}), and make the node's pods again",
            )


async def _former_gateway(netlink: Netlink, targets: Sequence[Target]) -> list[Finding]:
    """Find a bridge that a former subnet of this node has left: a Node that was deleted and added gets another one."""
    own = [subnet for each in targets for subnet in each.own]
    if not own or (link := await netlink.link(_BRIDGE)) is None:
        return []
    for gateway in await netlink.addresses_on(link.index):
        pods = any(gateway.ip in network for each in targets for network in each.settings.networks)
        if pods and not any(gateway.ip in subnet for subnet in own):
            return [
                Finding(
                    "warning",
                    "bridge",
                    f"{_BRIDGE} has the address {gateway}, which is in no subnet of this node: "
                    f"{', '.join(map(str, own))}",
                    "the bridge plugin does not change it, and attaches no new pod to this node",
                    f"ip link delete {_BRIDGE}",
                )
            ]
    return []


def _network_manager(bridges: Iterable[str], targets: Iterable[Target]) -> list[Finding]:
    devices = [*(Device(each.device, "tun") for each in targets)]
    devices += [Device(name, "bridge") for name in bridges or (_BRIDGE,)]
    if not (names := managed(tuple(devices))):
        return []
    shown = " and ".join(map(link_name, names))
    return [
        Finding(
            "warning",
            "network_manager",
            f"NetworkManager may manage {shown}: its configuration does not exclude them",
            "it may take their addresses and routes away; vxland restores those of its own device, and nobody those of "
            "the bridge",
            "write to /etc/NetworkManager/conf.d/vxland.conf: [keyfile] "
            f"unmanaged-devices+={';'.join(f'interface-name:{link_name(name)}' for name in names)}, on two lines; "
            "then nmcli general reload",
        )
    ]
