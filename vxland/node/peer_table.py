"""The leases of a plane, their owners, and the lookup table made from them."""

from __future__ import annotations

from collections.abc import Generator

from vxland.datapath.owners import OwnerChange, Owners
from vxland.datapath.table import Table
from vxland.model.lease import Change


class PeerTable:
    """Peers whose VTEPs are of the IP version `outer`, at UDP port `port`."""

    def __init__(self, port: int, outer: int) -> None:
        self.owners = Owners()
        self.table = Table(port, outer)
        self._empty = port, outer

    def changing(self, change: Change) -> Generator[None, None, OwnerChange]:
        """Apply a change of leases, with the sources that the settings add; it ends before the next one.

        The table is replaced at the end.
        """
        owned = yield from self.owners.changing(change.removed, change.added)
        table = yield from self.table.changing(owned)
        if table.is_sparse:
            everything = yield from self.owners.whole()
            table = yield from Table(*self._empty).changing(everything)
        self.table = table
        return owned
