"""What a store said last, in a file of this node, so that it can start while the store is away.

The file says until when it may be used: as long as nobody else can hold this node's subnets, and a day at most. It is
read as what a stranger wrote, by the rules of a configuration file and of net-conf.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from vxland.config import PeerSettings
from vxland.config.section import Section
from vxland.config.values import HostValue
from vxland.model.atomic_write import atomic_write
from vxland.model.errors import ConfigError, VxlandError
from vxland.model.lease import Address, Lease, Subnet, Vtep
from vxland.registry import net_conf
from vxland.registry.entries import Own
from vxland.registry.net_conf import NetConf

MAX_LEN: Final = 16 << 20  # octets; a lease takes 100
LIFE_S: Final = 24 * 3600.0
_LATEST: Final = 1e11  # the year 5138
_SKEW_S: Final = 60.0  # a clock may be set back a little


class CacheFileError(VxlandError):
    """The file cannot be used; the reason."""


@dataclass(frozen=True, slots=True)
class CachedState:
    """What is remembered. `said_at` and `good_until` are seconds of time.time()."""

    conf: NetConf
    addresses: Mapping[int, Address]
    """As Recall.addresses."""
    own: frozenset[Lease]
    peers: frozenset[Lease]
    said_at: float
    good_until: float

    @property
    def age(self) -> str:
        """When the store said so, for people."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.said_at))


class _File(Section):
    """The JSON object; leases are written as peers are in a configuration file."""

    version: Literal[1]
    source: str
    said_at: float = Field(gt=0, lt=_LATEST)
    good_until: float = Field(gt=0, lt=_LATEST)
    network: str
    addresses: tuple[HostValue, ...]
    own: tuple[PeerSettings, ...]
    peers: tuple[PeerSettings, ...]


def save(path: Path, memory: CachedState, source: str) -> None:
    """Replace the file, whole or not at all; `source` names the store. OSError."""
    found = {
        "version": 1,
        "source": source,
        "said_at": memory.said_at,
        "good_until": memory.good_until,
        "network": memory.conf.text,
        "addresses": [str(address) for address in memory.addresses.values()],
        "own": _written(memory.own),
        "peers": _written(memory.peers),
    }
    atomic_write(path, json.dumps(found, indent=0), 0o600)


def load(path: Path, source: str, *, pools: bool) -> CachedState | None:
    """What the file says of the store `source`; None where there is none. `pools` is net_conf.parse()'s.

    MemoryFileError where it is damaged, too old, or of something else.
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
        memory = CachedState(
            net_conf.parse(found.network, "network", pools=pools),
            {address.version: address for address in found.addresses},
            _read(found.own),
            _read(found.peers),
            found.said_at,
            min(found.good_until, found.said_at + LIFE_S),
        )
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise CacheFileError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from exc
    except ConfigError as exc:
        raise CacheFileError(str(exc)) from exc
    _check(memory)
    return _without_own(memory)


def _check(memory: CachedState) -> None:
    now = time.time()
    if memory.said_at > now + _SKEW_S:
        raise CacheFileError(f"it is of {memory.age}, which is yet to come: is the clock right?")
    if memory.good_until <= now:
        raise CacheFileError(f"it is of {memory.age}, and another node may have this one's subnet by now")
    if sorted(lease.subnet.version for lease in memory.own) != sorted(memory.conf.by_version):
        raise CacheFileError("own: there is not one lease for each network")
    for lease in memory.own | memory.peers:
        if not memory.conf.contains(lease.subnet):
            raise CacheFileError(f"{lease.subnet} lies outside the network")


def _without_own(memory: CachedState) -> CachedState:
    """No peer may draw this node's traffic away, whoever wrote the file."""
    own = Own(leases=memory.own)
    peers = frozenset(lease for lease in memory.peers if not own.refusal(lease))
    return CachedState(memory.conf, memory.addresses, memory.own, peers, memory.said_at, memory.good_until)


def _written(leases: Collection[Lease]) -> list[dict[str, str]]:
    return [
        {"subnet": str(lease.subnet), "vtep": str(lease.vtep.address), "mac": str(lease.vtep.mac)} for lease in leases
    ]


def _read(peers: tuple[PeerSettings, ...]) -> frozenset[Lease]:
    def of(subnet: Subnet, peer: PeerSettings) -> Lease:
        return Lease(subnet, Vtep(peer.vtep, peer.mac))

    return frozenset(of(subnet, peer) for peer in peers for subnet in peer.subnet)
