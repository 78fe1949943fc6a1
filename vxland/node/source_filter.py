"""The nftables table in front of a plane's sockets, if `security.input_filter` asks for one."""

from __future__ import annotations

from contextlib import AsyncExitStack

from vxland.config import Settings
from vxland.datapath.owners import OwnerChange
from vxland.firewall.input_filter import InputFilter, remove_tables
from vxland.firewall.programs import FirewallPrograms
from vxland.model.lease import Address
from vxland.model.slices import in_slices


class SourceFilter:
    """Drops datagrams of unknown senders to `address`, once follow() has been called; open to all before."""

    def __init__(self, settings: Settings, address: Address) -> None:
        self._device = settings.device
        self.table: InputFilter | None = None
        """The table to keep in nftables; None without a filter."""
        if settings.security.input_filter == "nftables":
            port, resync_s = settings.overlay.port, settings.firewall.resync_s
            self.table = InputFilter(FirewallPrograms(), settings.device, address, port, resync_s)

    @property
    def problem(self) -> str:
        """The reason why the filter may not be in force; empty if it is, or without one."""
        return "" if self.table is None else self.table.error

    @property
    def dropped(self) -> int | None:
        """Datagrams of unknown senders that nftables has dropped; None without a filter."""
        return None if self.table is None else self.table.dropped

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Remove an earlier run's table if this run does not replace it: it would keep out new nodes."""
        if self.table is None:
            await remove_tables(FirewallPrograms(), self._device)
        else:
            stack.push_async_callback(self.table.remove)

    def cover(self, public: Address | None) -> None:
        """Filter at this second receiving address too, instead of the previous one; None: at no second address."""
        if self.table is not None:
            self.table.cover(public)

    async def follow(self, change: OwnerChange) -> None:
        """Drop what comes from sources that nobody owns. The table logs a failure once, and then admits all."""
        if self.table is not None:
            withdrawn = (source for source, owner in change.sources.items() if owner is None)
            admitted = (source for source, owner in change.sources.items() if owner is not None)
            await in_slices(self.table.follow(withdrawn, admitted))
