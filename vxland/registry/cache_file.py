"""The file that caches the store's last state, so that this node can start while the store is unavailable.

It names the time until which it may be used: as long as no other node can hold this node's subnets, and a day at most.
It is parsed as untrusted input, by the rules of a configuration file and of net-conf.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from vxland.config import PeerSettings
from vxland.config.section import Section
from vxland.config.values import HostValue
from vxland.model.atomic_write import atomic_write
from vxland.model.errors import ConfigError, VxlandError
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep
from vxland.registry import net_conf
from vxland.registry.entries import Own
from vxland.registry.net_conf import NetConf

MAX_LEN: Final = 16 << 20
"""Bytes; a lease takes 100."""

LIFE_S: Final = 24 * 3600.0
"""Seconds that a file may be used, even if no other node can take this node's subnets."""

_LATEST: Final = 1e11  # the year 5138
_SKEW_S: Final = 60.0  # a clock may be set back a little


class CacheFileError(VxlandError):
    """The file cannot be used; the text is the reason."""


@dataclass(frozen=True, slots=True)
class CachedState:
    """The store's state at `as_of`. Times are seconds of time.time(); mappings are by IP version, 4 or 6."""

    conf: NetConf
    addresses: Mapping[int, Address]
    """As Recall.addresses."""
    advertised: Mapping[int, Address]
    """The node's own VTEP addresses. Its leases may have others: see `overwrites`."""
    own: frozenset[Lease]
    peers: Collection[Lease]
    as_of: float
    good_until: float

    @property
    def date(self) -> str:
        """`as_of` in local time, for people."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.as_of))

    @property
    def macs(self) -> dict[int, Mac]:
        """The MACs of this node's VTEPs."""
        return {lease.subnet.version: lease.vtep.mac for lease in self.own}

    @property
    def overwrites(self) -> dict[int, Address]:
        """As Recall.overwrites: published addresses that are not the node's own."""
        published = {lease.subnet.version: lease.vtep.address for lease in self.own}
        return {version: address for version, address in published.items() if address != self.advertised[version]}

    def own_with(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Return this node's leases as the store would have them with these VTEPs, overwrites included."""
        overwrites = self.overwrites

        def published(lease: Lease) -> Vtep:
            version = lease.subnet.version
            vtep = vteps.get(version, lease.vtep)
            return replace(vtep, address=overwrites.get(version, vtep.address))

        return frozenset(Lease(lease.subnet, published(lease)) for lease in self.own)


class _File(Section):
    """The JSON object. Leases are written as peers are in a configuration file."""

    version: Literal[1]
    source: str
    said_at: float = Field(gt=0, lt=_LATEST)
    good_until: float = Field(gt=0, lt=_LATEST)
    network: str
    addresses: tuple[HostValue, ...]
    advertised: tuple[HostValue, ...] | None = None  # files of earlier versions have none: no overwrites
    own: tuple[PeerSettings, ...]
    peers: tuple[PeerSettings, ...]


def text_of(state: CachedState, source: str) -> Generator[None, None, str]:
    """Return the text of a file; `source` names the store. Work for in_slices(): 5,000 leases take 20 ms."""
    head = {
        "version": 1,
        "source": source,
        "said_at": state.as_of,
        "good_until": state.good_until,
        "network": state.conf.text,
        "addresses": [str(address) for address in state.addresses.values()],
        "advertised": [str(address) for address in state.advertised.values()],
        "own": [_as_peer(lease) for lease in state.own],
    }
    peers = []
    for lease in state.peers:
        peers.append(json.dumps(_as_peer(lease)))
        yield
    listed = ",\n".join(peers)
    return f'{json.dumps(head, indent=0).removesuffix("}")},"peers": [\n{listed}\n]}}'


def save(path: Path, text: str) -> None:
    """Replace the file atomically. OSError."""
    atomic_write(path, text, 0o600)


def load(path: Path, source: str, *, pools: bool) -> CachedState | None:
    """Return the file's state of the store `source`, or None if there is no file. `pools` is net_conf.parse()'s.

    CacheFileError if it is damaged, too old, or of another store.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            raw = file.read(MAX_LEN + 1)
    except OSError as exc:
        raise CacheFileError(exc.strerror or str(exc)) from exc
    if len(raw) > MAX_LEN:
        raise CacheFileError(f"it has more than {MAX_LEN >> 20} MiB")
    try:
        found = _File.model_validate_json(raw)
        if found.source != source:
            raise CacheFileError(f"it is of {found.source[:200]!r}")
        own = _leases(found.own)
        published = [lease.vtep.address for lease in own]
        state = CachedState(
            net_conf.parse(found.network, "network", pools=pools),
            _by_version(found.addresses),
            _by_version(published if found.advertised is None else found.advertised),
            own,
            _leases(found.peers),
            found.said_at,
            min(found.good_until, found.said_at + LIFE_S),
        )
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise CacheFileError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from exc
    except ConfigError as exc:
        raise CacheFileError(str(exc)) from exc
    _check(state)
    return _without_claims_on_own(state)


def _check(state: CachedState) -> None:
    now = time.time()
    if state.as_of > now + _SKEW_S:
        raise CacheFileError(f"it is of {state.date}, which is yet to come: is the clock right?")
    if state.good_until <= now:
        raise CacheFileError(f"it is of {state.date}, and another node may have this one's subnet by now")
    versions = sorted(state.conf.by_version)
    if sorted(lease.subnet.version for lease in state.own) != versions:
        raise CacheFileError("own: there is not one lease for each network")
    if sorted(state.advertised) != versions:
        raise CacheFileError("advertised: there is not one address for each network")
    for lease in (*state.own, *state.peers):
        if not state.conf.contains(lease.subnet):
            raise CacheFileError(f"{lease.subnet} lies outside the network")


def _without_claims_on_own(state: CachedState) -> CachedState:
    """Leave out peers that would draw this node's traffic away."""
    own = Own(leases=state.own)
    return replace(state, peers=frozenset(lease for lease in state.peers if not own.refusal(lease)))


def _as_peer(lease: Lease) -> dict[str, Any]:
    peer: dict[str, Any] = {"subnet": str(lease.subnet), "vtep": str(lease.vtep.address), "mac": str(lease.vtep.mac)}
    return peer | ({"sources": [str(source) for source in lease.sources]} if lease.sources else {})


def _leases(peers: Collection[PeerSettings]) -> frozenset[Lease]:
    def lease(subnet: Subnet, peer: PeerSettings) -> Lease:
        return Lease(subnet, Vtep(peer.vtep, peer.mac), peer.sources)

    return frozenset(lease(subnet, peer) for peer in peers for subnet in peer.subnet)


def _by_version(addresses: Collection[Address]) -> dict[int, Address]:
    return {address.version: address for address in addresses}
