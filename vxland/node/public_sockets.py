"""Receiving sockets at the address that peers send to, where that is not the plane's own VTEP address."""

from __future__ import annotations

import asyncio

from vxland.forwarding.io.fdstore import TakeFd, nothing
from vxland.forwarding.workers import Workers
from vxland.model.lease import Address
from vxland.netlink.client import Netlink
from vxland.netlink.port_owner import unopened
from vxland.node.source_filter import SourceFilter
from vxland.ops import notify as manager


class PublicSockets:
    """Public receiving sockets of `workers` at UDP port `port`; `take` returns those of an earlier process."""

    def __init__(
        self, workers: Workers, source_filter: SourceFilter, netlink: Netlink, port: int, take: TakeFd
    ) -> None:
        self._workers = workers
        self._source_filter = source_filter
        self._netlink = netlink
        self._port = port
        self._take: TakeFd | None = take

    def opened(self) -> None:
        """Take over no more sockets: those of later addresses are new, and stored with the service manager at once."""
        self._take = None

    async def serve(self, public: Address | None) -> None:
        """Receive at this address, and at no other public one; None: at none. StartError."""
        before = self._descriptors()
        try:
            await self._workers.serve(public, self._take or nothing)
        except OSError as exc:
            raise await unopened(self._netlink, self._port, exc) from exc
        self._source_filter.cover(public)
        if self._take is None and manager.wanted():
            await asyncio.to_thread(manager.forget, list(before))
            manager.store(self._descriptors())

    def _descriptors(self) -> dict[str, int]:
        return {name: fd for name, fd in self._workers.descriptors.items() if name.startswith("public/")}
