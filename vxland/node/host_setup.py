"""Host state of a node beside its devices: the firewall's rules, and subnet.env for the CNI plugin."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from vxland.config import Settings
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.rules import Flavour, RulesWant
from vxland.firewall.sync import FirewallSync
from vxland.model.errors import StartError, VxlandError
from vxland.model.lease import Subnet
from vxland.model.mtu import OVERHEAD
from vxland.node.plane import Plane
from vxland.reconcile import subnet_env
from vxland.registry.net_conf import NetConf

BRIDGE_NETFILTER: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")

log = structlog.get_logger()


def make_firewall(settings: Settings, conf: NetConf | None, own: Iterable[Subnet]) -> FirewallSync | None:
    """Return the firewall's rules for the subnets `own`; None for a static node that wants none.

    Such a node runs no iptables. The rules that an earlier run left are removed by remove_old_rules().
    """
    wanted, flavour = settings.firewall, rules_flavour(settings, conf)
    if flavour is None:
        return None
    if flavour == "iptables" and (remedy := bridge_netfilter_remedy()):  # flanneld refuses to start there
        log.warning("bridge_netfilter_missing", remedy=f"{remedy}: Services on one node need it")
    networks = settings.networks if conf is None else conf.networks
    sync = FirewallSync(FirewallPrograms(), wanted.resync_s)
    sync.set_want(
        RulesWant(
            networks,
            tuple(own),
            masquerade=wanted.masquerade,
            forward=wanted.forward,
            fully_random=wanted.fully_random,
        ),
        flavour,
    )
    return sync


def rules_flavour(settings: Settings, conf: NetConf | None) -> Flavour | None:
    """Return the program of the firewall's rules; None for a static node that wants none."""
    wanted = settings.firewall
    if conf is not None:
        return "nftables" if conf.nftables else "iptables"
    return wanted.flavour if wanted.masquerade or wanted.forward else None


def bridge_netfilter_remedy(path: Path = BRIDGE_NETFILTER) -> str:
    """Return the command that makes iptables see bridged packets; empty if it does."""
    try:
        return "sysctl -w net.bridge.bridge-nf-call-iptables=1" if path.read_text(encoding="ascii") == "0\n" else ""
    except OSError:
        return "modprobe br_netfilter"


async def remove_old_rules(settings: Settings) -> None:
    """Remove the firewall's rules of earlier settings, on a node that wants none now. Does not fail."""
    try:
        if await FirewallSync(FirewallPrograms(), settings.firewall.resync_s).remove():
            log.info("firewall_swept")
    except VxlandError as exc:  # no permission, or a kernel without nftables and iptables
        log.debug("firewall_not_swept", family=None, error=str(exc))


def pods_mtu(tunnels: Iterable[tuple[int, int]], settings: Settings) -> int:
    """Return the MTU for new pods, one for both families, by each tunnel's MTU and the IP version of its underlay."""
    sizes = list(tunnels)
    if settings.overlay.subnet_env_mtu == "flannel":
        return min(mtu + OVERHEAD[version] for mtu, version in sizes) - OVERHEAD[4]
    return min(mtu for mtu, _ in sizes)  # that of the narrower tunnel


def write_subnet_env(planes: Iterable[Plane], published: Iterable[Subnet], settings: Settings, path: Path) -> None:
    """Write the file that the CNI plugin reads. StartError."""
    networks = [network for plane in planes for network in plane.settings.networks]
    mtu = pods_mtu(((plane.mtu, plane.underlay.address.version) for plane in planes), settings)
    text = subnet_env.render(networks, published, mtu, ip_masq=settings.firewall.masquerade)
    try:
        subnet_env.write(path, text)
    except OSError as exc:
        cause = f"{path} cannot be written: {exc.strerror}"
        remedy = "make its directory writable, with room in it, or name another file with --subnet-file"
        raise StartError(cause, remedy) from exc
