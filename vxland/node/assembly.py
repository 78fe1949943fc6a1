"""What a node is made of, chosen from its settings: the registry, the planes, their underlays. And its removal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from vxland.config import Settings, UnderlaySettings
from vxland.firewall.input_filter import remove_tables
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.rules import RulesWant
from vxland.firewall.sync import FirewallSync
from vxland.forwarding.io.fdstore import Inherited
from vxland.forwarding.io.tap import Tap, claim
from vxland.model.errors import ConfigError, OccupiedError, StartError, VxlandError
from vxland.model.kernel_state import Underlay, UnderlaySelector
from vxland.model.lease import Address, Mac, Subnet
from vxland.model.mtu import OVERHEAD
from vxland.netlink.client import Netlink
from vxland.node.plane import Plane
from vxland.node.plane_settings import planes
from vxland.node.registry_factory import make_registry
from vxland.node.rival import RivalWatch
from vxland.reconcile import subnet_env
from vxland.registry.net_conf import NetConf
from vxland.registry.protocol import Recall, Registry

_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")

OCCUPIED_S: Final = 2.0
"""Pause between two looks at whether another program has given back what the node needs."""

log = structlog.get_logger()


def with_stored_addresses(settings: Settings, stored: Recall) -> Settings:
    """The settings with the VTEP addresses that an administrator chose in the store, where there are such."""
    for version, suffix in ((4, ""), (6, "_v6")):  # flannel: the annotation goes before --public-ip
        if version in stored.addresses:
            chosen = {f"address{suffix}": stored.addresses[version], f"public_address{suffix}": None}
            settings = settings.model_copy(update={"underlay": settings.underlay.model_copy(update=chosen)})
    return settings


async def find_underlays(settings: Settings, conf: NetConf | None) -> list[Underlay]:
    """The underlay of each plane: one of a static node, one for each family of a flannel network.

    ConfigError where the settings fit nothing on this machine.
    """
    if conf is None:
        return [await find_underlay(settings)]
    with closing(Netlink()) as netlink:
        found = await _find_underlays(netlink, settings.underlay, [network.version for network in conf.networks])
    return list(found.values())


def choose_planes(
    settings: Settings, conf: NetConf | None, underlays: Iterable[Underlay]
) -> list[tuple[Settings, Underlay]]:
    """The planes to make over these underlays, each by its settings; ConfigError where they cannot be made."""
    found: dict[int, Underlay] = {underlay.address.version: underlay for underlay in underlays}
    if conf is None:
        return [(settings, underlay) for underlay in found.values()]
    for option in conf.ignored:
        log.warning("option_ignored", option=option)
    most = min(underlay.mtu for underlay in found.values())
    if conf.mtu is not None and conf.mtu > most:  # the kernel does the same to flanneld's device
        log.warning("backend_mtu_clamped", wanted=conf.mtu, mtu=most)
        conf = replace(conf, mtu=most)
    return [(each, found[version]) for version, each in planes(settings, conf).items()]


async def open_planes(
    stack: AsyncExitStack,
    planes: Sequence[Plane],
    registry: Registry,
    inherited: Inherited,
    rival: RivalWatch | None,
    enter: Callable[[str], None],
) -> None:
    """Open the planes, with the MACs that peers know, to be closed with `stack`.

    A node of a flannel cluster, which has a `rival`, waits for what another program has: the device, the port. A static
    one ends, OccupiedError: what is in its way is mostly a mistake, and its service manager starts it again. `enter()`
    notes what is waited for.
    """
    told: set[str] = set()
    advertised: dict[int, Address] = {version: plane.advertised for plane in planes for version in plane.versions}

    async def recall(version: int) -> Mac | None:
        return (await registry.recall(advertised)).macs.get(version)

    while True:
        async with AsyncExitStack() as attempt:
            try:
                for plane in planes:
                    await plane.open(attempt, inherited, partial(recall, plane.underlay.address.version), rival)
            except OccupiedError as exc:
                if rival is None:
                    raise
                enter(f"opening devices: {exc}")
                if exc.cause not in told:
                    told.add(exc.cause)
                    log.warning("node_waits", cause=exc.cause, remedy=exc.remedy)
            else:
                stack.push_async_exit(attempt.pop_all())
                return
        await asyncio.sleep(OCCUPIED_S)


def write_subnet_env(planes: Iterable[Plane], published: Iterable[Subnet], settings: Settings, path: Path) -> None:
    """Write the file that the CNI plugin reads. StartError."""
    networks = [network for plane in planes for network in plane.settings.networks]
    mtu = min(plane.mtu for plane in planes)  # one for both families: what the narrower tunnel carries
    if settings.overlay.subnet_env_mtu == "flannel":
        mtu = min(plane.mtu + OVERHEAD[plane.underlay.address.version] for plane in planes) - OVERHEAD[4]
    text = subnet_env.render(networks, published, mtu, ip_masq=settings.firewall.masquerade)
    try:
        subnet_env.write(path, text)
    except OSError as exc:
        cause = f"{path} cannot be written: {exc.strerror}"
        remedy = "make its directory writable, with room in it, or name another file with --subnet-file"
        raise StartError(cause, remedy) from exc


async def _find_underlays(netlink: Netlink, wished: UnderlaySettings, versions: Collection[int]) -> dict[int, Underlay]:
    """The underlay of each IP version. What is advertised is bound too where the interface has it, as in flannel."""
    selector = _selector(wished)
    underlays = await netlink.find_underlays(selector, versions)
    for version, public in ((4, wished.public_address), (6, wished.public_address_v6)):
        if public is None or version not in versions or version in selector.addresses:
            continue
        nearer = replace(selector, addresses={**selector.addresses, version: public})
        try:
            underlays = await netlink.find_underlays(nearer, versions)
        except ConfigError:
            continue  # a NAT before this node has it
        selector = nearer
    return underlays


def make_rules(settings: Settings, conf: NetConf | None, own: Iterable[Subnet]) -> FirewallSync | None:
    """The keeper of the firewall's rules; None for a static node that wants none: it runs no iptables to look.

    What an earlier run has left there is sweep_rules()'s.
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


