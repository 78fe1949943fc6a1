"""Host state of a node beside its devices: the firewall's rules, and subnet.env for the CNI plugin."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from vxland.config import Settings
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.rules import RulesWant
from vxland.firewall.sync import FirewallSync
from vxland.model.errors import StartError, VxlandError
from vxland.model.lease import Subnet
from vxland.model.mtu import OVERHEAD
from vxland.node.plane import Plane
from vxland.reconcile import subnet_env
from vxland.registry.net_conf import NetConf

_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")

log = structlog.get_logger()


def make_firewall(settings: Settings, conf: NetConf | None, own: Iterable[Subnet]) -> FirewallSync | None:
    """Return the firewall's rules for the subnets `own`; None for a static node that wants none.

    Such a node runs no iptables. The rules that an earlier run left are removed by remove_old_rules().
    """
    wanted = settings.firewall
    if conf is None and not (wanted.masquerade or wanted.forward):
        return None
    flavour = wanted.flavour if conf is None else "nftables" if conf.nftables else "iptables"
    if flavour == "iptables" and not _BRIDGE_NETFILTER.exists():  # flanneld refuses to start there
        log.warning("bridge_netfilter_missing", remedy="modprobe br_netfilter: Services on one node need it")
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


async def remove_old_rules(settings: Settings) -> None:
    """Remove the firewall's rules of earlier settings, on a node that wants none now. Does not fail."""
    try:
        if await FirewallSync(FirewallPrograms(), settings.firewall.resync_s).remove():
            log.info("firewall_swept")
    except VxlandError as exc:  # no permission, or a kernel without nftables and iptables
        log.debug("firewall_not_swept", family=None, error=str(exc))


def write_subnet_env(planes: Iterable[Plane], published: Iterable[Subnet], settings: Settings, path: Path) -> None:
    """Write the file that the CNI plugin reads. StartError."""
    networks = [network for plane in planes for network in plane.settings.networks]
    mtu = min(plane.mtu for plane in planes)  # one for both families: that of the narrower tunnel
    if settings.overlay.subnet_env_mtu == "flannel":
        mtu = min(plane.mtu + OVERHEAD[plane.underlay.address.version] for plane in planes) - OVERHEAD[4]
    text = subnet_env.render(networks, published, mtu, ip_masq=settings.firewall.masquerade)
    try:
        subnet_env.write(path, text)
    except OSError as exc:
        cause = f"{path} cannot be written: {exc.strerror}"
        remedy = "make its directory writable, with room in it, or name another file with --subnet-file"
        raise StartError(cause, remedy) from exc
