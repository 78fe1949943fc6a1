"""Whose datagrams the kernel lets through to a plane's sockets, where `security.input_filter` has it ask."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack

import structlog

from vxland.config import Settings
from vxland.firewall.input_filter import InputFilter, remove_tables
from vxland.firewall.programs import FirewallPrograms
from vxland.forwarding.workers import Workers
from vxland.kernel.bpf import MAX_INSTRUCTIONS, build_filter
from vxland.model.lease import Address, Subnet

log = structlog.get_logger()


class SourceFilter:
    """Before the sockets of `workers`, which are bound to `address`. Open for all until admit() is called."""

    def __init__(self, settings: Settings, address: Address, workers: Workers) -> None:
        self._settings = settings
        self._workers = workers
        self._error: str | None = None  # before the first program
        self.table: InputFilter | None = None
        """What has to be kept in nftables; None where nothing has."""
        if settings.security.input_filter == "nftables":
            port, resync_s = settings.overlay.port, settings.firewall.resync_s
            self.table = InputFilter(FirewallPrograms(), settings.device, address, port, resync_s)

    @property
    def problem(self) -> str:
        """Why the wanted filter may not be in force; empty where it is, or none is wanted."""
        return (self._error or "") if self.table is None else self.table.error

    @property
    def dropped(self) -> int | None:
        """Strangers' datagrams that nftables has dropped; None where it has no part in it."""
        return None if self.table is None else self.table.dropped

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Remove what an earlier run may have left that this one does not replace, as it keeps out new nodes."""
        if self._settings.security.input_filter != "bpf":
            self._workers.set_filter(None)
        if self.table is None:
            await remove_tables(FirewallPrograms(), self._settings.device)
        else:
            stack.push_async_callback(self.table.remove)

    def cover(self, public: Address | None) -> None:
        """Keep strangers from this address too, at which the workers receive besides; None: from no other."""
        if self.table is not None:
            self.table.cover(public)

    def admit(self, sources: AbstractSet[Subnet]) -> None:
        """Have the kernel drop what comes from others, if that is wanted. What fails is logged once, and admits all."""
        if self.table is not None:
            self.table.set_sources(sources)
        if self._settings.security.input_filter != "bpf":
            return
        error, program = "", build_filter(sources)
        try:
            self._workers.set_filter(program)
        except OSError as exc:
            error = f"the kernel refuses a filter for {len(sources)} sources: {exc.strerror}"
        if program is None:
            error = f"{len(sources)} sources do not fit into the {MAX_INSTRUCTIONS} instructions of a socket filter"
        if error and not self._error:
            remedy = "raise net.core.optmem_max if memory is short, or write security.input_filter: nftables"
            log.warning("input_filter_failed", error=error, remedy=remedy)
        if not error and self._error != "":
            log.info("input_filter_set", sources=len(sources))
        self._error = error