async def sweep_rules(settings: Settings) -> None:
    """Remove the rules of a time when this node, which wants none now, wanted some."""
    try:
        if await FirewallSync(FirewallPrograms(), settings.firewall.resync_s).remove():
            log.info("firewall_swept")
    except VxlandError as exc:  # no rights, or a kernel without them
        log.debug("firewall_not_swept", family=None, error=str(exc))


async def remove_former_devices(planes: Iterable[Plane], subnets: Iterable[Subnet]) -> None:
    """Remove the TAPs that this node had under other names, after a change of VNI or device name.

    They would keep their routes to peers that are gone. One is known by an address that a vxland has given it, which
    belongs to one of `subnets`, those that this node holds or held; and no vxland runs it.
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
                    await remove_tables(FirewallPrograms(), device)
                    log.info("former_device_removed", device=device)
        except VxlandError as exc:  # another vxland runs it; or the kernel refuses, and says so elsewhere too
            log.debug("former_device_kept", error=str(exc))


async def cleanup(settings: Settings, subnet_file: Path) -> list[str]:
    """Remove the TAPs that a stopped vxland left, with routes and neighbours, and the rules; what there was of it."""
    found, firewall = [], FirewallPrograms()
    with closing(Netlink()) as netlink:
        for device in await _devices(settings, subnet_file):
            with closing(claim(device)):
                if await netlink.link_kind(device) == "tun":
                    Tap(device, offload=False).close()  # StartError where a running program holds it
                if await netlink.delete_device_state(device):
                    found.append(device)
            if await remove_tables(firewall, device):
                found.append(f"input filter of {device}")
    wanted = settings.firewall
    if (wanted.masquerade or wanted.forward) and await FirewallSync(firewall, wanted.resync_s).remove():
        found.append("firewall rules")
    return found


async def _devices(settings: Settings, subnet_file: Path) -> list[str]:
    """The names of a node's devices; a cluster's network tells those of its nodes."""
    registry = make_registry(settings, subnet_file, cached=False)
    try:
        conf = await registry.net_conf()
    finally:
        await registry.close()
    return [settings.device] if conf is None else [each.device for each in planes(settings, conf).values()]


async def find_underlay(settings: Settings) -> Underlay:
    """The underlay that the settings of a static node mean on this machine; ConfigError of the key at fault."""
    with closing(Netlink()) as netlink:
        return await netlink.find_either(_selector(settings.underlay))


async def is_here(settings: Settings) -> bool:
    """Whether this machine is the node of the settings, by what they name: an interface or an address that is here.

    Also where it has no such address and is in that address's subnet, and no peer of the file.
    """
    named = settings.underlay
    addresses = {named.address, named.address_v6, named.public_address, named.public_address_v6} - {None}
    if not (addresses or named.interface or named.interface_regex):
        return True  # what is not named is that of the default route, wherever that is
    with closing(Netlink()) as netlink:
        names = {link.name for link in await netlink.links()}
        here = await netlink.interface_addresses()
    own = {str(address.ip) for address in here}
    if names & set(named.interface) or own & {*map(str, addresses), *named.interface}:
        return True
    if named.interface or named.interface_regex or own & {str(lease.vtep.address) for lease in settings.peers}:
        return False
    return any(
        address.version == each.version and address in each.network for address in addresses if address for each in here
    )


def _selector(wished: UnderlaySettings) -> UnderlaySelector:
    addresses = {4: wished.address, 6: wished.address_v6}
    if wished.address is not None and wished.address.version == 6:  # of a static node
        addresses = {6: wished.address}
    return UnderlaySelector(
        wished.interface,
        wished.interface_regex,
        wished.can_reach,
        {version: address for version, address in addresses.items() if address is not None},
    )
