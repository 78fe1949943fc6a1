"""The underlay of a node: the interface and address on this machine that the settings select."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace

from vxland.config import Settings, UnderlaySettings
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import Underlay, UnderlaySelector
from vxland.netlink.client import Netlink
from vxland.registry.net_conf import NetConf
from vxland.registry.protocol import Recall


def with_stored_addresses(settings: Settings, stored: Recall) -> Settings:
    """Return the settings with the VTEP addresses that an administrator chose in the store, if any."""
    for version, suffix in ((4, ""), (6, "_v6")):  # flannel: the annotation goes before --public-ip
        if version in stored.addresses:
            chosen = {f"address{suffix}": stored.addresses[version], f"public_address{suffix}": None}
            settings = settings.model_copy(update={"underlay": settings.underlay.model_copy(update=chosen)})
    return settings


async def find_underlays(settings: Settings, conf: NetConf | None) -> list[Underlay]:
    """Return the underlay of each plane: one for a static node, one for each family of a flannel network.

    ConfigError names the key that selects nothing on this machine.
    """
    if conf is None:
        return [await find_underlay(settings)]
    if settings.underlay.sockets == "inherited":
        return [_elsewhere(settings.underlay, network.version) for network in conf.networks]
    with closing(Netlink()) as netlink:
        found = await _find_by_version(netlink, settings.underlay, [network.version for network in conf.networks])
    return list(found.values())


async def find_underlay(settings: Settings) -> Underlay:
    """Return the underlay of a static node; ConfigError of the key that selects nothing on this machine."""
    if settings.underlay.sockets == "inherited":
        return _elsewhere(settings.underlay)
    with closing(Netlink()) as netlink:
        return await netlink.find_either(_selector(settings.underlay))


async def is_here(settings: Settings) -> bool:
    """Return whether this machine is the node of the settings: whether it has an interface or address that they name.

    Also if it has none of the addresses, is in the subnet of one, and has no address of a peer in the file. If they
    name none, the default route selects the underlay, on any machine with an address: a container without a network
    has none.
    """
    named = settings.underlay
    if named.sockets == "inherited":
        return True  # it is not here in any case, and the settings describe it
    addresses = {named.address, named.address_v6, named.public_address, named.public_address_v6} - {None}
    with closing(Netlink()) as netlink:
        names = {link.name for link in await netlink.links()}
        here = await netlink.interface_addresses()
    if not (addresses or named.interface or named.interface_regex):
        return any(not (each.ip.is_loopback or each.ip.is_link_local) for each in here)
    own = {str(address.ip) for address in here}
    if names & set(named.interface) or own & {*map(str, addresses), *named.interface}:
        return True
    if named.interface or named.interface_regex or own & {str(lease.vtep.address) for lease in settings.peers}:
        return False
    return any(
        address.version == each.version and address in each.network for address in addresses if address for each in here
    )


def _elsewhere(wanted: UnderlaySettings, version: int | None = None) -> Underlay:
    """Return an underlay in another network namespace, as the settings describe it; `version` is of a flannel tunnel's.

    ConfigError if they have no address of it.
    """
    name = "address_v6" if version == 6 else "address"
    address = getattr(wanted, name)
    if address is None:
        remedy = f"give the IPv{version} address of this node's sockets: the cluster's network has IPv{version}"
        raise ConfigError(f"underlay.{name}", None, remedy)
    assert wanted.mtu is not None  # noqa: S101  (config/check.py requires it)
    return Underlay("", 0, address, wanted.mtu)


async def _find_by_version(
    netlink: Netlink, wanted: UnderlaySettings, versions: Collection[int]
) -> dict[int, Underlay]:
    """Return the underlay of each IP version. As in flannel, an advertised address is bound if the interface has it."""
    selector = _selector(wanted)
    underlays = await netlink.find_underlays(selector, versions)
    for version, public in ((4, wanted.public_address), (6, wanted.public_address_v6)):
        if public is None or version not in versions or version in selector.addresses:
            continue
        with_public = replace(selector, addresses={**selector.addresses, version: public})
        try:
            underlays = await netlink.find_underlays(with_public, versions)
        except ConfigError:
            continue  # a NAT in front of this node has it
        selector = with_public
    return underlays


def _selector(wanted: UnderlaySettings) -> UnderlaySelector:
    addresses = {4: wanted.address, 6: wanted.address_v6}
    if wanted.address is not None and wanted.address.version == 6:  # of a static node
        addresses = {6: wanted.address}
    return UnderlaySelector(
        wanted.interface,
        wanted.interface_regex,
        wanted.can_reach,
        {version: address for version, address in addresses.items() if address is not None},
    )
