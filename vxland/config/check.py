"""Checks between settings: nothing missing, no subnet outside the network, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network

from vxland.config.flannel import EtcdSettings
from vxland.config.section import STORES, ReadBy
from vxland.config.settings import Settings, shown
from vxland.model.errors import ConfigError
from vxland.model.lease import Address, Mac, Subnet
from vxland.model.mtu import MIN_MTU_V6
from vxland.model.source_check import SourceCheck

_LONGEST = {4: 30, 6: 126}  # flannel's own limit for SubnetLen: network, gateway and a pod must fit


def check(settings: Settings, peer_numbers: Sequence[int]) -> list[ConfigError]:
    """Return every problem between settings that are each valid; `peer_numbers` are the peers' places in the file."""
    common = [*_contradicting(settings), *_sockets(settings), *_unread(settings)]
    if settings.registry.kind not in STORES:
        return [*_lacking(settings), *common, *_static(settings, peer_numbers)]
    etcd = _etcd(settings.etcd) if settings.registry.kind == "etcd" else ()
    return [*common, *_defined_by_store(settings), *etcd]


def _static(settings: Settings, peer_numbers: Sequence[int]) -> list[ConfigError]:
    """Return the problems of a network that the file itself defines."""
    peers = [f"registry.peers[{number}]" for number in peer_numbers]
    own = list(_keyed("overlay.subnet", settings.overlay.subnet))
    own_vteps = _own_addresses(settings)
    theirs = [
        pair
        for key, peer in zip(peers, settings.registry.peers, strict=True)
        for pair in _keyed(f"{key}.subnet", peer.subnet)
    ]
    vteps = [(f"{key}.vtep", peer.vtep) for key, peer in zip(peers, settings.registry.peers, strict=True)]
    macs = [(f"{key}.mac", peer.mac) for key, peer in zip(peers, settings.registry.peers, strict=True)]
    return [
        *_own(settings, own),
        *_outside(settings.networks, own + theirs),
        *_overlapping(own + theirs),
        *_macs(settings.overlay.mac, macs),
        *_vteps(own_vteps, vteps),
        *_in_tunnel(own + theirs, own_vteps + vteps),
        *_sources(settings, peers),
    ]


def clashes(settings: Settings, address: Address, mac: Mac) -> list[ConfigError]:
    """Return peers with this node's own address or MAC, or another IP family, once both are known."""
    problems = []
    for number, peer in enumerate(settings.registry.peers):
        key = f"registry.peers[{number}]"
        if peer.vtep == address:
            problems.append(ConfigError(f"{key}.vtep", str(peer.vtep), "remove this peer: the address is this node's"))
        elif peer.vtep.version != address.version:
            remedy = f"use an IPv{address.version} address, as this node's {address} is"
            problems.append(ConfigError(f"{key}.vtep", str(peer.vtep), remedy))
        if peer.mac == mac:
            problems.append(ConfigError(f"{key}.mac", str(peer.mac), "give each node a MAC of its own: this is ours"))
    return problems


def _keyed(key: str, subnets: tuple[Subnet, ...]) -> Iterator[tuple[str, Subnet]]:
    for index, subnet in enumerate(subnets):
        yield (f"{key}[{index}]" if len(subnets) > 1 else key), subnet


def _own_addresses(settings: Settings) -> list[tuple[str, Address]]:
    underlay = settings.underlay
    named = (("underlay.address", underlay.address), ("underlay.public_address", underlay.public_address))
    return [(key, address) for key, address in named if address is not None]


def _lacking(settings: Settings) -> Iterator[ConfigError]:
    if not settings.overlay.network:
        yield ConfigError("overlay.network", None, "give the cluster's pod network, such as 10.244.0.0/16")
    if not settings.overlay.subnet:
        yield ConfigError(
            "overlay.subnet", None, "give this node's part of overlay.network: a static registry assigns none"
        )
    if settings.overlay.device is None and len(settings.device) > 15:
        yield ConfigError(
            "overlay.device", None, f"name it, with at most 15 characters: {settings.device} would be too long"
        )
    mtu = settings.overlay.mtu
    if mtu is not None and mtu < MIN_MTU_V6 and any(network.version == 6 for network in settings.networks):
        yield ConfigError("overlay.mtu", mtu, f"use {MIN_MTU_V6} or more: IPv6 needs it, RFC 8200 section 5")


def _contradicting(settings: Settings) -> Iterator[ConfigError]:
    wanted = settings.security.input_filter
    if wanted != "off" and settings.security.source_check == SourceCheck.OFF:
        yield ConfigError(
            "security.input_filter", wanted, "write off, or security.source_check: vtep: it drops unknown senders"
        )


