"""Removal of what a node leaves on the host when it ends: devices, routes, neighbours, rules and filters."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import structlog

from vxland.config import Settings
from vxland.firewall.input_filter import remove_tables
from vxland.firewall.nat_test import remove_nat_rules
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.sync import FirewallSync
from vxland.forwarding.io.tap import Tap, claim
from vxland.model.errors import VxlandError
from vxland.model.lease import Subnet
from vxland.netlink.client import Netlink
from vxland.node.fast_path import removed
from vxland.node.plane import Plane
from vxland.node.plane_settings import planes_of
from vxland.node.registry_factory import make_registry

log = structlog.get_logger()


async def remove_former_devices(planes: Iterable[Plane], subnets: Iterable[Subnet]) -> None:
    """Remove the TAPs that this node had under other names, before its VNI or device name changed. Does not fail.

    They would keep their routes to peers that are gone. Such a TAP has an address that only vxland gives, the base of
    one of `subnets`, those that this node holds or held; and no vxland runs it.
    """
    ours = {plane.settings.device for plane in planes}
    bases = {subnet.network_address for subnet in subnets}
    with closing(Netlink()) as netlink:
        try:
            former = [name for name, marked in (await netlink.marked_taps()).items() if marked & bases]
            for device in former:
                if device not in ours:
                    with closing(claim(device)):
                        await netlink.delete_device_state(device)
                    removed(device)
                    await remove_tables(FirewallPrograms(), device)
                    log.info("former_device_removed", device=device)
        except VxlandError as exc:  # another vxland runs it; or the kernel refuses, which other events report
            log.debug("former_device_kept", error=str(exc))


async def cleanup(settings: Settings, subnet_file: Path) -> list[str]:
    """Remove the TAPs that a stopped vxland left, with routes and neighbours, and the rules; return what there was."""
    found, firewall = [], FirewallPrograms()
    with closing(Netlink()) as netlink:
        for device in await _devices(settings, subnet_file):
            with closing(claim(device)):
                if await netlink.link_kind(device) == "tun":
                    Tap(device, offload=False).close()  # StartError where a running program holds it
                if await netlink.delete_device_state(device):
                    found.append(device)
            if removed(device) and device not in found:
                found.append(f"fast path of {device}")
            if await remove_tables(firewall, device):
                found.append(f"input filter of {device}")
            if await remove_nat_rules(firewall, device):
                found.append(f"nat rules of a test of {device}")
    wanted = settings.firewall
    if (wanted.masquerade or wanted.forward) and await FirewallSync(firewall, wanted.resync_s).remove():
        found.append("firewall rules")
    return found


async def _devices(settings: Settings, subnet_file: Path) -> list[str]:
    """Return the names of a node's devices; in a flannel cluster the network's configuration has the VNI."""
    registry = make_registry(settings, subnet_file, cached=False)
    try:
        conf = await registry.net_conf()
    finally:
        await registry.close()
    return [settings.device] if conf is None else [each.device for each in planes_of(settings, conf).values()]
