"""The registry of a configuration file: its peers are those of the settings, and change when these are reloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping

from vxland.config import Settings
from vxland.model.lease import Address, Delta, Lease, RegistryHealth, Snapshot, Vtep
from vxland.registry.net_conf import NetConf
from vxland.registry.protocol import Recall


class StaticRegistry:
    """A Registry over `settings`. Used from one event loop; the file itself is read elsewhere."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._published: frozenset[Lease] = frozenset()
        self._changed = asyncio.Event()

    @property
    def source(self) -> str:
        """The file, whose path only its reader knows."""
        return "the configuration file"

    @property
    def health(self) -> RegistryHealth:
        """No error: the file was checked before."""
        return RegistryHealth()

    @property
    def published(self) -> frozenset[Lease]:
        """The leases this node holds; empty before publish()."""
        return self._published

    @property
    def ends(self) -> float:
        """Never: no other node can take the file's subnets."""
        return float("inf")

    async def net_conf(self) -> NetConf | None:
        """Return None: the settings define the network."""
        return None

    async def recall(self, advertised: Mapping[int, Address]) -> Recall:  # noqa: ARG002  (the Protocol's)
        """Return an empty Recall: the kernel and the machine's id keep the MAC."""
        return Recall()

    async def publish(self, vteps: Mapping[int, Vtep]) -> frozenset[Lease]:
        """Return the leases of the file's own subnets. Peers have them in their own files."""
        self._published = frozenset(Lease(subnet, vteps[subnet.version]) for subnet in self._settings.own_subnets)
        return self._published

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Do nothing: the file's peers were checked when it was read."""

    async def announce(self) -> None:
        """Do nothing: there is no store."""

    async def pod_names(self, addresses: Collection[Address]) -> Mapping[Address, str]:  # noqa: ARG002  (the Protocol's)
        """Return nothing: the file has no pods."""
        return {}

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    async def watch(self) -> AsyncGenerator[Snapshot | Delta]:
        """Yield a Snapshot of the file's peers at once, and one after each reload; reloads meanwhile are joined."""
        while True:
            changed = self._changed  # taken before the peers, or a reload while the reader works would be missed
            yield Snapshot(self._settings.peers)
            await changed.wait()

    def reload(self, settings: Settings) -> Snapshot:
        """Take and return the peers of `settings`. The caller refuses changes that need a restart before."""
        self._settings = settings
        self._changed.set()
        self._changed = asyncio.Event()
        return Snapshot(settings.peers)