_ELSEWHERE = "the interface is in another network namespace"
_UNSEEN = {
    "interface": _ELSEWHERE,
    "interface_regex": _ELSEWHERE,
    "can_reach": _ELSEWHERE,
    "source_ports": "flows are spread over the ports of the sockets",
    "df": "vxland does not see path MTUs there, and could not report them to pods",
}
"""Settings of the underlay that `sockets: inherited` has no use for, and why."""


def _sockets(settings: Settings) -> Iterator[ConfigError]:
    """Yield settings that contradict `underlay.sockets`."""
    underlay, wanted = settings.underlay, "underlay.sockets"
    if underlay.sockets == "own":
        if underlay.mtu is not None:
            remedy = f"leave it out, or write inherited as {wanted}: otherwise the interface's own MTU counts"
            yield ConfigError("underlay.mtu", underlay.mtu, remedy)
        return
    if underlay.address is None and underlay.address_v6 is None:
        remedy = f"give the address that the sockets are bound to: with {wanted} inherited vxland sees no interface"
        yield ConfigError("underlay.address", None, remedy)
    if underlay.mtu is None:
        remedy = f"give the MTU of the interface there, such as 1500: with {wanted} inherited vxland does not see it"
        yield ConfigError("underlay.mtu", None, remedy)
    for name, why in _UNSEEN.items():
        if getattr(underlay, name) != type(underlay).model_fields[name].default:
            remedy = f"leave it out with {wanted} inherited: {why}"
            yield ConfigError(f"underlay.{name}", shown(getattr(underlay, name)), remedy)
    if (found := settings.security.input_filter) != "off":
        remedy = f"write off with {wanted} inherited: datagrams arrive in a namespace whose rules vxland cannot change"
        yield ConfigError("security.input_filter", found, remedy)


def _unread(settings: Settings) -> Iterator[ConfigError]:
    """Yield keys of the file that a registry of this kind does not read."""
    kind = settings.registry.kind
    for section_name, section_field in Settings.model_fields.items():
        section = getattr(settings, section_name)
        for name, field in type(section).model_fields.items():
            limits = [each for each in (*section_field.metadata, *field.metadata) if isinstance(each, ReadBy)]
            if name in section.model_fields_set and (other := next((e for e in limits if kind not in e.kinds), None)):
                remedy = f"leave it out with registry.kind {kind}: {other.why}"
                yield ConfigError(f"{section_name}.{name}", shown(getattr(section, name)), remedy)


def _defined_by_store(settings: Settings) -> Iterator[ConfigError]:
    kind, underlay = settings.registry.kind, settings.underlay
    if peers := len(settings.registry.peers):
        remedy = f"leave them out with registry.kind {kind}: the store knows the nodes"
        yield ConfigError("registry.peers", f"{peers} of them", remedy)
    for name, version in (("address", 4), ("public_address", 4), ("address_v6", 6), ("public_address_v6", 6)):
        address = getattr(underlay, name)
        if address is not None and address.version != version:
            fitting = name + "_v6" if version == 4 else name.removesuffix("_v6")
            remedy = f"write it as underlay.{fitting}: with registry.kind {kind} each family has a tunnel of its own"
            yield ConfigError(f"underlay.{name}", str(address), remedy)


def _etcd(etcd: EtcdSettings) -> Iterator[ConfigError]:
    secret = "password_file" if etcd.password_file else "password"
    for one, other in (("cert_file", "key_file"), ("username", secret)):
        for here, there in ((one, other), (other, one)):
            if getattr(etcd, here) and not getattr(etcd, there):
                yield ConfigError(f"etcd.{there}", None, f"give it too, or leave etcd.{here} out: they go together")
    if etcd.password and etcd.password_file:
        yield ConfigError("etcd.password_file", str(etcd.password_file), "leave it out, or etcd.password")
    if etcd.ca_file or etcd.cert_file or etcd.key_file:
        for number, url in enumerate(etcd.endpoints):
            if not url.startswith("https:"):
                key = f"etcd.endpoints[{number}]" if len(etcd.endpoints) > 1 else "etcd.endpoints"
                yield ConfigError(key, url, "write https://, or name no certificates")


def _own(settings: Settings, own: list[tuple[str, Subnet]]) -> Iterator[ConfigError]:
    for key, subnet in own:
        longest = _LONGEST[subnet.version]
        if subnet.prefixlen > longest:
            yield ConfigError(key, str(subnet), f"use /{longest} or shorter: the gateway and the pods need addresses")
    families = {subnet.version for _, subnet in own}
    needed = {network.version for network in settings.networks}
    for network in settings.networks:
        if own and families < needed and network.version not in families:
            yield ConfigError(
                "overlay.subnet", str(own[0][1]), f"add this node's part of {network}, or remove that network"
            )


