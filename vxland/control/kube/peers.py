"""What Node objects say of the peers, and what that changes. Pure.

read() judges one Node, each IP version for itself; View keeps the judgements and tells what has changed since it was
last asked. A Node that cannot be read keeps the leases it had. flannel drops a dual-stack peer whole where its IPv6
half is missing, and misses changes of one half; not so here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeVar

from vxland.control.kube.annotations import (
    BACKEND,
    Names,
    annotations_of,
    name_of,
    parse_address,
    parse_data,
    pod_subnets,
    shown,
)
from vxland.model import Delta, Lease, Snapshot, Subnet, Vtep

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a peer has to fit in with: the cluster's networks by IP version, and what this node holds."""

    names: Names
    networks: Mapping[int, Subnet]
    vni: int
    own: frozenset[Subnet] = frozenset()


@dataclass(frozen=True, slots=True)
class Reading:
    """A Node as a peer: its leases by IP version. Neither leases nor `unread`: it is none."""

    leases: Mapping[int, Lease] = field(default_factory=dict)

    unread: frozenset[int] = frozenset()
    """IP versions of which nothing can be said now, so that what was known stands."""

    problem: str = ""
    """What is wrong with the Node, if anything."""

    foreign: str = ""
    """The backend of a node that runs flannel but not vxlan."""


def read(node: object, rules: Rules) -> Reading:
    """What `node` is to us; never raises."""
    names, texts = rules.names, annotations_of(node)
    if texts.get(names.managed) != "true":
        return Reading()
    versions = frozenset(rules.networks)
    kind = texts.get(names.backend_type, "")
    if not kind:
        return Reading(unread=versions, problem=f"{names.backend_type}: missing")
    if kind != BACKEND:
        return Reading(foreign=shown(kind))
    try:
        subnets = pod_subnets(node)
    except ValueError as exc:
        return Reading(unread=versions, problem=str(exc))
    leases: dict[int, Lease] = {}
    problems: list[str] = []
    for version in sorted(versions):
        try:
            lease = _lease(texts, subnets.get(version), version, rules, problems)
        except ValueError as exc:
            problems.append(str(exc))
        else:
            if lease is not None:
                leases[version] = lease
    return Reading(leases, versions - leases.keys(), "; ".join(problems))


def _lease(
    texts: Mapping[str, str], subnet: Subnet | None, version: int, rules: Rules, problems: list[str]
) -> Lease | None:
    """The lease of one IP version; None: the peer has no MAC yet. ValueError, or a note where the lease stands."""
    names = rules.names.families[version]
    if subnet is None:
        raise ValueError(f"it has no IPv{version} podCIDR")
    _check_place(subnet, rules)
    address = _parsed(texts, names.public_ip, lambda text: parse_address(text, version))
    vni, mac = _parsed(texts, names.data, parse_data)
    if mac is None:
        return None
    if vni != rules.vni:
        problems.append(f"{names.data}: VNI {shown(vni)} is not the network's {rules.vni}: it drops our frames")
    return Lease(subnet, Vtep(address, mac))


def _check_place(subnet: Subnet, rules: Rules) -> None:
    network = rules.networks[subnet.version]
    if subnet.network_address not in network or subnet.prefixlen < network.prefixlen:
        raise ValueError(f"podCIDR {subnet} lies outside the network {network}")
    for own in rules.own:
        if own.version == subnet.version and own.overlaps(subnet):
            raise ValueError(f"podCIDR {subnet} overlaps this node's {own}")


def _parsed(texts: Mapping[str, str], key: str, parse: Callable[[str], T]) -> T:
    if key not in texts:
        raise ValueError(f"{key}: missing")
    try:
        return parse(texts[key])
    except ValueError as exc:
        raise ValueError(f"{key}: {exc}") from None


class View:
    """The peers as one watch has seen them; take() says what is new. `own` is this node's name."""

    def __init__(self, own: str) -> None:
        self.problems: dict[str, str] = {}
        """What is wrong with whom."""

        self.foreign: dict[str, str] = {}
        """Who runs which other backend."""

        self._own = own
        self._nodes: dict[str, Mapping[int, Lease]] = {}
        self._claims: dict[Subnet, dict[str, Lease]] = {}  # by the names of those who have it
        self._shown: dict[Subnet, Lease] = {}
        self._dirty: set[Subnet] = set()
        self._listed = False  # all Nodes have been seen at least once
        self._whole = False  # a Snapshot is due
        self._first = True

    @property
    def leases(self) -> frozenset[Lease]:
        """All claims, those of several nodes on one subnet too."""
        return frozenset(lease for leases in self._nodes.values() for lease in leases.values())

    def put(self, node: object, rules: Rules) -> None:
        """A Node is there, or has changed."""
        name = name_of(node)
        if name == self._own:
            return
        reading = read(node, rules)
        known = self._nodes.get(name, {})
        kept = {version: known[version] for version in reading.unread if version in known}
        self._set(name, {**kept, **reading.leases}, reading)

    def remove(self, name: str) -> None:
        """A Node is gone."""
        self._set(name, {}, Reading())

    def complete(self, names: AbstractSet[str]) -> None:
        """All Nodes have been put, and there are no others than `names`."""
        for name in (self._nodes.keys() | self.problems.keys() | self.foreign.keys()) - names:
            self.remove(name)
        self._listed = self._whole = True

    def take(self) -> Snapshot | Delta | None:
        """What changed since the last call: a Snapshot after complete(), the first even if nobody is there."""
        if not self._listed:
            return None
        added, removed = set(), set()
        for subnet in self._dirty:
            claims = self._claims.get(subnet)
            # Two claims on one subnet: every node makes the same choice, whatever came first.
            lease = min(claims.values(), key=lambda claim: claim.vtep.mac) if claims else None
            if lease == self._shown.get(subnet):
                continue
            if lease is None:
                del self._shown[subnet]
                removed.add(subnet)
            else:
                self._shown[subnet] = lease
                added.add(lease)
        self._dirty.clear()
        whole, self._whole = self._whole, False
        first, self._first = self._first, False
        if whole and (first or added or removed):
            return Snapshot(frozenset(self._shown.values()))
        return Delta(frozenset(added), frozenset(removed)) if added or removed else None

    def _set(self, name: str, leases: Mapping[int, Lease], reading: Reading) -> None:
        for texts, text in ((self.problems, reading.problem), (self.foreign, reading.foreign)):
            if text:
                texts[name] = text
            else:
                texts.pop(name, None)
        old = self._nodes.pop(name, {})
        if leases:
            self._nodes[name] = leases
        if leases == old:
            return
        for lease in old.values():
            self._dirty.add(lease.subnet)
            claims = self._claims[lease.subnet]
            del claims[name]
            if not claims:
                del self._claims[lease.subnet]
        for lease in leases.values():
            self._dirty.add(lease.subnet)
            self._claims.setdefault(lease.subnet, {})[name] = lease
