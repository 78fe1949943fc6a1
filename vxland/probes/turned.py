"""Sockets of `vxlandctl test --dnat`, whose connections to this node's own address nat rules turn to peers."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress

from vxland.firewall.nat_test import NatRules, Nft
from vxland.model.errors import VxlandError
from vxland.model.lease import Address, Lease


class TurnedSockets:
    """A bound socket for each peer of a batch, and the rules for them, from open() to close()."""

    def __init__(self, nft: Nft, device: str, bases: Mapping[int, Address], port: int) -> None:
        self._bases = bases
        self._rules = {version: NatRules(nft, device, own, port) for version, own in bases.items()}
        self._sockets: dict[Lease, socket.socket] = {}
        self._refused: dict[int, str] = {}

    async def open(self, leases: Iterable[Lease]) -> None:
        """Bind the sockets and write the rules."""
        for version, own in self._bases.items():
            peers: dict[int, Address] = {}
            for lease in leases:
                if lease.subnet.version != version:
                    continue
                try:
                    sock = self._sockets[lease] = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
                    sock.bind((str(own), 0))
                except OSError as exc:
                    self._refused[version] = exc.strerror or str(exc)
                    break
                peers[int(sock.getsockname()[1])] = lease.subnet.network_address
            if peers and (why := await self._rules[version].set(peers)):
                self._refused[version] = f"no nat rule can be set: {why}"

    def why_not(self, lease: Lease) -> str:
        """Return the reason why a peer cannot be tested; empty if it can."""
        return self._refused.get(lease.subnet.version, "" if lease in self._sockets else "the device has no address")

    def socket_of(self, lease: Lease) -> socket.socket | None:
        """Return the socket of a peer; None if it cannot be tested."""
        return None if self.why_not(lease) else self._sockets[lease]

    async def close(self) -> None:
        """Close the sockets, and remove the rules."""
        for sock in self._sockets.values():
            sock.close()
        for version in {lease.subnet.version for lease in self._sockets}:
            with suppress(VxlandError):  # as when they could not be set
                await self._rules[version].remove()