def _outside(networks: tuple[Subnet, ...], subnets: list[tuple[str, Subnet]]) -> Iterator[ConfigError]:
    by_family = {network.version: network for network in networks}
    for key, subnet in subnets if networks else ():
        network = by_family.get(subnet.version)
        if network is None:
            there = " or ".join(map(str, networks))
            remedy = f"use a part of {there}, or add an IPv{subnet.version} network to overlay.network"
            yield ConfigError(key, str(subnet), remedy)
        elif subnet.network_address not in network or subnet.prefixlen < network.prefixlen:
            yield ConfigError(key, str(subnet), f"use a part of {network}, the overlay.network")


def _overlapping(subnets: list[tuple[str, Subnet]]) -> Iterator[ConfigError]:
    # Two prefixes overlap only if one contains the other. In this order a prefix is followed by those that it contains.
    order = sorted(
        range(len(subnets)),
        key=lambda at: (subnets[at][1].version, int(subnets[at][1].network_address), subnets[at][1].prefixlen),
    )
    found: dict[int, int] = {}
    holders: list[int] = []
    for at in order:
        subnet = subnets[at][1]
        while holders and subnet.network_address not in subnets[holders[-1]][1]:
            holders.pop()
        for holder in holders:
            later, earlier = max(at, holder), min(at, holder)  # the later entry of the file is at fault
            found[later] = min(found.get(later, earlier), earlier)
        if not holders or subnet != subnets[holders[-1]][1]:  # of equal subnets only the first is compared
            holders.append(at)
    for later, earlier in sorted(found.items()):
        key, subnet = subnets[later]
        other_key, other = subnets[earlier]
        whose = f"this overlaps {other} of {other_key}"
        yield ConfigError(key, str(subnet), f"give each node a subnet of its own: {whose}{_hint(other_key)}")


def _hint(key: str) -> str:
    return "" if key.startswith("registry.") else ", this node's; peers are the other nodes only"


def _macs(own: Mac | None, macs: list[tuple[str, Mac]]) -> Iterator[ConfigError]:
    first: dict[Mac, str] = {} if own is None else {own: "overlay.mac"}
    for key, mac in macs:
        if mac in first:
            whose = f"this is {first[mac]}{_hint(first[mac])}"
            yield ConfigError(key, str(mac), f"give each node a MAC of its own: {whose}")
        first.setdefault(mac, key)


def _vteps(own: list[tuple[str, Address]], vteps: list[tuple[str, Address]]) -> Iterator[ConfigError]:
    first: dict[Address, str] = {}
    for key, address in own:
        first.setdefault(address, key)  # address and public_address may be the same: both are this node's
    for key, address in vteps:
        if address in first:
            whose = f"this is {first[address]}{_hint(first[address])}"
            yield ConfigError(key, str(address), f"give each node a VTEP address of its own: {whose}")
        first.setdefault(address, key)
    named = own + vteps
    for key, address in named[1:]:
        other_key, other = named[0]
        if address.version != other.version:
            remedy = f"use an IPv{other.version} address, as {other_key} does: VTEPs share one family"
            yield ConfigError(key, str(address), remedy)


def _sources(settings: Settings, peers: list[str]) -> Iterator[ConfigError]:
    own = settings.underlay.address and ip_network(settings.underlay.address)
    for key, peer in zip(peers, settings.registry.peers, strict=True):
        for where, source in _keyed(f"{key}.sources", peer.sources):
            if source.version != peer.vtep.version:
                yield ConfigError(where, str(source), f"use IPv{peer.vtep.version} sources, as vtep is")
            elif source == own:
                yield ConfigError(where, str(source), "remove it: underlay.address is this node's own")


def _in_tunnel(subnets: list[tuple[str, Subnet]], vteps: list[tuple[str, Address]]) -> Iterator[ConfigError]:
    known = {subnet: key for key, subnet in subnets}
    lengths = {(subnet.version, subnet.prefixlen) for subnet in known}
    for key, vtep in vteps:
        for length in sorted(length for version, length in lengths if version == vtep.version):
            subnet = ip_network((vtep, length), strict=False)
            if subnet in known:
                remedy = f"use an address outside {subnet} of {known[subnet]}: else the tunnel would run through itself"
                yield ConfigError(key, str(vtep), remedy)
                break
