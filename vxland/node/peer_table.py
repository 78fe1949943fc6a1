"""The lookup table of a plane, built from the leases of its IP family."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from vxland.datapath.table import Table
from vxland.model.lease import Address, Lease, Subnet

SourcesByVtep = Mapping[Address, tuple[Subnet, ...]]
"""Prefixes that a VTEP's datagrams may come from, beside those of its lease: it is behind NAT."""

_INLINE = 1000
"""Leases whose table is built on the event loop: that takes 20 ms. A larger table is built on a thread, so that the
loop does other work meanwhile: 16,000 leases take half a second."""


@dataclass(frozen=True, slots=True)
class PeerTable:
    """Leases of one plane, and the table made from them and `sources`."""

    leases: frozenset[Lease]
    sources: SourcesByVtep
    table: Table
    admitted: frozenset[Lease]
    """The same leases, with the sources that the settings add."""


class PeerTableBuilder:
    """Builds tables for subnets of the IP versions `versions` over VTEPs of the version `outer`, at UDP port `port`."""

    def __init__(self, versions: Collection[int], outer: int, port: int) -> None:
        self._versions = versions
        self._outer = outer
        self._port = port

    async def build(
        self, leases: Iterable[Lease], sources: SourcesByVtep, before: PeerTable | None
    ) -> PeerTable | None:
        """Return the table of these leases of all planes; None if it would equal `before`."""
        held = tuple(leases)
        if len(held) > _INLINE:
            return await asyncio.to_thread(self._build, held, sources, before)
        return self._build(held, sources, before)

    def _build(self, leases: Iterable[Lease], sources: SourcesByVtep, before: PeerTable | None) -> PeerTable | None:
        mine = frozenset(
            lease
            for lease in leases
            if lease.subnet.version in self._versions and lease.vtep.address.version == self._outer
        )
        if before is not None and (mine, sources) == (before.leases, before.sources):
            return None
        admitted = frozenset(
            replace(lease, sources=lease.sources + sources.get(lease.vtep.address, ())) for lease in mine
        )
        return PeerTable(mine, sources, Table(admitted, self._port), admitted)
