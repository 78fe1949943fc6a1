"""The lookup table of a plane, built from the leases of its IP family."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from vxland.datapath.table import Table
from vxland.model.lease import Change, Lease

_INLINE = 1000
"""Leases whose table is built on the event loop: that takes 20 ms. A larger table is built on a thread, so that the
loop does other work meanwhile: 16,000 leases take half a second."""


@dataclass(frozen=True, slots=True)
class PeerTable:
    """Leases of one plane, with the sources that the settings add, and the table made from them."""

    leases: frozenset[Lease]
    table: Table


class PeerTableBuilder:
    """Builds tables for VTEPs at UDP port `port`."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def build(self, change: Change, before: PeerTable | None) -> PeerTable:
        """Return the table after a change of the leases of `before`; None: there were none."""
        leases = change.added if before is None else (before.leases - change.removed) | change.added
        if len(leases) > _INLINE:
            return await asyncio.to_thread(self._build, leases)
        return self._build(leases)

    def _build(self, leases: frozenset[Lease]) -> PeerTable:
        return PeerTable(leases, Table(leases, self._port))
